"""The panel in a real JupyterLab while a cell blocks the kernel that serves, and what is left of it afterwards."""

import os
import re
import subprocess
import sys

import nbformat
import pytest

import labnet as ln
from tests.helpers.jupyter.jupyterlab import LEAST_CONTRAST, SCREENSHOTS, browser_page, jupyterlab
from tests.helpers.jupyter.lab_notebooks import (
    ATTACH,
    LOOK,
    MODEL,
    SERVE,
    TRAIN,
    another_page,
    dark,
    open_notebook,
    run_all,
    save,
    wait_for,
    without_autosave,
    write_notebook,
)

pytestmark = pytest.mark.browser

SCREENSHOTS.mkdir(parents=True, exist_ok=True)

ENDED = "the training has ended"

#: Blocks the kernel until the test makes a file.
BLOCK = f"""import os
while not os.path.exists("stop kernel"):
    server.wait(0.05)
print("{ENDED}")"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    with jupyterlab(folder) as address:
        yield folder, lambda name: address(name).replace("/lab/tree/", f"/lab/workspaces/{name.split('.')[0]}/tree/")


def press_stop(page, *, then=lambda: None):
    """Press the stop button while the cell is still running, and wait for the end of both."""
    assert page.evaluate(LOOK)["busy"]
    page.get_by_role("button", name="Stop server").click()
    then()
    wait_for(page, "now.state === 'stopped'")
    page.get_by_text(ENDED, exact=True).wait_for(timeout=120_000)


def assert_hits_rise(page, times):
    """Assert that the panel shows a higher number of hits again and again while the cell is running."""
    for _ in range(times):
        hits = page.evaluate(LOOK)["hits"]
        wait_for(page, f"now.busy && now.hits > {hits}")


def test_the_panel_of_the_serving_notebook_moves_while_its_kernel_is_blocked_and_stops_the_server(lab):
    folder, address = lab
    write_notebook(folder, "serving.ipynb", SERVE, MODEL, TRAIN)
    with browser_page(height=1000) as page:
        open_notebook(page, address("serving.ipynb"))
        run_all(page)
        wait_for(page, "now.busy && now.hits > 0")
        assert_hits_rise(page, times=12)
        assert page.evaluate(LOOK)["picture"] == [False]
        page.get_by_role("button", name="Stop server").wait_for()
        least = page.evaluate(LEAST_CONTRAST)
        assert least[0] >= 4.5, least
        page.screenshot(path=SCREENSHOTS / "blocked.png")
        press_stop(page)
        assert page.failures == []
        page.screenshot(path=SCREENSHOTS / "stopped-by-button.png")


@pytest.mark.parametrize("way", ["straight", "kernel"])
def test_where_jupyter_has_no_proxy_the_button_goes_straight_or_by_the_kernel(lab, way):
    folder, address = lab
    training = BLOCK if way == "kernel" else TRAIN
    port = write_notebook(folder, f"{way}.ipynb", SERVE, MODEL, f"server = ln.network.servers()[{{port}}]\n{training}")
    with browser_page(height=1000) as page:
        page.route("**/proxy/**", lambda route: route.fulfill(status=404))
        if way == "kernel":
            page.route(re.compile(f"^http://127.0.0.1:{port}/"), lambda route: route.abort())
        open_notebook(page, address(f"{way}.ipynb"))
        run_all(page)
        wait_for(page, "now.busy && " + ("now.state === 'running'" if way == "kernel" else "now.hits > 0"))
        page.get_by_role("button", name="Stop server").wait_for()
        press_stop(page, then=(folder / f"stop {way}").touch)  # the kernel hears of it when its cell has ended


def test_two_notebooks_train_one_model_and_both_panels_move(lab):
    folder, address = lab
    port = write_notebook(folder, "first.ipynb", SERVE, MODEL, TRAIN)
    write_notebook(folder, "second.ipynb", SERVE, ATTACH, TRAIN, port=port)
    with browser_page(height=1000) as first, another_page(first) as second:
        open_notebook(first, address("first.ipynb"))
        run_all(first)
        wait_for(first, "now.busy && now.hits > 0")
        open_notebook(second, address("second.ipynb"))
        run_all(second)
        wait_for(second, "now.busy && now.hits > 0")
        for page in (first, second):
            assert_hits_rise(page, times=6)
        first.screenshot(path=SCREENSHOTS / "two-first.png")
        second.screenshot(path=SCREENSHOTS / "two-second.png")
        second.get_by_role("button", name="Stop server").click()  # the client's notebook has the token too
        wait_for(first, "now.state === 'stopped'")
        wait_for(second, "now.state === 'unreachable'")
        for page in (first, second):
            page.get_by_text(ENDED, exact=True).wait_for(timeout=120_000)
            assert page.failures == []
        second.screenshot(path=SCREENSHOTS / "two-unreachable.png")


def test_after_a_reload_the_panel_is_there_again(lab):
    folder, address = lab
    write_notebook(folder, "reload.ipynb", SERVE, MODEL, TRAIN.replace("while True", "for _ in range(60)"))
    with browser_page(height=1000) as page:
        open_notebook(page, address("reload.ipynb"))
        run_all(page)
        wait_for(page, "!now.busy && now.hits === 60")
        save(page, folder / "reload.ipynb", lambda text: "application/vnd.jupyter.widget-view+json" in text)
        page.reload()
        wait_for(page, "now.state === 'running' && now.hits === 60")
        page.get_by_role("button", name="Stop server").click()
        wait_for(page, "now.state === 'stopped'")


@pytest.mark.parametrize("saved", ["user", "panel"])
def test_a_reload_while_the_cell_blocks_shows_a_link_to_the_live_page(lab, saved):
    folder, address = lab
    without_autosave(folder)
    name = f"blocked-{saved}.ipynb"
    write_notebook(folder, name, SERVE, MODEL, TRAIN)
    with browser_page(height=1000) as page:
        open_notebook(page, address(name))
        with page.expect_response(lambda reply: reply.request.method == "PUT" and name in reply.url):
            run_all(page)
            wait_for(page, "now.busy && now.hits > 20")
            page.wait_for_function(
                "() => document.querySelector('.labnet-picture').innerHTML.includes('last seen running')"
            )
            if saved == "user":
                page.keyboard.press("Control+s")
        page.on("dialog", lambda dialog: dialog.accept())  # that changes since then are lost
        page.reload()
        link = page.locator(".labnet-picture a")
        link.wait_for(timeout=120_000)
        assert "last seen running at" in page.locator(".labnet-picture").inner_text()
        page.screenshot(path=SCREENSHOTS / "reloaded-blocked.png")
        with page.context.expect_page() as opened:
            link.click()
        live = opened.value
        live.locator("[data-state=running]").wait_for()
        hits = live.locator("[data-route=forward] [data-column=hits]")
        before = hits.inner_text()
        live.wait_for_function(
            "(before) => document.querySelector('[data-route=forward] [data-column=hits]').textContent !== before",
            arg=before,
        )
        server = ln.network.remote_model(link.get_attribute("href"), blocking=True)
        server.stop()


@pytest.fixture(scope="module")
def saved_file(lab):
    """Save a notebook while its cell runs, and end its kernel; gives its file."""
    folder, address = lab
    write_notebook(folder, "saved.ipynb", SERVE, MODEL, TRAIN)
    with browser_page(height=1000) as page:
        open_notebook(page, address("saved.ipynb"))
        run_all(page)
        wait_for(page, "now.busy && now.hits > 20")
        page.wait_for_function(
            "() => / [1-9][\\d,]* updates/.test(document.querySelector('.labnet-picture').innerHTML)"
        )
        page.wait_for_function("() => document.querySelectorAll('.labnet-picture img').length >= 3", timeout=120_000)
        save(page, folder / "saved.ipynb", lambda text: text.count("<img") >= 3)
        press_stop(page)
        page.get_by_role("menuitem", name="Kernel", exact=True).click()
        page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
    return folder / "saved.ipynb"


def test_what_was_saved_while_the_cell_ran_has_the_picture_when_it_is_opened_without_its_kernel(lab, saved_file):
    _, address = lab
    assert "last seen running at" in saved_file.read_text()
    assert "capability" not in saved_file.read_text()
    with browser_page(height=1000) as page:
        open_notebook(page, address("saved.ipynb"))
        wait_for(page, "now.picture.length === 1 && now.picture[0]")
        for excuse in ("Loading widget", "Error displaying widget"):
            assert not page.get_by_text(excuse).is_visible()
        assert page.locator(".labnet-picture img").count() >= 3
        page.screenshot(path=SCREENSHOTS / "reopened.png")


def test_when_the_kernel_dies_the_last_numbers_stay(lab):
    folder, address = lab
    waiting = "import os, time\nwhile not os.path.exists('die'): time.sleep(0.05)\nos._exit(1)"
    dying = TRAIN.replace("while True", "for _ in range(40)") + "\n" + waiting
    write_notebook(folder, "dying.ipynb", SERVE, MODEL, dying)
    with browser_page(height=1000) as page:
        open_notebook(page, address("dying.ipynb"))
        run_all(page)
        wait_for(page, "now.hits === 40")
        (folder / "die").touch()
        page.get_by_text("Restarting").first.wait_for(timeout=120_000)
        wait_for(page, "now.state === 'silent' || now.picture[0]")
        shown = page.locator(".labnet-panel, .labnet-picture").locator("visible=true")
        assert "40" in shown.first.inner_text()
        page.screenshot(path=SCREENSHOTS / "dead.png")


def test_the_exported_page_shows_the_picture_offline(saved_file):
    folder = saved_file.parent
    notebook = nbformat.read(saved_file, as_version=4)
    assert not notebook.metadata.get("widgets")
    subprocess.run(
        [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "saved.ipynb"],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    with browser_page(height=900) as page:
        page.context.set_offline(True)
        page.goto((folder / "saved.html").as_uri())
        assert page.locator(".labnet-picture").is_visible()
        loaded = page.locator(".labnet-picture img").evaluate_all("images => images.map((i) => i.naturalWidth)")
        assert len(loaded) >= 3
        assert min(loaded) > 0
        page.screenshot(path=SCREENSHOTS / "exported.png")


def test_the_panel_is_dark_and_narrow_where_jupyter_is(tmp_path):
    dark(tmp_path)
    write_notebook(tmp_path, "dark.ipynb", SERVE, MODEL, TRAIN)
    with jupyterlab(tmp_path) as address, browser_page(width=700, height=1100) as page:
        open_notebook(page, address("dark.ipynb"))
        page.keyboard.press("Control+b")
        run_all(page)
        wait_for(page, "now.busy && now.hits > 0")
        colors = page.evaluate(
            """() => { const style = getComputedStyle(document.querySelector('.labnet-panel'));
                       return [style.backgroundColor, style.color, style.colorScheme]; }"""
        )
        page.get_by_role("button", name="Stop server").wait_for()
        least = page.evaluate(LEAST_CONTRAST)
        page.screenshot(path=SCREENSHOTS / "jupyter-dark.png")
        press_stop(page)
    assert least[0] >= 4.5, least
    ground, ink = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in colors[:2])
    assert ground < 200 < 500 < ink
    assert colors[2] == "dark"


def test_the_panel_works_in_notebook_7_too_and_its_picture_is_saved_there(tmp_path):
    pytest.importorskip("notebook", reason="needs notebook>=7")
    idle = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
    write_notebook(tmp_path, "seven.ipynb", SERVE, MODEL, TRAIN)
    with jupyterlab(tmp_path, application=("notebook",), view="notebooks") as address:
        with browser_page(height=1000) as page:
            open_notebook(page, address("seven.ipynb"), ready=idle)
            run_all(page)
            wait_for(page, "now.busy && now.hits > 0")
            assert_hits_rise(page, times=6)
            assert page.evaluate(LOOK)["picture"] == [False]
            page.get_by_role("button", name="Stop server").wait_for()
            least = page.evaluate(LEAST_CONTRAST)
            assert least[0] >= 4.5, least
            page.screenshot(path=SCREENSHOTS / "notebook-7.png")
            press_stop(page)
            page.wait_for_function("() => document.querySelector('.labnet-picture').textContent.includes('stopped at')")
            save(page, tmp_path / "seven.ipynb", lambda text: "stopped at" in text)
            page.get_by_role("menuitem", name="Kernel", exact=True).click()
            page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
        with browser_page(height=1000) as page:
            open_notebook(page, address("seven.ipynb"), ready=idle)
            wait_for(page, "now.picture.length === 1 && now.picture[0]")
            for excuse in ("Loading widget", "Error displaying widget"):
                assert not page.get_by_text(excuse).is_visible()
            page.screenshot(path=SCREENSHOTS / "notebook-7-reopened.png")
