"""What ``import labnet as ln`` offers, and what it does not drag in."""

import doctest
import importlib
import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest

import labnet as ln
from tests.helpers.libraries import jax_or_skip, torch_or_skip

ROOT = Path(ln.__file__).parent.parent
MODULES = sorted(
    ".".join(("labnet", *path.relative_to(ROOT / "labnet").with_suffix("").parts)).removesuffix(".__init__")
    for path in (ROOT / "labnet").rglob("*.py")
)
HEAVY = (
    "tornado",
    "distributed",
    "IPython",
    "ipywidgets",
    "anywidget",
    "matplotlib",
    "numba",
    "torch",
    "sklearn",
    "tqdm",
    "msgspec",
    "safetensors",
    "prometheus_client",
)


def test_all_is_complete():
    assert [name for name in ln.__all__ if not hasattr(ln, name)] == []
    assert len(set(ln.__all__)) == len(ln.__all__)
    public = {
        name
        for name, value in vars(ln).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", "labnet").startswith("labnet")
    }
    assert public <= {*ln.__all__, "DTYPES", "TYPE_CHECKING"}


@pytest.mark.parametrize("name", ["nn", "loss", "optim", "ops", "errors"])
def test_rooms_are_reachable_from_the_top(name):
    assert inspect.ismodule(getattr(ln, name))


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ln.nonsense  # noqa: B018


def test_importing_labnet_stays_light():
    code = f"import sys, labnet; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, monkeypatch):
    # a shell of earlier tests is no program that a process could be started from
    program = types.ModuleType("__main__")
    program.__spec__ = None
    monkeypatch.setitem(sys.modules, "__main__", program)
    for library, skip in (("torch", torch_or_skip), ("jax", jax_or_skip)):
        if name.startswith(f"labnet.interop.{library}"):
            skip()
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert not results.failed


def test_every_op_has_a_documented_example():
    without = [name for name, op in ln.ops.REGISTRY.items() if ">>>" not in (op.function.__doc__ or "")]
    assert without == []


@pytest.mark.parametrize(
    "name", ["generate_stubs", "generate_reference", "generate_torch_page", "generate_layers_page"]
)
def test_generated_files_are_up_to_date(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text() == module.generate(), f"run: python tools/{name}.py"


def test_exports_are_up_to_date():
    spec = importlib.util.spec_from_file_location("generate_exports", ROOT / "tools" / "generate_exports.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.generate().items():
        assert path.read_text() == text, "run: python tools/generate_exports.py"


def test_version_matches_the_changelog():
    assert f"## [{ln.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
