"""The quickstart and the panel, in a real JupyterLab, seen by a real browser."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import labnet as ln
from tests.helpers.jupyter.jupyterlab import SCREENSHOTS, browser_page, jupyterlab
from tests.helpers.jupyter.lab_notebooks import save
from tests.helpers.ports import free_port

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"

pytestmark = pytest.mark.browser

SCREENSHOTS.mkdir(parents=True, exist_ok=True)

#: What a person sees at one moment: whether the training cell runs, its panel's hits, and whether that is in view.
LOOK = """() => {
    const trainer = [...document.querySelectorAll('.jp-CodeCell')].at(-1);
    const panel = trainer?.querySelector('.labnet-panel');
    const hits = panel?.querySelector('[data-route=forward] [data-column=hits]');
    const box = panel?.getBoundingClientRect();
    return {
        running: trainer?.querySelector('.jp-InputPrompt')?.textContent.trim() === '[*]:',
        hits: hits ? Number(hits.textContent.replaceAll(',', '')) : null,
        inView: box ? box.top >= 0 && box.bottom <= window.innerHeight : false,
    };
}"""


@pytest.fixture
def quickstart(tmp_path):
    """Copy the quickstart without its outputs, with a free port in place of 3000.

    Its trainer rests after each step: on a quick machine it would end before the panel has moved four times.
    """
    notebook = json.loads((NOTEBOOKS / "quickstart.ipynb").read_text())
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = []
    text, step = json.dumps(notebook).replace("3000", str(free_port())), "        loss.backward() "
    assert text.count(step) == 1
    (tmp_path / "quickstart.ipynb").write_text(text.replace(step, f"{step[:-1]}; __import__('time').sleep(0.005) "))
    return tmp_path


def test_the_panel_moves_while_a_training_cell_is_still_running(quickstart):
    with jupyterlab(quickstart) as address, browser_page() as page:
        page.goto(address("quickstart.ipynb"))
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_function(
            f"() => {{ const now = ({LOOK})(); return now.running && now.inView && now.hits > 130; }}", timeout=120_000
        )
        seen = []
        while (now := page.evaluate(LOOK))["running"]:
            assert now["inView"]
            if not seen or now["hits"] != seen[-1]:
                seen.append(now["hits"])
            if len(seen) == 4:
                page.screenshot(path=SCREENSHOTS / "training.png")
            page.wait_for_timeout(50)
        assert len(seen) >= 4, f"the panel showed {seen} while the training cell was running"
        assert seen == sorted(seen)

        last = page.locator(".jp-CodeCell").last
        last.locator(".jp-OutputArea pre").get_by_text("accuracy, asked over HTTP").wait_for(
            state="attached", timeout=120_000
        )
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        panel = last.locator(".labnet-panel")
        assert panel.locator(".state").inner_text() == "running"  # the server stays up
        with page.context.expect_page() as opened:
            panel.locator("header a").click()
        opened.value.locator("[data-route=forward]").get_by_text("787").wait_for()
        assert page.failures == []

        save(page, quickstart / "quickstart.ipynb", lambda text: "labnet-picture" in text and ">787</td>" in text)


def test_the_panel_fits_a_narrow_window():
    with (
        ln.network.serve_model(ln.nn.Linear(4, 2), ln.optim.SGD(lr=0.1), port=0, name="narrow") as server,
        browser_page(width=420, height=400) as page,
    ):
        remote = ln.network.remote_model(server.url, blocking=True)
        for _ in range(3):
            (remote(ln.ones((2, 4))) ** 2).mean().backward()
        page.goto(server.url)
        page.locator("[data-route=forward]").wait_for()
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
        assert page.evaluate(
            "() => { const p = document.querySelector('.labnet-panel'); return p.scrollWidth <= p.clientWidth; }"
        )
        page.screenshot(path=SCREENSHOTS / "narrow.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_server_shows_its_routes_and_survives_its_end(scheme):
    model = ln.nn.Linear(4, 2)
    server = ln.network.serve_model(model, ln.optim.SGD(lr=0.1), port=0, name="<b>bold</b>")
    remote = ln.network.remote_model(server.url, blocking=True)
    for _ in range(3):
        (remote(ln.ones((2, 4))) ** 2).mean().backward()
    with browser_page(color_scheme=scheme, width=920, height=400) as page:
        page.goto(server.url)
        row = page.locator("[data-route=forward]")
        row.locator("[data-column=hits]").get_by_text("3", exact=True).wait_for()
        assert page.locator(".name").inner_text() == "<b>bold</b>"
        remote(ln.ones((2, 4)))
        row.locator("[data-column=hits]").get_by_text("4", exact=True).wait_for()
        server.stop()
        page.locator("[data-state=unreachable]").wait_for()
        assert row.locator("[data-column=hits]").inner_text() == "4"
        assert page.failures == []
        page.screenshot(path=SCREENSHOTS / f"page-{scheme}.png")


def test_the_demo_trains_over_the_network_and_reports():
    demo = NOTEBOOKS.parent / "examples" / "demo.py"
    result = subprocess.run([sys.executable, demo], capture_output=True, text=True, check=True, timeout=280)
    accuracy = float(result.stdout.partition("accuracy on the other 397 digits: ")[2].partition("%")[0])
    assert accuracy >= 97
    assert "loss=" in result.stderr
    rows = {
        line.split()[0]: line.split() for line in result.stdout.splitlines() if line.startswith(("forward", "optimize"))
    }
    assert (rows["forward"][1], rows["optimize"][1]) == ("661", "660")
