"""The order of kernels/ and of its packages for CUDA: a module imports only what stands before it."""

import ast
from pathlib import Path

import pytest

import labnet

ROOT = Path(labnet.__file__).parent / "kernels"
#: Modules and packages of kernels/, and packages of kernels/cuda/, from low to high.
KERNELS = ("accelerator", "index_arrays", "blas", "cpu", "cuda", "device_dispatch")
CUDA = ("driver", "codegen", "array", "kernels", "protocols")
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(path):
    """Return the modules of kernels/ that a file imports, as tuples of names below it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {tuple(name.split(".")[2:]) for name in found if name.startswith("labnet.kernels.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_only_what_stands_before_them(path):
    here = path.relative_to(ROOT).with_suffix("").parts
    for there in imported(path):
        if there[0] != here[0]:
            assert KERNELS.index(there[0]) < KERNELS.index(here[0]), f"{here} imports {there}"
        elif here[0] == "cuda" and here != ("cuda", "__init__"):
            assert there[1] in CUDA, f"{here} imports {there} of the whole package"
            assert CUDA.index(there[1]) <= CUDA.index(here[1]), f"{here} imports {there}"


def test_no_modules_import_each_other():
    names = {path.relative_to(ROOT).with_suffix("").parts: path for path in FILES}
    below = {name: {there[:end] for there in imported(path) for end in (len(there) - 1, len(there))} & names.keys()
             for name, path in names.items()}  # fmt: skip
    while free := {name for name, others in below.items() if not others & below.keys() - {name}}:
        below = {name: others for name, others in below.items() if name not in free}
    assert below == {}
