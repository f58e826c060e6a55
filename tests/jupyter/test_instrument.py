"""The panel as an instrument, in a real browser: values, zoom, downloads, metrics, clients, controls and alerts."""

import csv
import itertools
import statistics
import threading

import pytest

import labnet as ln
from tests.helpers.constants import SECONDS
from tests.helpers.jupyter.jupyterlab import SCREENSHOTS, browser_page, jupyterlab
from tests.helpers.jupyter.lab_notebooks import SERVE, open_notebook, run_all, write_notebook

pytestmark = pytest.mark.browser

SCREENSHOTS.mkdir(parents=True, exist_ok=True)

FRAME_TIMES = """() => new Promise((resolve) => {
    const times = [];
    const look = (now) => (times.push(now), times.length < 120 ? requestAnimationFrame(look) : resolve(times));
    requestAnimationFrame(look);
})"""
TEN = """%%capture --no-display
servers = [ln.network.serve_model(ln.nn.Linear(4, 1), "sgd", port=0, name=f"model {n}") for n in range(10)]
for server in servers:
    display(server.panel())"""
#: Trains all of them in one blocking cell until the server of the last one is stopped.
TRAIN_ALL = """remotes = [ln.network.remote_model(server.url, blocking=True) for server in servers]
print("training ten", flush=True)
while True:
    for remote in remotes:
        (remote(ln.ones((8, 4))) ** 2).mean().backward()"""
#: The hits that the panels show.
HITS = """() => {
    const cells = document.querySelectorAll('[data-route=forward] [data-column=hits]');
    return [...cells].map((cell) => cell.textContent);
}"""
HEIGHT = "document.querySelector('.labnet-panel').getBoundingClientRect().height"
#: Takes notifications down in place of the system, which has none here.
NOTIFICATIONS = """
window.told = [];
window.Notification = class {
    constructor(title, { body }) { window.told.push(`${title}: ${body}`); }
    static requestPermission() { return Promise.resolve('granted'); }
};
"""


@pytest.fixture
def server():
    model = ln.nn.Sequential(ln.nn.Linear(4, 8), ln.nn.relu, ln.nn.Linear(8, 1))
    with ln.network.serve_model(model, ln.optim.SGD(lr=0.01), port=0, name="bench", token=None) as server:
        yield server


def train(server, steps, *, spike=None, **options):
    """Train with known losses: the number of the step, and a spike."""
    remote = ln.network.remote_model(server.url, blocking=True, **options)
    for step in range(steps):
        loss = 0 * remote(ln.ones((8, 4))).sum() + (1000.0 if step == spike else float(step))
        loss.backward()
    return remote


def figure(page, title):
    return page.locator("figure").filter(has=page.get_by_text(title, exact=True))


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def wait_for_updates(page, number):
    page.get_by_text(f"{number:,} updates", exact=True).wait_for()


def test_values_are_read_off_zoomed_and_smoothed(server):
    train(server, 101)
    with browser_page(width=1000, height=700) as page:
        page.goto(server.url)
        wait_for_updates(page, 101)
        loss = figure(page, "loss")
        plot = loss.locator(".plot svg")
        box = plot.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
        loss.get_by_text("50.00 at 51", exact=True).wait_for()
        assert loss.locator(".cursor").is_visible()
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 50)
        page.mouse.up()
        loss.get_by_text("update 51", exact=True).wait_for()
        assert loss.locator(".axis").inner_text().split()[-1] == "76"
        assert figure(page, "weight norm").get_by_text("update 51", exact=True).is_visible()  # all zoom together
        before = plot.locator("path").count()
        button(page, "smooth").click()
        assert plot.locator("path").count() == before + 1
        button(page, "log scale").click()
        loss.get_by_text("log scale", exact=True).wait_for()
        page.screenshot(path=SCREENSHOTS / "zoomed.png")
        button(page, "whole curve").click()
        loss.get_by_text("update 1", exact=True).wait_for()
        plot.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.get_by_role("status").get_by_text("loss 1.000 at update 2").wait_for(state="attached")
        assert page.failures == []


def test_a_spike_among_thousands_stays_and_is_downloaded(server):
    server.served.losses.add(1, 1.0)
    for step in range(2, 20_000):
        server.served.losses.add(step, 777.0 if step == 12_345 else 1.0)
    server.log(accuracy=0.5)
    server.log(accuracy=0.75)
    with browser_page(width=1000, height=700) as page:
        page.goto(server.url)
        loss = figure(page, "loss")
        loss.locator(".high").get_by_text("777.0").wait_for()
        with page.expect_download() as download:
            button(page, "CSV").click()
        rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
        assert {"metric": "loss", "run": "this run", "step": "12345", "value": "777"} in rows
        assert sum(row["metric"] == "loss" for row in rows) > 256
        assert [row["value"] for row in rows if row["metric"] == "accuracy"] == ["0.5", "0.75"]
        with page.expect_download() as download:
            button(page, "PNG").click()
        assert download.value.suggested_filename == "bench.png"
        picture = download.value.path().read_bytes()
        assert picture.startswith(b"\x89PNG")
        (SCREENSHOTS / "downloaded.png").write_bytes(picture)


def test_own_metrics_clients_and_errors_are_shown_and_nothing_below_jumps(server):
    with browser_page(width=1000, height=800) as page:
        page.goto(server.url)
        page.locator("[data-route=forward]").wait_for()
        height = page.evaluate(HEIGHT)
        remote = train(server, 30, client="ana")
        for step in range(5):
            remote.log(accuracy=step / 5)
        server.log(temperature=3.5)
        server.log(temperature=4.5)
        with pytest.raises(ln.errors.RemoteShapeError):
            ln.network.remote_model(server.url, blocking=True, client="bo")(ln.ones((1, 9)))
        figure(page, "accuracy").locator("b").get_by_text("0.8000", exact=True).wait_for()
        figure(page, "temperature").locator("b").get_by_text("4.500", exact=True).wait_for()
        page.get_by_text("errors (1)").wait_for()
        assert page.evaluate(HEIGHT) == height
        facts = page.locator(".facts").inner_text()
        for name in ("learning rate", "examples", "CPU", "memory", "staleness", "waiting"):
            assert name in facts
        titles = page.locator(".facts div").evaluate_all("rows => rows.map((row) => row.title)")
        assert all(titles)
        page.get_by_text("clients (2)").click()
        page.get_by_text("errors (1)").click()
        row = page.get_by_role("row", name="ana")
        row.wait_for()
        assert row.get_by_role("cell").first.inner_text() == "30"
        page.get_by_role("cell", name="expected an input of shape").wait_for()
        assert page.get_by_role("row", name="RemoteShapeError").get_by_role("cell").first.inner_text() == "bo"
        page.screenshot(path=SCREENSHOTS / "clients.png")
    metrics = ln.network.tfetch(server.url + "/metrics", blocking=True)
    assert 'labnet_metric{name="accuracy"} 0.8' in metrics


def test_the_training_is_paused_resumed_and_its_learning_rate_set(server):
    remote = train(server, 3, timeout=4 * SECONDS)
    with browser_page(width=1000, height=700) as page:
        page.goto(server.url)
        wait_for_updates(page, 3)
        button(page, "Pause").click()
        page.locator(".state").get_by_text("paused").wait_for()
        done = threading.Event()

        def step():
            (remote(ln.ones((8, 4))) ** 2).mean().backward()
            done.set()

        trainer = threading.Thread(target=step)
        trainer.start()
        with ln.no_grad():
            assert remote(ln.ones((8, 4))).shape == (8, 1)  # inference goes on
        assert not done.is_set()
        page.screenshot(path=SCREENSHOTS / "paused.png")
        field = page.get_by_label("learning rate")
        field.fill("0.25")
        field.press("Enter")
        page.wait_for_function("() => document.querySelector('.facts').textContent.includes('0.2500')")
        button(page, "Resume").click()
        trainer.join(SECONDS)
        assert done.is_set()
        wait_for_updates(page, 4)
        assert server.optimizer.lr == 0.25
        field.fill("much")
        field.press("Enter")
        page.get_by_role("alert").get_by_text("the server refused it").wait_for()
        assert server.optimizer.lr == 0.25


def test_a_checkpoint_is_written_now(tmp_path):
    with (
        ln.network.serve_model(ln.nn.Linear(4, 1), "adam", port=0, store=tmp_path / "store", token=None) as server,
        browser_page() as page,
    ):
        train(server, 3)
        assert server.statistics()["server"]["store"]["checkpoint"] == 0
        page.goto(server.url)
        button(page, "Checkpoint").click()
        page.wait_for_function(
            "() => fetch('statistics').then((r) => r.json()).then((s) => s.server.store.checkpoint === 3)"
        )


def test_a_control_needs_the_token_as_stopping_does():
    with (
        ln.network.serve_model(ln.nn.Linear(4, 1), "sgd", port=0, name="guarded") as server,
        browser_page() as page,
    ):
        page.goto(server.url)
        button(page, "Pause").click()
        field = page.get_by_label("Token of this server")
        field.fill("wrong")
        field.press("Enter")
        page.get_by_role("alert").get_by_text("this is not the token").wait_for()
        assert not server.snapshot()["statistics"]["server"]["paused"]
        field.fill(server.token)
        field.press("Enter")
        page.locator(".state").get_by_text("paused").wait_for()
        assert not field.is_visible()
        server.resume()


def test_an_alert_reaches_the_panel_the_browser_and_a_function(server):
    told, heard = [], threading.Event()
    server.alerts.silence_seconds = float("inf")  # which a busy machine may begin with

    @server.on_alert
    def note(alert):
        told.append(alert)
        heard.set()

    remote = train(server, 2)
    with browser_page(width=1000, height=700) as page:
        page.add_init_script(NOTIFICATIONS)
        page.goto(server.url)
        wait_for_updates(page, 2)
        button(page, "Notify me").click()
        remote.log(accuracy=float("nan"))
        page.locator(".alert").get_by_text("nan: accuracy is nan at step 2").wait_for()
        page.wait_for_function("() => window.told.length === 1")
        assert page.evaluate("window.told") == ["bench: accuracy is nan at step 2"]
        page.screenshot(path=SCREENSHOTS / "alert.png")
    assert heard.wait(SECONDS)
    assert [(alert.kind, alert.message) for alert in told] == [("nan", "accuracy is nan at step 2")]


def test_forwards_without_an_update_are_marked(server):
    remote = ln.network.remote_model(server.url, blocking=True)
    for _ in range(20):
        loss = remote(ln.ones((8, 4))).sum()
    with browser_page(width=1000, height=700) as page:
        page.goto(server.url)
        page.locator(".alert").get_by_text("20 forwards, 0 updates").wait_for()
        page.screenshot(path=SCREENSHOTS / "not-trained.png")
        loss.backward()
        page.locator(".alert").get_by_text("no alerts").wait_for()


def test_the_curve_of_the_run_before_stays_faint():
    with ln.network.serve_model(ln.nn.Linear(4, 1), "sgd", port=0, name="again") as first:
        train(first, 40)
    again = ln.nn.Linear(4, 1)
    with (
        ln.network.serve_model(again, "sgd", port=0, name="again", token=None) as second,
        browser_page(width=1000, height=700) as page,
    ):
        train(second, 20)
        page.goto(second.url)
        loss = figure(page, "loss")
        loss.locator("path.faint").wait_for(state="attached")
        assert loss.locator(".legend").inner_text().startswith("again ")
        page.screenshot(path=SCREENSHOTS / "run-before.png")


def figures(session):
    """Return what Chromium has measured of a page, in seconds; of its thread, those of the processor."""
    return {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}


def test_ten_panels_of_ten_models_stay_smooth(tmp_path):
    write_notebook(tmp_path, "ten.ipynb", SERVE, TEN, TRAIN_ALL)
    with jupyterlab(tmp_path) as address, browser_page(width=1280, height=1400) as page:
        open_notebook(page, address("ten.ipynb"))
        run_all(page)
        page.get_by_text("training ten").wait_for(timeout=120_000)
        page.wait_for_function("() => document.querySelectorAll('.labnet-panel').length === 10", timeout=120_000)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        began, times, ended = figures(session), page.evaluate(FRAME_TIMES), figures(session)
        before = page.evaluate(HITS)
        page.wait_for_function(
            f"(before) => ({HITS})().every((text, i) => text !== before[i])", arg=before, timeout=120_000
        )
        page.screenshot(path=SCREENSHOTS / "ten-panels.png")
        assert page.failures == []
    gaps = [after - before for before, after in itertools.pairwise(times)]
    share = (ended["TaskDuration"] - began["TaskDuration"]) / (ended["Timestamp"] - began["Timestamp"])
    print(f"ten panels: a frame in {statistics.median(gaps):.1f} ms, at most {max(gaps):.0f} ms, {share:.0%} of a core")
    # where drawing takes all the time, no frame is in between; where other programs do, the page has little of it
    assert statistics.median(gaps) < 100 or share < 0.5
    assert len(before) == 10


COMPARE = """ln.runs.compare("slow", "fast")"""
RUNS = """for name, rate in (("slow", 0.01), ("fast", 0.1)):
    ln.manual_seed(0)
    with ln.network.serve_model(ln.nn.Linear(4, 1), ln.optim.SGD(lr=rate), port=0, name=name) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        for _ in range(40):
            (remote(ln.ones((8, 4))) ** 2).mean().backward()"""


def test_runs_are_compared_in_a_notebook_with_the_code_of_their_cell(tmp_path):
    write_notebook(tmp_path, "runs.ipynb", SERVE, RUNS, COMPARE)
    with jupyterlab(tmp_path) as address, browser_page(width=1280, height=900) as page:
        open_notebook(page, address("runs.ipynb"))
        run_all(page)
        panel = page.locator(".labnet-panel")
        panel.get_by_text("slow, fast").wait_for(timeout=120_000)
        loss = figure(page, "loss")
        assert loss.locator("path").count() == 2
        box = loss.locator(".plot svg").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
        loss.get_by_text("fast: ").wait_for()
        assert loss.get_by_text("slow: ").is_visible()
        page.screenshot(path=SCREENSHOTS / "compared.png")
        assert page.failures == []
    assert ln.runs.get("slow").code == RUNS


CLUSTER = """from labnet.cluster.chart import Utilisation
from labnet.cluster.table import Models, Row
row = Row("second", "replica 1", "running", "tcp://127.0.0.1:36593", "http://127.0.0.1:40531", 1500, 1200, 0.0123, 10)
display(Models([row]), Utilisation({f"{name}/0": [("forward", 0.0, 1.0)] for name in ("first", "second", "third")}))"""


def test_tables_and_timelines_of_a_cluster_fit_into_a_window_of_1280_pixels(tmp_path):
    write_notebook(tmp_path, "cluster.ipynb", CLUSTER)
    with jupyterlab(tmp_path) as address, browser_page(width=1280, height=700) as page:
        open_notebook(page, address("cluster.ipynb"))
        run_all(page)
        page.locator(".jp-OutputArea-output img").wait_for()
        page.screenshot(path=SCREENSHOTS / "cluster.png")
        outputs = page.locator(".jp-OutputArea-output")
        assert outputs.count() == 2
        for wanted, given in outputs.evaluate_all("all => all.map((one) => [one.scrollWidth, one.clientWidth])"):
            assert wanted <= given
