"""The documentation site builds without a warning, has every public name, and loads nothing from elsewhere."""

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

import labnet as ln
from tests.compile.trace.test_registry import REFUSED
from tests.helpers.jupyter.jupyterlab import browser_page

pytestmark = pytest.mark.timeout(900)  # the site takes half a minute of a processor that other tests use too

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: Modules whose public names have an entry; those without ``__all__`` have what they define.
MODULES = (
    *("labnet", "labnet.cluster", "labnet.cuda", "labnet.errors", "labnet.func", "labnet.interop", "labnet.io"),
    *("labnet.interop.jax", "labnet.interop.torch", "labnet.jupyter", "labnet.linalg", "labnet.loss", "labnet.network"),
    *("labnet.nn", "labnet.nn.functional", "labnet.nn.init", "labnet.nn.utils", "labnet.optim", "labnet.runs"),
    *("labnet.optim.lr_scheduler", "labnet.stats", "labnet.testing"),
)


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site; a warning is an error."""
    for needed in ("furo", "myst_nb", "numpydoc", "sphinx_copybutton", "sphinx_design"):
        pytest.importorskip(needed, reason="needs Sphinx: pip install 'labnet[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", folder / "doctrees"]
    command += ["-D", "toc_object_entries=0", ROOT / "docs", folder / "html"]  # a third of the time goes into them
    result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder / "html"


class Page(HTMLParser):
    """The links, the loaded files and the ids of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a":
            self.links.append(given.get("href") or "")
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "shortcut icon"):
            self.loaded.append(given["href"])
        elif "src" in given:
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_link_within_the_site_leads_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link in ("", "#"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            ids = pages[target].ids if target in pages else set()
            if not target.exists() or (parts.fragment and target in pages and unquote(parts.fragment) not in ids):
                broken.append((str(path.relative_to(site)), link))
    assert broken == []


def test_a_page_loads_only_files_of_the_site(site, pages):
    for path, page in pages.items():
        for address in page.loaded:
            parts = urlsplit(address)
            assert parts.scheme in ("", "data"), f"{path.relative_to(site)} loads {address}"
            assert parts.scheme or (path.parent / unquote(parts.path)).exists()


def public_names(module):
    """Return the names of functions and classes that users of a module may use."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [name for name, value in vars(module).items() if not name.startswith("_") and callable(value)]
        if module is not ln.nn.functional:
            names = [name for name in names if getattr(getattr(module, name), "__module__", "") == module.__name__]
    kinds = (type, type(len), type(public_names), type(ln.no_grad))
    return [name for name in names if not name.startswith("_") and isinstance(getattr(module, name), kinds)]


def test_the_reference_has_every_public_name(site):
    inventory = pytest.importorskip("sphinx.util.inventory").InventoryFile.loads(
        (site / "objects.inv").read_bytes(), uri=""
    )
    documented = {name for kind in inventory.data if kind.startswith("py:") for name in inventory.data[kind]}
    missing = []
    for name in MODULES:
        module = importlib.import_module(name)
        missing += [f"{name}.{each}" for each in public_names(module) if f"{name}.{each}" not in documented]
    dtypes = (ROOT / "docs" / "api" / "tensor.md").read_text()
    assert [name for name in missing if f"`ln.{name.removeprefix('labnet.')}`" not in dtypes] == []


@pytest.mark.browser
def test_search_works_without_a_server(site):
    with browser_page() as page:
        page.goto((site / "search.html").as_uri() + "?q=max_staleness")
        page.locator("#search-results ul.search li a").first.wait_for()
        found = page.locator("#search-results ul.search li a").all_inner_texts()
        assert any("serve_model" in text or "Exactly once" in text for text in found)
        assert page.failures == []


def test_the_page_of_errors_has_each_class_with_its_meaning_and_a_remedy():
    page = (ROOT / "docs" / "errors.md").read_text()
    classes = {name for name, value in vars(ln.errors).items() if inspect.isclass(value)}
    sections = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=\n#|\Z)", page, re.M | re.S))
    assert sections.keys() == classes
    for name, text in sections.items():
        meaning, _, remedy = text.partition("**What to do:**")
        assert meaning.strip(), name
        assert remedy.strip(), name


def test_the_table_of_ops_says_which_cannot_be_compiled():
    assert set(tool("generate_reference").UNCOMPILED) == REFUSED.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_saved_with_the_outputs_of_its_code(path):
    notebook = nbformat.read(path, as_version=4)
    assert not tool("run_notebooks").is_stale(notebook), f"run: python tools/run_notebooks.py {path.stem}"
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_outputs_of_a_notebook_are_without_noise(path):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.execution_count for cell in cells)
    texts = [output.get("text", "") for cell in cells for output in cell.outputs]
    for output in (output for cell in cells for output in cell.outputs):
        data = output.get("data", {})
        assert not any("widget" in kind for kind in data)
        texts += [value for kind, value in data.items() if kind != "image/png"]
    text = re.sub(r"base64,[\w+/=]+", "", "\n".join(texts))
    assert set(re.findall(r"\b\d\d:\d\d:\d\d\b", text)) <= {"12:00:00"}
    assert not re.search(r"(?:localhost|127\.0\.0\.1):(?!30\d\d\b)\d+", text)
    assert not re.search(r"/(?:home|root|tmp|Users)/|ipykernel_\d", text)


def test_other_code_makes_outputs_stale():
    module = tool("run_notebooks")
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    next(cell for cell in notebook.cells if cell.cell_type == "markdown").source += " More words."
    assert not module.is_stale(notebook)
    next(cell for cell in notebook.cells if cell.cell_type == "code").source += "\nprint(1)"
    assert module.is_stale(notebook)
