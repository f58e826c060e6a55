"""What CONTRIBUTING and the picture of a training step say of the code."""

import importlib.util
import re
from pathlib import Path

import labnet
from tests.test_layers import LAYERS, ORDERS

ROOT = Path(__file__).parents[1]
PACKAGE = Path(labnet.__file__).parent


def drawing():
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "tools" / "draw_architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_the_one_that_its_script_draws():
    assert drawing().TARGET.read_text() == drawing().picture()


def test_the_picture_names_modules_that_are_there():
    assert not [box.module for box in drawing().BOXES if not (PACKAGE / f"{box.module}.py").is_file()]


def rooms(heading):
    """Return the rows of the table below a heading of CONTRIBUTING: what is in the first column, and in the second."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (`.*?) \| (.*) \|$", text, re.MULTILINE)


def test_the_rooms_of_contributing_are_those_of_the_package():
    named = {name for first, _ in rooms("Rooms") for name in re.findall(r"`?([\w]+(?:\.py|/))", first)}
    there = {path.name + "/" * path.is_dir() for path in PACKAGE.iterdir() if path.name[0] not in "_."}
    assert named <= there
    assert not {name for name in there if name.endswith("/")} - named


def test_the_order_of_contributing_is_the_one_that_is_enforced():
    order = " | ".join(" ".join(name for name in names if name[0] != "_") for names in LAYERS)
    assert f"\n{order}\n" in (ROOT / "CONTRIBUTING.md").read_text()


def test_the_orders_inside_rooms_of_contributing_are_those_that_are_enforced():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for order in ORDERS.values():
        assert f"\n{' | '.join(map(' '.join, order))}\n" in text


def test_the_modules_of_compile_are_in_contributing_and_the_other_way_round():
    listed = {name for row in rooms("Inside `compile/`") for name in re.findall(r"`(\w+)(?:\.py)?`", " ".join(row))}
    paths = [path for path in (PACKAGE / "compile").rglob("*.py") if path.stem != "__init__"]
    assert listed == {path.stem for path in paths if path.parent.name != "rules"}


def test_the_modules_of_network_are_in_contributing_and_the_other_way_round():
    for first, second in rooms("Inside `network/`"):
        for room in re.findall(r"`([\w]+)/`", first):
            named = re.findall(r"`(\w+)`", second)
            missing = [name for name in named if not list((PACKAGE / "network").rglob(f"{name}.py"))]
            assert not [name for name in missing if name not in ("serve", "serve_model")], room
    listed = " ".join(first + second for first, second in rooms("Inside `network/`"))
    folders = {path.name for path in (PACKAGE / "network").iterdir() if (path / "__init__.py").is_file()}
    assert not [name for name in folders if f"`{name}/`" not in listed]
