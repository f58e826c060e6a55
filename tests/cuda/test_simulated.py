"""Everything that needs a GPU, run in Numba's simulator: it has to be asked for before Numba is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.name for path in (Path(__file__).parent / "device").glob("test_*.py"))
pytest.importorskip("numba.cuda", reason='needs numba-cuda: pip install "labnet[cuda]"')


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FILES)
def test_in_the_simulator(name):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/cuda/device/{name}"]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-20_000:]}{result.stderr[-2_000:]}"
