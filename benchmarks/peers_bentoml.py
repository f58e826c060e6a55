"""The models of ``benchmarks/peers.py`` in BentoML: ``peers_bentoml.py PORT``.

An array travels as JSON, or its bytes as a file; BentoML takes its binary form of arrays only from its own workers.
"""

import contextlib
import http.client
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
import torch
from bentoml.validators import DType

Array = Annotated[np.ndarray, DType("float32")]


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Networks:
    """Returns the numbers that it is given, or the scores of 784-256-10."""

    def __init__(self) -> None:
        from interop import of_torch

        torch.set_num_threads(1)
        self.module = of_torch()

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the scores of a batch."""
        with torch.no_grad():
            return self.module(torch.from_numpy(x)).numpy()

    @bentoml.api
    async def identity(self, x: Array, /) -> np.ndarray:
        """Touch every number."""
        return x * np.float32(1)

    @bentoml.api
    async def network(self, x: Array, /) -> np.ndarray:
        """Return the scores of a batch."""
        return self.scores(x)

    @bentoml.api
    async def identity_of_file(self, x: Path, /) -> np.ndarray:
        """Touch every number."""
        return np.fromfile(x, "float32") * np.float32(1)

    @bentoml.api
    async def network_of_file(self, x: Path, /) -> np.ndarray:
        """Return the scores of a batch."""
        return self.scores(np.fromfile(x, "float32").reshape(-1, 784))


def ready(port: int) -> bool:
    """Return whether the server answers."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    return False


if __name__ == "__main__":
    options = ["--host", "127.0.0.1", "--port", sys.argv[1], "--working-dir", str(Path(__file__).parent), "-q"]
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", "peers_bentoml:Networks", *options],
            env=os.environ | {"BENTOML_HOME": home},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None and not ready(int(sys.argv[1])):
            time.sleep(0.1)
        print("ready", flush=True)
        sys.stdin.read()
        process.terminate()  # it ends its workers, which are in groups of their own
        process.wait()
