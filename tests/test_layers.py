"""The layer rule: a room imports only rooms to its left, function-level imports included."""

import ast
from pathlib import Path

import pytest

import labnet

ROOT = Path(labnet.__file__).parent
LAYERS = (
    ("errors", "settings"),
    ("stats", "pictures"),
    ("device",),
    ("kernels",),
    ("autograd", "memory"),
    ("tensor", "_methods"),
    ("ops",),
    ("codec", "npy"),
    ("nn", "loss", "optim", "io"),
    ("compile",),
    ("wire", "store"),
    ("network",),
    ("jupyter", "cluster", "cli", "__main__"),
)
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
            found += [f"{module}.{alias.name}" for alias in node.names] if module == "labnet" else [module]
    return [name for name in found if name.split(".")[0] == "labnet"]


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
