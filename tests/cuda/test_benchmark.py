"""What is to be run on a machine with a GPU runs at all: in the simulator, with little else than NumPy and Numba."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("numba.cuda", reason='needs numba-cuda: pip install "labnet[cuda]"')


@pytest.mark.timeout(600)
def test_the_benchmark_runs_to_its_end(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--sim", "--check", "--bench"]
    environment = {**os.environ, "OUT": str(tmp_path), "LABNET_CACHE": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5_000:] + result.stderr[-5_000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["simulated"]
    assert not [name for name, row in found["bench"].items() if row.get("ratio")]
    assert found["check"]["test_matmul.py"]["code"] == 0
