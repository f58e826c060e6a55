"""Kernels compile for GPUs that are not here: no doubles unasked, nothing spilled, arguments in place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Of large angles Numba's library takes the remainder in double precision.
DOUBLES = {"sin float32"}
pytest.importorskip("numba.cuda", reason='needs numba-cuda: pip install "labnet[cuda]"')


@pytest.fixture(scope="module")
def kernels():
    """What is known of every kernel of the catalogue, which a process of its own compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    command = [sys.executable, "-m", "tests.cuda.ptx", "--json"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-5_000:]
    return json.loads(result.stdout)


def each(kernels):
    """Return a name, the kernel and what is known of it, for every kind of GPU."""
    found = []
    for name, kernel in kernels.items():
        found += [(f"{name} for {key}", kernel, kernel[key]) for key in kernel if key[:3] == "sm_"]
    return found


@pytest.mark.timeout(900)
def test_every_kernel_compiles_for_both_kinds_of_gpu(kernels):
    assert len(kernels) > 80
    assert all("sm_90" in found for found in kernels.values())
    assert sum("sm_80" in found for found in kernels.values()) > 20


def test_arguments_are_packed_as_kernels_expect_them(kernels):
    wrong = [name for name, found, kernel in each(kernels) if kernel["parameters"] != found["packed"]]
    assert not wrong


def test_nothing_computes_in_double_precision_unasked(kernels):
    doubled = {
        name
        for name, found in kernels.items()
        if not any("f8" in kind for kind in found["types"]) and found["sm_90"]["doubles"]
    }
    assert doubled == DOUBLES


def test_kernels_call_no_undefined_function(kernels):
    assert not [name for name, _, kernel in each(kernels) if kernel["calls"]]


def test_kernels_spill_no_registers(kernels):
    if "spilled" not in next(iter(kernels.values()))["sm_90"]:
        pytest.skip("ptxas was not found: pip install nvidia-cuda-nvcc")
    assert not [name for name, _, kernel in each(kernels) if kernel["spilled"]]


def test_kernels_leave_room_for_many_threads_and_blocks(kernels):
    if "registers" not in next(iter(kernels.values()))["sm_90"]:
        pytest.skip("ptxas was not found: pip install nvidia-cuda-nvcc")
    for name, _, kernel in each(kernels):
        assert kernel["registers"] <= 255, name
        assert kernel["registers"] * 256 <= 65_536, f"{name}: a block of 256 threads does not fit"
        assert kernel["shared"] <= 48 * 1024, name
