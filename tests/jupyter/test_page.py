"""The page at / of a server in a real browser: what it shows, to whom, and that it comes back by itself."""

import os
import subprocess
import sys
import threading

import pytest

import labnet as ln
from tests.helpers.constants import SECONDS
from tests.helpers.jupyter.jupyterlab import LEAST_CONTRAST, SCREENSHOTS, browser_page
from tests.helpers.ports import free_port

pytestmark = pytest.mark.browser

SCREENSHOTS.mkdir(parents=True, exist_ok=True)

EVIL = "<img src=x onerror='document.title=1'>"


@pytest.fixture
def composed():
    """Serve a model that says in its statistics which server it is composed of."""
    with ln.network.serve_model(ln.nn.Linear(4, 4), ln.optim.SGD(lr=0.1), port=0, name="encoder") as inner:
        encoder = ln.network.remote_model(inner.url)

        async def model(x):
            return await encoder(x)

        async def statistics():
            return {"first": await ln.network.tfetch(inner.url + "/statistics")}

        with ln.network.serve_model(model, port=0, name="outer", routes={"statistics": statistics}) as server:
            yield server


def train(server, steps=3):
    remote = ln.network.remote_model(server.url, blocking=True)
    for _ in range(steps):
        (remote(ln.ones((2, 4))) ** 2).mean().backward()


def cell(page, route, column):
    return page.locator(f"[data-route='{route}'] [data-column='{column}']")


def test_a_composed_server_shows_its_tree_with_the_latency_of_each_edge(composed):
    train(composed)
    with browser_page(width=900, height=500) as page:
        page.goto(composed.url)
        edge = page.locator(".tree li")
        edge.get_by_text("(3 calls)").wait_for()
        text = edge.inner_text()
        assert text.startswith("first")
        assert "encoder" in text
        assert "optimize" in text
        assert "3 updates" in text
        page.screenshot(path=SCREENSHOTS / "tree.png")


def test_every_figure_of_a_route_is_shown():
    def fails():
        raise ValueError(EVIL)

    with ln.network.serve({"echo": lambda x: x, "fails": fails}, port=0) as server, browser_page() as page:
        ln.network.tfetch(server.url + "/echo", ln.ones(1000), blocking=True)
        with pytest.raises(ln.errors.RemoteFailure):
            ln.network.tfetch(server.url + "/fails", blocking=True)
        page.goto(server.url)
        cell(page, "fails", "errors").get_by_text("1").wait_for()
        assert cell(page, "echo", "received").inner_text().endswith("KB")
        assert cell(page, "echo", "in flight").inner_text() == "0"
        for column in ("p50", "p90", "p99"):
            assert cell(page, "echo", column).inner_text().endswith("s")
        page.locator("[data-route=echo] path[d^=M]").wait_for(state="attached")


def test_what_others_say_is_text_in_the_page_too():
    part = {"server": {"name": EVIL, "incomplete": EVIL}, EVIL: {"hits": 1, "latency": {"p50": 0.1}}}

    async def statistics():
        return {EVIL: part}

    with (
        ln.network.serve({"f": lambda: 1, "statistics": statistics}, port=0, name=EVIL) as server,
        browser_page() as page,
    ):
        page.goto(server.url)
        page.locator(".tree li").wait_for()
        assert page.locator(".name").inner_text() == EVIL
        assert page.locator(".labnet-panel img").count() == 0
        assert page.title().startswith("<img")


def test_the_page_comes_back_when_the_server_does():
    port = free_port()
    with browser_page() as page:
        with ln.network.serve({"f": lambda: 1}, port=port, name="first"):
            page.goto(f"http://127.0.0.1:{port}")
            page.locator("[data-state=running]").wait_for()
        page.locator("[data-state=unreachable]").wait_for()
        with ln.network.serve({"f": lambda: 1}, port=port, name="second") as server:
            page.locator("[data-state=running]").wait_for()
            page.get_by_text("second").first.wait_for()
            page.reload()
            page.locator("[data-state=running]").wait_for()
            assert server.running


def test_a_request_that_never_ends_is_given_up():
    """As after a sleep: the connection is gone and nobody says so."""
    holding, held = threading.Event(), []
    holding.set()
    with ln.network.serve({"f": lambda: 1}, port=0) as server, browser_page() as page:
        page.goto(server.url)
        page.locator("[data-state=running]").wait_for()
        page.route("**/snapshot", lambda route: held.append(route) if holding.is_set() else route.continue_())
        page.locator("[data-state=unreachable]").wait_for()
        holding.clear()
        page.locator("[data-state=running]").wait_for()
        assert held


def test_it_can_be_used_by_keyboard_and_heard(composed):
    train(composed)
    with browser_page() as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(composed.url)
        page.locator("[data-route=forward]").wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.href") == f"{composed.url}/"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Copy client line"
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        page.keyboard.press("Enter")
        page.get_by_role("status").get_by_text("copied").wait_for(state="attached")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == f'remote = ln.network.remote_model("{composed.url}")'
        assert page.get_by_role("table", name="routes of outer").count() == 1
        assert page.get_by_role("rowheader", name="forward").count() == 1
        assert page.get_by_role("columnheader").count() == 11
        assert page.get_by_role("region", name="labnet server").count() == 1
        labels = page.get_by_role("img").evaluate_all("images => images.map((i) => i.getAttribute('aria-label'))")
        assert all(labels)
        composed.stop()
        page.get_by_role("status").get_by_text("unreachable").wait_for(state="attached")


def stop_button(page):
    return page.get_by_role("button", name="Stop server")


def test_the_page_stops_its_server_for_whoever_types_the_token(composed):
    with browser_page(width=900, height=400) as page:
        page.goto(composed.url)
        stop_button(page).click()
        field = page.get_by_label("Token of this server")
        field.wait_for()
        assert page.evaluate("document.activeElement.type") == "password"
        assert f"labnet token {composed.port}" in page.get_by_role("form", name="stop this server").inner_text()
        field.fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("this is not the token").wait_for()
        page.screenshot(path=SCREENSHOTS / "page-token.png")
        assert composed.running
        field.fill(composed.token)
        page.keyboard.press("Enter")
        assert composed.wait(SECONDS)
        page.locator("[data-state=stopped]").wait_for()
        assert not field.is_visible()
        assert field.input_value() == ""
        assert not stop_button(page).is_visible()
        assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0


def test_the_form_for_the_token_is_left_by_escape_and_forgets_what_was_typed(composed):
    with browser_page() as page:
        page.goto(composed.url)
        stop_button(page).click()
        field = page.get_by_label("Token of this server")
        field.fill("secret")
        page.keyboard.press("Escape")
        assert not field.is_visible()
        assert field.input_value() == ""
        assert page.evaluate("document.activeElement.textContent") == "Stop server"
        assert composed.running


def test_the_page_of_a_server_without_a_token_stops_it_at_once():
    with ln.network.serve({"f": lambda: 1}, port=0, token=None) as server, browser_page() as page:
        page.goto(server.url)
        stop_button(page).click()
        assert server.wait(SECONDS)
        page.locator("[data-state=stopped]").wait_for()


def test_a_page_that_was_stopped_shows_the_next_server_on_its_port():
    port = free_port()
    with browser_page() as page:
        with ln.network.serve({"f": lambda: 1}, port=port, token=None):
            page.goto(f"http://127.0.0.1:{port}")
            stop_button(page).click()
            page.locator("[data-state=stopped]").wait_for()
        with ln.network.serve({"f": lambda: 1}, port=port, name="second"):
            page.locator("[data-state=running]").wait_for()
            page.get_by_text("second").first.wait_for()
        page.locator("[data-state=unreachable]").wait_for()
        assert page.failures == []


#: What screen readers would read out by themselves in the next 3 seconds or more, while the numbers change.
READ_OUT = """() => new Promise((resolve) => {
    const read = [];
    let changes = 0;
    const live = '[role=status], [role=alert], [role=log], [aria-live]';
    const observer = new MutationObserver((records) => {
        changes += records.length;
        for (const { target } of records) {
            const element = target.nodeType === 1 ? target : target.parentElement;
            if (element.closest(live)) read.push(element.textContent);
        }
    });
    const panel = document.querySelector('.labnet-panel');
    observer.observe(panel, { childList: true, characterData: true, subtree: true });
    const look = () => (changes > 20 ? resolve([changes, read]) : setTimeout(look, 100));
    setTimeout(look, 3000);
})"""


def test_screen_readers_are_told_of_states_and_not_of_every_number(composed):
    training = threading.Event()

    def go_on():
        while not training.is_set():
            train(composed, steps=1)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        with browser_page() as page:
            page.goto(composed.url)
            page.locator("[data-route=forward]").wait_for()
            changes, read = page.evaluate(READ_OUT)
    finally:
        training.set()
        thread.join()
    assert changes > 20
    assert read == []


def test_the_keyboard_goes_through_the_controls_in_the_order_in_which_they_are_seen(composed):
    with browser_page() as page:
        page.goto(composed.url)
        stop_button(page).wait_for()
        focused = []
        for key in ("Tab", "Tab", "Tab", "Enter", "Tab", "Tab"):
            page.keyboard.press(key)
            if key == "Enter":
                page.get_by_label("Token of this server").wait_for()
            focused.append(
                page.evaluate("(({ activeElement: e }) => e.labels?.[0]?.textContent || e.textContent)(document)")
            )
        assert focused.pop(0) == composed.url
        assert focused == ["Copy client line", "Stop server", "Token of this server", "Stop", "Cancel"]
        heights = page.locator(".labnet-panel :is(button, input):visible").evaluate_all(
            "elements => elements.map((element) => element.getBoundingClientRect().height)"
        )
        assert min(heights) >= 24


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(composed, scheme):
    train(composed)
    with pytest.raises(ln.errors.RemoteError):
        ln.network.tfetch(composed.url + "/forward", ln.ones((1, 9)), blocking=True)
    with browser_page(color_scheme=scheme) as page:
        page.goto(composed.url)
        page.locator(".tree li").wait_for()
        page.locator("[data-column=errors].bad").wait_for()
        stop_button(page).click()
        page.get_by_label("Token of this server").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("this is not the token").wait_for()
        running = page.evaluate(LEAST_CONTRAST)
        composed.stop()
        page.locator("[data-state=unreachable]").wait_for()
        gone = page.evaluate(LEAST_CONTRAST)
    assert running[0] >= 4.5, running
    assert gone[0] >= 4.5, gone


@pytest.mark.parametrize("width", [320, 420, 640, 800])
def test_nothing_is_cut_off_at_any_width(composed, width):
    train(composed)
    with browser_page(width=width, height=900, color_scheme="dark") as page:
        page.goto(composed.url)
        page.locator(".tree li").wait_for()
        hidden = "(() => { const s = document.querySelector('.scroll'); return s.scrollWidth - s.clientWidth; })()"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(hidden) <= 0
        page.screenshot(path=SCREENSHOTS / f"width-{width}.png")


SIMULATED = """
import sys
import labnet as ln
model = ln.nn.Sequential(ln.nn.Linear(2, 2), ln.nn.relu)
with ln.network.serve_model(model, ln.optim.SGD(lr=0.1), port=0, device="cuda", token=None) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def on_a_gpu():
    """Serve a model in a process whose GPU is Numba's simulator, which is asked for before Numba is imported."""
    pytest.importorskip("numba.cuda", reason='needs numba-cuda: pip install "labnet[cuda]"')
    command, environment = [sys.executable, "-c", SIMULATED], {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        url = process.stdout.readline().strip()
        remote = ln.network.remote_model(url, blocking=True)
        for _ in range(2):
            (remote(ln.ones((1, 2))) ** 2).mean().backward()
        yield url
        process.stdin.close()
        assert process.wait(SECONDS) == 0


@pytest.mark.parametrize("width", [320, 420, 900])
def test_what_a_gpu_computes_is_shown_op_by_op_below_its_headings(on_a_gpu, width):
    with browser_page(width=width, height=900) as page:
        page.goto(on_a_gpu)
        row = page.locator(".kernels [data-op='linear.backward']")
        row.wait_for()
        assert "simulator" in page.locator(".facts").inner_text()
        assert row.locator("[data-column=calls]").inner_text() == "2"
        assert row.locator("[data-column=share]").inner_text().endswith("%")
        for column in ("calls", "each", "GPU time", "share"):
            head, cell = (
                page.locator(f".kernels thead [data-column='{column}']"),
                row.locator(f"[data-column='{column}']"),
            )
            assert head.is_visible() == cell.is_visible() == (column != "each" or width > 480)
            if head.is_visible():
                assert head.bounding_box()["x"] == cell.bounding_box()["x"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=SCREENSHOTS / f"gpu-{width}.png")
