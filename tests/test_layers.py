"""The layer rules: what a room may import, and what a part of a room may; function-level imports included."""

import ast
import graphlib
from pathlib import Path

import pytest

import labnet

ROOT = Path(labnet.__file__).parent
LAYERS = (
    ("errors", "settings", "eviction", "atomic_files", "tracebacks", "version"),
    ("stats", "pictures"),
    ("device",),
    ("kernels",),
    ("autograd", "memory"),
    ("tensor", "_methods"),
    ("ops",),
    ("codec", "json_codec", "npy"),
    ("nn", "loss", "optim", "io", "batching", "func", "linalg", "data", "cuda"),
    ("compile",),
    ("testing",),
    ("wire", "store", "runs"),
    ("network",),
    ("jupyter", "cluster", "cli", "interop", "__main__"),
)
#: The order of the parts of a room, by its dotted path: folders and modules. A part imports only those to its left.
ORDERS = {
    "ops": (
        ("core",),
        ("layout",),
        ("elementwise",),
        ("selection",),
        ("aggregation",),
        ("nn",),
        ("methods",),
        ("numpy_api",),
        ("operators",),
        ("custom",),
    ),
    "nn": (
        ("sizes",),
        ("functions",),
        ("assignment", "checkpoint", "functional", "init", "summary", "utils"),
        ("modules",),
        ("layers",),
        ("counting",),
    ),
    "kernels": (
        ("accelerator", "index_arrays", "blas", "board", "numpy_loops", "scalar_expression", "array_operators"),
        ("threads", "scalar_program", "partition"),
        ("total", "exponential"),
        ("logarithm",),
        ("machine_code",),
        ("cpu",),
        ("cuda",),
        ("device_dispatch",),
    ),
    "kernels.cpu": (
        ("arrays",),
        ("ufunc_calls",),
        ("summation", "products", "instructions"),
        ("blocks",),
        (
            *("layers", "optimizers", "pooling", "scalar_kernels", "scans", "selection", "convolution", "rows"),
            *("channels", "recurrence", "columns", "team"),
        ),
        ("attention",),
    ),
    "kernels.cuda": (("driver",), ("codegen",), ("array",), ("kernels",), ("protocols",)),
    "compile": (
        ("pytree",),
        ("ir",),
        ("native",),
        ("wait",),
        ("intrinsics",),
        ("codegen",),
        ("trace",),
        ("backends",),
        ("specialisation",),
        ("differentiable", "dispatcher"),
    ),
}
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported_modules(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            found += [name if module == "labnet" or name in MODULES else module for name in names]
    return [name for name in dict.fromkeys(found) if name.split(".")[0] == "labnet"]


def module_name(path: Path) -> str:
    return ".".join(("labnet", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def modules_of(room: str) -> dict[str, Path]:
    """Return the modules of a room by their names, without that of the room itself."""
    return {name: path for name, path in MODULES.items() if name.startswith(f"labnet.{room}.")}


MODULES = {module_name(path): path for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_what_lies_to_their_left(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for module in imported_modules(path):
        assert module != "labnet", f"{path} imports the whole package"
        other = module.split(".")[1]
        assert RANK[other] < RANK[room] or other == room or RANK[other] == RANK[room], f"{room} imports {other}"


def test_every_room_has_a_layer():
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
    assert rooms <= RANK.keys()


@pytest.mark.parametrize("room", ORDERS)
def test_parts_of_a_room_import_only_parts_to_their_left(room):
    rank = {part: position for position, parts in enumerate(ORDERS[room]) for part in parts}
    start = len(room.split(".")) + 1
    wrong = []
    for name, path in modules_of(room).items():
        part = name.split(".")[start]
        for other in imported_modules(path):
            if other == f"labnet.{room}":
                wrong.append(f"{name} imports the whole room")
            elif other in modules_of(room) and (found := other.split(".")[start]) != part and rank[found] >= rank[part]:
                wrong.append(f"{name} imports {other}")
    assert not wrong


@pytest.mark.parametrize("room", ORDERS)
def test_the_order_of_a_room_lists_each_of_its_parts(room):
    start = len(room.split(".")) + 1
    assert {name.split(".")[start] for name in modules_of(room)} == {part for parts in ORDERS[room] for part in parts}


@pytest.mark.parametrize("room", ORDERS)
def test_no_modules_of_a_room_import_each_other_in_a_circle(room):
    modules = modules_of(room)
    graph = {name: {other for other in imported_modules(path) if other in modules} for name, path in modules.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("tornado", {"network"}),
        ("anywidget", {"jupyter"}),
        ("ipywidgets", {"jupyter"}),
        ("matplotlib", {"jupyter"}),
        ("IPython", {"jupyter"}),
        ("distributed", {"cluster"}),
        ("dask", {"cluster"}),
        ("pickle", set()),
        ("marshal", set()),
        ("shelve", set()),
    ],
)
def test_a_library_is_imported_only_where_it_belongs(library, rooms):
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == library for name in names):
                assert path.relative_to(ROOT).parts[0] in rooms, f"{path} imports {library}"
