"""The decoders as a target of atheris, which looks for inputs that reach new code.

pip install atheris && python -m tests.fuzz -max_total_time=60
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["labnet.codec", "labnet.npy", "labnet.wire", "labnet.network.protocol.inference_bodies"]
):
    from tests.fuzz.decoders import one_input, seeds

with tempfile.TemporaryDirectory() as corpus:
    for number, seed in enumerate(seeds()):
        Path(corpus, str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, corpus], one_input)
    atheris.Fuzz()
