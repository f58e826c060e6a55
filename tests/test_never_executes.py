"""Row 1 of the attack classes: no code of the package can turn bytes into code, read from the syntax tree."""

import ast
from pathlib import Path

import pytest

import labnet

ROOT = Path(labnet.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"),
    *("yaml", "code", "codeop", "runpy", "subprocess", "pty", "multiprocessing", "msgpack_numpy", "torch"),
}
CALLS = {"eval", "exec", "compile", "__import__", "execfile", "breakpoint", "input"}
METHODS = {
    *("os.system", "os.popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.startfile"),
    *("os.execv", "os.execve", "os.execvp", "os.execl", "os.execlp", "os.spawnv", "os.spawnl", "os.spawnvp"),
    *(
        "np.load",
        "numpy.load",
        "np.fromfile",
        "np.memmap",
        "np.lib.format.read_array",
        "builtins.eval",
        "builtins.exec",
    ),
    *("builtins.eval", "builtins.exec"),
    *("importlib.import_module", "import_module", "ctypes.CDLL", "types.FunctionType", "types.CodeType"),
}
#: What runs code on purpose: on the word of whoever holds the kernel, or the token of a runner.
ALLOWED = {
    "__init__.py": {"import_module"},  # of names in the source
    "nn/__init__.py": {"import_module"},  # the same, as in the next
    "optim/__init__.py": {"import_module"},
    "tensor.py": {"import_module"},
    "jupyter/__init__.py": {"import_module"},
    "interop/__init__.py": {"import_module"},  # the same
    # modules of torch that its user has made; none is read from a file
    **{f"interop/torch/{name}.py": {"torch"} for name in ("adapter", "arrays", "conversion", "remote", "spare_memory")},
    "jupyter/magics.py": {"compile", "exec", "eval"},
    "kernels/blas.py": {"ctypes.CDLL"},  # the library of NumPy that is loaded already
    "kernels/machine_code/compiler_process.py": {"subprocess"},  # Python itself, with a program of this package
    "compile/backends/cpu_step.py": {"exec"},  # source that it wrote itself, for a function of the caller
    "compile/native/numba_compiler.py": {"compile", "exec"},  # the same, to be compiled
    "kernels/cuda/driver/compiler.py": {"compile", "exec", "import_module"},  # kernels that it wrote itself, and Numba
    "kernels/cuda/driver/simulator.py": {"compile", "exec", "import_module"},  # the same
    "kernels/cuda/driver/gpu.py": {"import_module"},  # of Numba
    "kernels/cuda/driver/driver.py": {"ctypes.CDLL"},  # the driver of the system
    "kernels/cuda/kernels/matmul.py": {"ctypes.CDLL"},  # cuBLAS, where pip or the system has put it
    # a server of its own, which runs uploaded files and never without its token
    "network/runner/service.py": {"subprocess"},
    "network/runner/child_process.py": {"subprocess"},
}


def names_of(node):
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names} & MODULES
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").split(".")[0]} & MODULES
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        return {called} & (CALLS | METHODS)
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        return {"allow_pickle"} if ast.unparse(node.value) != "False" else set()
    return set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_row_1_bytes_from_the_network_are_never_executed(path):
    allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
    found = {name for node in ast.walk(ast.parse(path.read_text())) for name in names_of(node)}
    assert found <= allowed


def test_a_server_of_models_needs_no_exception_and_knows_nothing_of_the_runner():
    package = ROOT / "network"
    others = [
        path for path in package.rglob("*.py") if path.parent.name != "runner" and path != package / "__init__.py"
    ]
    assert len(others) > 50
    for path in others:
        assert path.relative_to(ROOT).as_posix() not in ALLOWED
        assert "network.runner" not in path.read_text(), path


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "import torch.serialization",
        "eval(text)",
        "exec(code, {})",
        "np.load(file)",
        "np.save(file, x, allow_pickle=True)",
        "os.system(line)",
        "importlib.import_module(name)",
    ],
)
def test_the_gate_sees(line):
    assert any(names_of(node) for node in ast.walk(ast.parse(line)))
