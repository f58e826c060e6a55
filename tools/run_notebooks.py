"""Run the notebooks whose code has changed and save their outputs: ``python tools/run_notebooks.py [NAME ...]``.

Outputs are saved without what differs in every run and says nothing: clock times, ports, paths, ids of widgets. A
digest of the code is saved with them, so a test finds outputs of older code. ``--all`` runs every notebook.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import re
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
#: The type of an output that needs a running kernel.
WIDGET = "application/vnd.jupyter.widget-view+json"
_PORT = re.compile(r"(localhost:|127\.0\.0\.1:|port |'127\.0\.0\.1', )(\d{4,5})\b")
#: What else differs in every run, and what is saved in its place.
_NOISE = (
    (re.compile(r"\b(?:\d{4}-\d\d-\d\d[ T])?\d\d:\d\d:\d\d\b(?:,\d+)?"), "12:00:00"),
    (re.compile(r'(?<=data-panel=")[0-9a-f]{16}'), "panel"),
    (re.compile(r"\S*ipykernel_\d+/\d+\.py"), "cell"),
    (re.compile(r"\bprocess \d+"), "process 1"),
    (re.compile(rf"\b{re.escape(socket.gethostname())}(?= process )"), "host"),
)


def digest(notebook: Any) -> str:
    """Return the digest of the code of a notebook.

    Examples
    --------
    >>> cell = nbformat.v4.new_code_cell("1 + 1")
    >>> digest(nbformat.v4.new_notebook(cells=[cell]))[:8]
    'c96e6eed'
    """
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def is_stale(notebook: Any) -> bool:
    """Return whether the outputs of a notebook are those of other code."""
    return bool(notebook.metadata.get("labnet", {}).get("code") != digest(notebook))


def plain(text: str, ports: dict[str, str], folder: str) -> str:
    """Return a text of an output without what differs in every run.

    Examples
    --------
    >>> plain("http://localhost:41234 at 10:00:01, by process 314", {}, "/tmp/x")
    'http://localhost:3000 at 12:00:00, by process 1'
    """
    for path in (folder, str(ROOT), str(Path.home())):
        text = text.replace(path, "~")
    text = _PORT.sub(lambda found: found[1] + ports.setdefault(found[2], str(3000 + len(ports))), text)
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text


def clean(notebook: Any, ports: dict[str, str], folder: str) -> None:
    """Remove what differs in every run from the outputs of a notebook."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    notebook.metadata.labnet = {"code": digest(notebook)}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = joined([output for output in cell.outputs if not is_live(output)])
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = None
            if "text" in output:
                output.text = plain(output.text, ports, folder)
            for kind, value in output.get("data", {}).items():
                output.data[kind] = small(value) if kind == "image/png" else plain(value, ports, folder)


def is_live(output: Any) -> bool:
    """Return whether an output is a widget, beside which its still picture stands."""
    return WIDGET in output.get("data", {})


def joined(outputs: list[Any]) -> list[Any]:
    """Return outputs with all text of one stream in one piece, where its first piece stands."""
    kept: dict[Any, Any] = {}
    for place, output in enumerate(outputs):
        stream = output.get("name", place)
        if stream in kept:
            kept[stream].text += output.text
        else:
            kept[stream] = output
    return list(kept.values())


def small(png: str) -> str:
    """Return a picture with a palette of colours, which takes a third of the bytes."""
    from PIL import Image

    target = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(target, "png", optimize=True)
    return base64.b64encode(target.getvalue()).decode()


def free_port() -> str:
    """Return a port that no server uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def run(path: Path) -> None:
    """Run a notebook in a kernel of its own and save it with its outputs.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell raises.
    """
    saved = nbformat.read(path, as_version=4)
    port, (named,) = free_port(), set(re.findall(r"\b30\d0\b", path.read_text())) or {"3000"}
    notebook = nbformat.from_dict(json.loads(re.sub(rf"\b{named}\b", port, json.dumps(saved))))
    with tempfile.TemporaryDirectory() as folder:
        own = {"XDG_STATE_HOME": folder, "LABNET_RUNS": f"{folder}/runs.sqlite", "PYTHONPATH": str(ROOT)}
        os.environ.update(own)
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
        for cell, before in zip(notebook.cells, saved.cells, strict=True):
            cell.source = before.source
        clean(notebook, {port: named}, folder)
    nbformat.write(notebook, path)


def main() -> None:
    """Run the notebooks that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks, such as quickstart (default: those with other code)")
    parser.add_argument("--all", action="store_true", help="run every notebook")
    given = parser.parse_args()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        chosen = path.stem in given.names if given.names else given.all or is_stale(nbformat.read(path, as_version=4))
        if chosen:
            print(f"running {path.name}", flush=True)
            run(path)


if __name__ == "__main__":
    sys.exit(main())
