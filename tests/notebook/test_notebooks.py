"""Every notebook of the gallery runs from top to bottom, in a kernel of its own, on this machine alone."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.notebook.lab import free_port

NOTEBOOKS = sorted((Path(__file__).parent.parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# the kernel's own warning about unencrypted TCP, and zmq sockets that nbclient leaves to the collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    notebook = nbformat.reads(path.read_text().replace("3000", str(free_port())), as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    errors = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if output["output_type"] == "error"
    ]
    assert errors == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_begins_with_prose_and_is_saved_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(notebook.cells) < 15
    assert notebook.cells[0].cell_type == "markdown"
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_the_quickstart_trains_to_97_percent_and_stops(tmp_path):
    path = next(path for path in NOTEBOOKS if path.stem == "quickstart")
    notebook = nbformat.reads(path.read_text().replace("3000", str(free_port())), as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    accuracy = float(printed.partition("accuracy, asked over HTTP: ")[2].partition("%")[0])
    assert accuracy >= 97
    assert printed.rstrip().endswith("stopped)")
