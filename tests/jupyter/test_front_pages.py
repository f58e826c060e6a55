"""The example of the README, and that of the first page of the documentation, run as they stand."""

import ast
import re
from pathlib import Path

import pytest

from tests.helpers.jupyter.kernels import IGNORED, kernel
from tests.helpers.ports import free_port

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in ("ops.md", "torch.md"))

pytestmark = pytest.mark.filterwarnings(*IGNORED)


def blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_example_serves_and_trains(page):
    load, serve, train = blocks(ROOT / page)
    port = str(free_port())
    with kernel() as running:
        running.run(load)
        running.run(serve.replace("3000", port))
        running.run(train.replace("3000", port))
        running.run(train.replace("3000", port))
        assert running.run(f"print(ln.network.servers()[{port}].statistics()['optimize']['hits'])").text.strip() == "2"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_block_of_python_on_a_page_is_python(path):
    for block in blocks(path):
        if not re.search(r"^(%|>>>)", block, re.MULTILINE):
            compile(block, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
