"""Every notebook of the gallery runs from top to bottom, in a kernel of its own, on this machine alone."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from tests.helpers.libraries import torch_or_skip
from tests.helpers.ports import free_port

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: What a notebook promises: the words in front of a figure, and the least that it has to be.
PROMISES = {
    "quickstart": ("accuracy, asked over HTTP: ", 97),
    "training": ("after training: ", 93),
    "compiled": ("right after training: ", 97),
    "composition": ("right about ", 88),
    "split_learning": ("unseen digits: ", 92),
    "many_machines": ("right about ", 92),
    "bring_your_own": ("network of torch, on unseen digits: ", 92),
    "trainers": ("none of them has seen: ", 92),
}
#: Characters of code that JupyterLab shows beside its files in a window of 1280 pixels.
WIDEST = 106
#: The cells of a notebook that nobody looks at while it runs.
SERVES = """
import labnet as ln
server = ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, name="goes on")
last = ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, name="ends")
server.panel()

last.panel()

ln.jupyter.Panel(server.url)

for each in server, last:
    net = ln.network.remote_model(each.url, blocking=True)
    for _ in range(7):
        ln.loss.mse(net(ln.ones((4, 2))), ln.zeros((4, 1))).backward()
last.stop()
"""


def execute(path, folder):
    """Run a notebook in a process; returns it with its outputs."""
    result = folder / "result.ipynb"
    command = [sys.executable, "-m", "tests.helpers.jupyter.notebook_run", path, free_port(), folder, result]
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # the kernel's own
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return nbformat.read(result, as_version=4)


@pytest.fixture(scope="module")
def executed(request, tmp_path_factory):
    """Run the notebooks that were chosen, two at a time; gives each as it will be."""
    chosen = [item.callspec.params["path"] for item in request.session.items if "executed" in item.fixturenames]
    pool = ThreadPoolExecutor(2)
    yield {path: pool.submit(execute, path, tmp_path_factory.mktemp(path.stem)) for path in chosen}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom_and_keeps_its_promise(path, executed):
    if path.stem == "bring_your_own":
        torch_or_skip()
    notebook = executed[path].result()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "UsageError" not in printed
    if path.stem in PROMISES:
        words, least = PROMISES[path.stem]
        assert float(printed.partition(words)[2].partition("%")[0]) >= least


def test_a_notebook_that_is_run_by_a_program_keeps_what_its_last_cell_did(tmp_path):
    """Nobody listens any more behind the last cell: the pictures of the panels have to be there with its end."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in SERVES.split("\n\n")])
    nbformat.write(notebook, tmp_path / "given.ipynb")
    notebook = execute(tmp_path / "given.ipynb", tmp_path)
    running, stopped, by_url = (
        "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs) for cell in notebook.cells[:3]
    )
    assert "goes on" in running
    assert "ends" in stopped
    for picture in (running, stopped, by_url):
        assert "update 7" in picture
    assert "running at" in running
    assert "stopped at" in stopped


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_begins_with_prose(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(notebook.cells) <= 15
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) >= 4
    lines = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.split("\n")]
    assert max(map(len, lines)) <= WIDEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_in_the_gallery_of_the_documentation(path):
    page = (ROOT / "docs" / "tutorials.md").read_text()
    assert f":link: notebooks/{path.stem}\n" in page
    assert f"\nnotebooks/{path.stem}\n" in page
