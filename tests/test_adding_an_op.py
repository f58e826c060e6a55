"""One block declares an op. What CONTRIBUTING.md promises of it is checked here with ops of a temporary module."""

import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import labnet as ln
from labnet.ops.core.registry import REGISTRY
from labnet.ops.custom import op_of
from tests.compile.trace import test_registry as compiled
from tests.helpers.compile import interpreter
from tests.tensors import test_registry as eager

ROOT = Path(ln.__file__).parent.parent
BLOCK = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
NAMES = ("softsign", "root_mean_square")

#: What a process with an emulated GPU does: it runs the PTX of both devices' kernels and compares with the host.
ON_GPU = """
import sys, importlib, numpy as np
from tests.helpers.cuda.emulator import install
install()
sys.path.insert(0, sys.argv[1])
importlib.import_module("toy_ops")
import labnet as ln
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.ops.core.registry import REGISTRY

values = np.linspace(-2, 2, 12).reshape(3, 4).astype("float32")
found = {}
for name in sys.argv[2:]:
    for device in ("cpu", "cuda"):
        x = ln.asarray(values, device=device, requires_grad=True)
        function = REGISTRY[name].function
        before = current_gpu().launches
        out = function(x)
        launches = current_gpu().launches - before
        step = ln.jit(lambda x: ln.grad((function(x) * function(x)).sum(), x))
        found[device] = [t.to("cpu").numpy() for t in (out, ln.grad((out * out).sum(), x), step(x))]
    for one, other in zip(found["cpu"], found["cuda"]):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    print(name, launches)
"""


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a module of the block in CONTRIBUTING.md."""
    path = tmp_path_factory.mktemp("ops")
    (path / "toy_ops.py").write_text(BLOCK[1])
    return path


@pytest.fixture(scope="module", autouse=True)
def toy_ops(folder):
    before = dict(REGISTRY)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("toy_ops")
    finally:
        sys.path.remove(str(folder))
        del sys.modules["toy_ops"]
        for name in REGISTRY.keys() - before.keys():
            if REGISTRY[name].is_method:
                delattr(ln._methods.Methods, name)
            del REGISTRY[name]


@pytest.mark.parametrize("name", NAMES)
def test_values_dtypes_broadcasting_and_gradients_of_two_orders(name):
    op = REGISTRY[name]
    references = {
        "softsign": lambda x: x / (1 + np.abs(x)),
        "root_mean_square": lambda x, axis=-1: np.sqrt((x * x).mean(axis)),
    }
    for sample in op.samples:
        for dtype in op.dtypes:
            arrays = eager.draw(op, sample, dtype)
            expected = references[name](*arrays, **sample.static)
            for out in eager.invoke(op, [ln.asarray(a) for a in arrays], sample.static):
                assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
                np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5)
        eager.test_gradients_match_differences_along_random_directions(op, sample)
        eager.test_second_order_gradients_match_differences_of_the_first(op, sample)


def test_a_scalar_expression_is_its_own_reference():
    for sample in REGISTRY["softsign"].samples:
        eager.test_values_and_dtypes_are_those_of_the_reference(REGISTRY["softsign"], sample)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_code(name, monkeypatch):
    if os.environ.get("LABNET_COMPILED") != "all":
        interpreter.replace_machine_code(monkeypatch)
    compiled.test_values_of_all_samples_and_dtypes_are_the_eager_ones(name)
    compiled.test_gradients_of_all_samples_are_the_eager_ones(name)


def test_compiled_code_of_an_expression_is_fused(toy_ops, monkeypatch):
    interpreter.replace_machine_code(monkeypatch)
    step = ln.jit(lambda x: toy_ops.softsign(x) + 1)
    step(ln.ones(3))
    assert "1 groups" in step.explain()


def test_kernels_of_a_gpu(folder):
    pytest.importorskip("numba.cuda", reason='needs numba-cuda: pip install "labnet[cuda]"')
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_ENABLE_CUDASIM"}
    result = subprocess.run(
        [sys.executable, "-c", ON_GPU, str(folder), *NAMES],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "softsign 1\n" in result.stdout  # one kernel for the whole expression


def test_a_method_where_asked(toy_ops):
    x = ln.asarray([-1.0, 3.0])
    assert x.softsign().tolist() == toy_ops.softsign(x).tolist() == [-0.5, 0.75]
    assert not hasattr(ln.Tensor, "root_mean_square")


def test_statistics(toy_ops):
    x = ln.ones((2, 3), requires_grad=True)
    with ln.stats.collect() as statistics:
        toy_ops.softsign(x).sum().backward()
        toy_ops.root_mean_square(x)
    assert {"softsign", "softsign.backward", "mean", "sqrt"} <= statistics.ops.keys()
    assert statistics.ops["softsign"].count == 1
    assert statistics.ops["softsign"].flops == 6


def test_exports_stub_and_reference_are_generated(toy_ops):
    exports = tool("generate_exports")
    for text in exports.generate().values():
        assert all(f'    "{name}",\n' in text and f"    {name},\n" in text for name in NAMES)
    assert "from toy_ops import (" in exports.generate()[exports.TARGETS[0]]
    assert "    def softsign(self) -> Tensor: ...\n" in tool("generate_stubs").generate()
    reference = tool("generate_reference").generate()
    assert "### ln.softsign(x, /)\n" in reference
    assert "Gradient: yes. dtypes: float32, float64." in reference
    assert "### ln.root_mean_square(x, /, axis=-1)\n" in reference


@pytest.mark.parametrize("name", ["custom-ops.md"])
def test_the_page_on_ops_of_users_runs(name, monkeypatch):
    interpreter.replace_machine_code(monkeypatch)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.S):
        exec(block, names)
    for function in (names["product"], names["scaled_silu"], names["cube"]):
        assert ln.testing.check(function)[0] == "values and dtypes"
        assert inspect.unwrap(op_of(function).function).__name__ == function.__name__
