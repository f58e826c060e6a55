"""On a machine without a GPU: nothing of CUDA is imported, and the error says what is missing and the way out."""

import ctypes
import os
import subprocess
import sys

import pytest

#: What a machine with a GPU may lack: tensors, modules and the registry need NumPy and Numba alone.
ABSENT = (
    *("tornado", "msgspec", "IPython", "ipywidgets", "anywidget", "traitlets", "hdrh", "platformdirs", "safetensors"),
    *("threadpoolctl", "tqdm", "matplotlib", "psutil", "jupyter_server_proxy", "sklearn", "torch", "prometheus_client"),
)
BLOCKING = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def run(code, tmp_path, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    environment = {**kept, "LABNET_CACHE": str(tmp_path), **environment}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
@pytest.mark.parametrize(
    "call", ['ln.ones(2, device="cuda")', 'ln.ones(2).to("cuda")', 'ln.nn.Linear(2, 1).to("cuda")']
)
def test_the_error_names_the_driver_and_the_way_out(call, tmp_path):
    code = f"""
import labnet as ln
for _ in range(2):
    try:
        {call}
    except ln.errors.DeviceError as error:
        print(error)
"""
    first, second = run(code, tmp_path).splitlines()
    assert first == second
    for words in ("'cuda' is not available", "no NVIDIA driver", "libcuda", "NUMBA_ENABLE_CUDASIM=1"):
        assert words in first


def test_tensors_on_the_cpu_import_nothing_of_cuda(tmp_path):
    code = """
import sys, labnet as ln
model = ln.nn.Linear(2, 1)
ln.optim.Adam()(ln.loss.mse(model(ln.ones((3, 2))), ln.ones((3, 1))).backward())
print([name for name in sys.modules if name.startswith(("numba", "labnet.kernels.cuda"))])
"""
    assert run(code, tmp_path).strip() == "[]"


def test_tensors_and_the_registry_need_numpy_and_numba_alone(tmp_path):
    code = f"""{BLOCKING}
import labnet as ln
from labnet.ops.core.registry import REGISTRY
model = ln.nn.Sequential(ln.nn.Linear(2, 3), ln.nn.relu, ln.nn.Linear(3, 2))
optimizer = ln.optim.Adam()
optimizer(ln.loss.cross_entropy(model(ln.ones((3, 2))), ln.asarray([0, 1, 1])).backward())
print(len(REGISTRY) > 100, ln.jit(lambda x: x * 2)(ln.ones(1)).tolist())
"""
    assert run(code, tmp_path) == "True [2.0]\n"


def test_arrays_on_the_gpu_need_numpy_and_numba_alone(tmp_path):
    pytest.importorskip("numba.cuda", reason='needs numba-cuda: pip install "labnet[cuda]"')
    code = f"""{BLOCKING}
import labnet as ln
x = ln.asarray([1.0, 2.0], device="cuda", requires_grad=True)
(x * x).sum().backward()
print(x.grad.tolist())
"""
    assert run(code, tmp_path, NUMBA_ENABLE_CUDASIM="1") == "[2.0, 4.0]\n"


def test_the_simulator_has_to_be_asked_for_before_numba_is_imported(tmp_path):
    pytest.importorskip("numba.cuda", reason='needs numba-cuda: pip install "labnet[cuda]"')
    code = """
import os, numba, labnet as ln
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
try:
    ln.ones(2, device="cuda")
except ln.errors.DeviceError as error:
    print(error)
"""
    assert "before Python starts" in run(code, tmp_path)


def test_kernels_compile_beside_a_numpy_without_row_stack_and_leave_it_without(tmp_path):
    pytest.importorskip("numba.cuda", reason='needs numba-cuda: pip install "labnet[cuda]"')
    code = """
import numpy as np
from labnet.kernels.cuda.driver.compiler import compiled
vars(np).pop("row_stack", None)
np.__all__ = [name for name in np.__all__ if name != "row_stack"]
source = "def kernel(n, x):\\n    if i8(cuda.grid(1)) < n:\\n        x[0] = f4(1)\\n"
print(compiled(source, ["i8", "pf4"], (9, 0), keep=False).entry in dir(np), "row_stack" in dir(np))
"""
    assert run(code, tmp_path) == "False False\n"
