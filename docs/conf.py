"""Configuration of the documentation site: ``make docs`` builds it without a network."""

import base64
import json
import re
import sys
from importlib.util import find_spec
from os.path import relpath
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from labnet.version import __version__  # noqa: E402  # of this checkout

REPOSITORY = "https://github.com/labnet/labnet"

project, author, copyright = "labnet", "the labnet developers", "the labnet developers"
version = release = __version__
extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_design",
]
# Modules that import a library have their page where it is installed.
exclude_patterns = [f"api/interop-{name}.md" for name in ("jax", "torch") if find_spec(name) is None]

# Markdown and notebooks. Notebooks are shown with the outputs that they are saved with: tools/run_notebooks.py.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_mime_priority_overrides = [("html", "text/html", 0)]

# Docstrings.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
add_module_names = False
toc_object_entries_show_parents = "hide"
autosummary_generate = False
numpydoc_show_class_members = False

pygments_dark_style = "github-dark"
html_theme = "furo"
html_title = f"labnet {release}"
html_static_path = ["static"]
html_css_files = ["labnet.css"]
html_favicon = "static/icon.svg"
html_copy_source = False
html_show_search_summary = False  # it would read pages over HTTP
html_show_sphinx = False
html_theme_options = {"source_repository": f"{REPOSITORY}/", "source_branch": "main", "source_directory": "docs/"}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

linkcheck_ignore = [r"http://localhost.*", r"https://hub\.example.*"]


def relinked(text: str, folder: Path, page_folder: Path) -> str:
    """Return a text of the repository with links that hold on the site.

    A link to a page or a picture of ``docs`` or to a notebook leads to its page, one to another file to that file on
    the host of the repository.

    Parameters
    ----------
    text : str
        Markdown, or the JSON of a notebook.
    folder, page_folder : Path
        Folder of the file that the text stands in, and of the page that it becomes.

    Raises
    ------
    FileNotFoundError
        If a link leads to a file that does not exist.
    """

    def link(found: re.Match[str]) -> str:
        path, anchor = found[1], found[2] or ""
        target = (folder / path).resolve()
        if not target.exists():
            raise FileNotFoundError(f"{folder}: no file {path!r} for the link {found[0]!r}")
        if target.is_relative_to(ROOT / "notebooks"):
            target = DOCS / target.relative_to(ROOT)
        if target.is_relative_to(DOCS):
            return f"]({relpath(target, page_folder)}{anchor})"
        kind = "tree" if target.is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{target.relative_to(ROOT)}{anchor})"

    return re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)", link, text)


def relink_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Correct the links of a page."""
    if name.startswith("notebooks/"):
        source[0] = relinked(source[0], ROOT / "notebooks", DOCS / "notebooks")
    else:
        source[0] = relinked(source[0], (DOCS / name).parent, (DOCS / name).parent)


def copy_notebooks() -> None:
    """Bring the notebooks of the repository below the sources of the site, each with its largest picture beside it."""
    copies = DOCS / "notebooks"
    copies.mkdir(exist_ok=True)
    wanted = {}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        content = path.read_bytes()
        outputs = [output for cell in json.loads(content)["cells"] for output in cell.get("outputs", ())]
        pictures = ["".join(output.get("data", {}).get("image/png", "")) for output in outputs]
        wanted[path.name] = content
        wanted[f"{path.stem}.png"] = base64.b64decode(max(pictures, key=len, default=""))
    for old in copies.iterdir():
        if old.name not in wanted:
            old.unlink()
    for name, content in wanted.items():
        copy = copies / name
        if not copy.exists() or copy.read_bytes() != content:
            copy.write_bytes(content)


copy_notebooks()


def relink_included(app: Sphinx, path: Path, parent: str, source: list[str]) -> None:
    """Correct the links of a file that a page includes."""
    source[0] = relinked(source[0], (DOCS / path).resolve().parent, (DOCS / parent).parent)


def setup(app: Sphinx) -> None:
    """Connect what this file adds to Sphinx."""
    app.connect("source-read", relink_page)
    app.connect("include-read", relink_included)
