"""The panel in marimo, in a real browser: it is live, and its button stops the server."""

import subprocess
import sys
import time
import urllib.request

import pytest

from tests.helpers.jupyter.jupyterlab import SCREENSHOTS, browser_page
from tests.helpers.ports import free_port

expect = pytest.importorskip("playwright.sync_api").expect
pytest.importorskip("marimo", reason="needs marimo: pip install marimo")
pytestmark = pytest.mark.browser

SCREENSHOTS.mkdir(parents=True, exist_ok=True)

NOTEBOOK = """
import marimo

app = marimo.App()


@app.cell
def _():
    import threading

    import labnet as ln

    server = ln.network.serve_model(ln.nn.Linear(4, 1), "sgd", port=0, name="in marimo")

    def train():
        remote = ln.network.remote_model(server.url, blocking=True)
        try:
            while not server.wait(0.05):
                (remote(ln.ones((8, 4))) ** 2).mean().backward()
        except ln.errors.RemoteError:
            pass

    threading.Thread(target=train, daemon=True).start()
    panel = server.panel()
    panel
    return


if __name__ == "__main__":
    app.run()
"""


def test_the_panel_is_live_in_marimo_and_stops_its_server(tmp_path):
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    port = free_port()
    command = [sys.executable, "-m", "marimo", "run", "notebook.py", "--headless", "--no-token", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 280
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}").close()
                break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
        with browser_page(height=800) as page:
            page.goto(f"http://127.0.0.1:{port}")
            hits = page.locator("[data-route=forward] [data-column=hits]")
            hits.wait_for(timeout=120_000)
            expect(hits).not_to_have_text(hits.inner_text(), timeout=120_000)
            page.screenshot(path=SCREENSHOTS / "marimo.png")
            page.get_by_role("button", name="Stop server").click()
            page.locator("[data-state=stopped]").wait_for()
            assert page.failures == []
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
