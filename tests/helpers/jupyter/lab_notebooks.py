"""Notebooks made for a test, opened and run in a real JupyterLab by a real browser."""

import contextlib
import json

import nbformat

from tests.helpers.ports import free_port

SERVE = """%load_ext labnet
import labnet as ln"""

MODEL = """%%serve_model model --port {port} --optimizer sgd --lr 0.05 --name line
model = ln.nn.Sequential(ln.nn.Linear(3, 8), ln.nn.relu, ln.nn.Linear(8, 1))"""

#: Trains until the server is gone: the cell blocks its kernel all the time.
TRAIN = """x = ln.asarray([[1.0, 2.0, 3.0], [0.5, 0.1, -1.0]])
y = ln.asarray([[1.0], [2.0]])
remote = ln.network.remote_model("localhost:{port}", blocking=True)
try:
    while True:
        ln.loss.mse(remote(x), y).backward()
except ln.errors.RemoteError as error:
    print("the training has ended")"""

ATTACH = """from labnet.jupyter import Panel
Panel("localhost:{port}")"""

#: What the panel says now.
LOOK = """() => {
    const panel = document.querySelector('.labnet-panel');
    const hits = panel?.querySelector('[data-route=forward] [data-column=hits]');
    return {
        state: panel?.dataset.state ?? null,
        hits: hits ? Number(hits.textContent.replaceAll(',', '')) : null,
        busy: [...document.querySelectorAll('.jp-InputPrompt')].some((prompt) => prompt.textContent.includes('[*]')),
        picture: [...document.querySelectorAll('.labnet-picture')].map((p) => p.offsetParent !== null),
    };
}"""


def write_notebook(folder, name, *cells, port=None):
    """Write a notebook whose cells serve and call a port; returns the port."""
    port = port or free_port()
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.replace("{port}", str(port))) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}},
    )
    nbformat.write(notebook, folder / name)
    return port


def dark(folder):
    """Make JupyterLab dark."""
    _set(folder, "apputils-extension/themes", theme="JupyterLab Dark")


def without_autosave(folder):
    """Have JupyterLab save notebooks by itself only after an hour."""
    _set(folder, "docmanager-extension/plugin", autosaveInterval=3600)


def _set(folder, plugin, **settings):
    file = folder / ".settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings))


@contextlib.contextmanager
def another_page(page):
    """Open a second window of the same browser, with a session of its own."""
    other = page.context.browser.new_page(viewport=page.viewport_size)
    other.set_default_timeout(120_000)
    other.failures = []
    other.on("pageerror", lambda error: other.failures.append(str(error)))
    yield other
    other.close()


def open_notebook(page, address, *, ready="text=Python 3 (ipykernel) | Idle"):
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    page.wait_for_selector(ready, timeout=120_000)


BEGUN = (
    """() => [...document.querySelectorAll('.jp-InputPrompt')].some((prompt) => /[*0-9]/.test(prompt.textContent))"""
)


def run_all(page):
    """Choose the command, once more if nothing happens: Notebook 7 may show its menu before its commands work."""
    from playwright.sync_api import TimeoutError

    for seconds in (20, 40, 120):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        with contextlib.suppress(TimeoutError):
            return page.wait_for_function(BEGUN, timeout=1000 * seconds)
    raise AssertionError("no cell runs after the command to run all")


def wait_for(page, condition):
    """Wait until what the panel says fulfils a condition in JavaScript."""
    page.wait_for_function(f"() => {{ const now = ({LOOK})(); return {condition}; }}", timeout=120_000)
    return page.evaluate(LOOK)


def save(page, file, shown):
    """Save until `shown`, of the file's text, is true; a panel that still moves marks its notebook as changed again."""
    for _ in range(24):
        page.keyboard.press("Control+s")
        for _ in range(50):
            if shown(file.read_text()):
                return
            page.wait_for_timeout(100)
    raise AssertionError(
        f"{file.name} lacks what the page shows; dialogs: {page.locator('.jp-Dialog').all_inner_texts()}"
    )
