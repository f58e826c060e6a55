"""Runs a notebook from top to bottom: ``python -m tests.helpers.jupyter.notebook_run NOTEBOOK PORT FOLDER RESULT``.

It serves on PORT where it says 3000, 3010 or another port of the notebooks, works in FOLDER, and is written to RESULT
with its outputs.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main(notebook, port, folder, result):
    found = nbformat.reads(re.sub(r"\b30\d0\b", port, Path(notebook).read_text()), as_version=4)
    NotebookClient(found, timeout=280, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    nbformat.write(found, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
