"""The panel as a widget: what it sends, when, and what is left in a saved notebook."""

import base64
import gc
import itertools
import queue
import re
import threading
import weakref

import pytest

import labnet as ln
from labnet.jupyter import Panel
from labnet.jupyter.picture import picture
from labnet.jupyter.ticker import TICKER
from tests.helpers.constants import SECONDS
from tests.helpers.network.raw_http import http
from tests.helpers.ports import free_port
from tests.helpers.threads import wait_until


@pytest.fixture
def served():
    with ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, name="<i>line</i>") as server:
        yield server, ln.network.remote_model(server.url, blocking=True)


def train(remote, steps):
    for _ in range(steps):
        ln.loss.mse(remote(ln.ones((4, 2))), ln.zeros((4, 1))).backward()


def wait_for_hits(panel, hits):
    """Wait until the panel's own thread has sent this many hits to the browser."""
    arrived = threading.Event()

    def look(change):
        if change["new"].get("statistics", {}).get("forward", {}).get("hits") == hits:
            arrived.set()

    panel.observe(look, "data")
    look({"new": panel.data})
    assert arrived.wait(SECONDS)
    panel.unobserve(look, "data")


def test_the_panel_follows_the_server_without_being_asked(served):
    server, remote = served
    panel = server.panel()
    train(remote, 3)
    wait_for_hits(panel, 3)
    wait_until(lambda: len(panel.data["loss"]["values"]) == 3)
    panel.close()


def test_a_panel_attaches_to_a_url(served):
    server, remote = served
    panel = Panel(server.url)
    train(remote, 2)
    wait_for_hits(panel, 2)
    panel.close()


def test_the_last_picture_is_drawn_when_the_server_stops(served):
    server, remote = served
    panel = server.panel()
    train(remote, 2)
    stopped = threading.Event()
    panel.observe(lambda change: change["new"]["running"] or stopped.set(), "data")
    server.stop()
    assert stopped.wait(SECONDS)
    assert panel.data["statistics"]["forward"]["hits"] == 2
    panel.close()


def test_a_panel_whose_server_is_gone_says_so_and_keeps_the_numbers(served):
    server, remote = served
    panel = Panel(server.url)
    train(remote, 1)
    wait_for_hits(panel, 1)
    gone = threading.Event()
    panel.observe(lambda change: "unreachable" in change["new"] and gone.set(), "data")
    server.stop()
    assert gone.wait(SECONDS)
    assert panel.data["statistics"]["forward"]["hits"] == 1
    panel.close()


def test_the_panels_thread_ends_with_the_last_panel(served):
    server, _ = served
    panel = server.panel()
    thread = TICKER._thread
    panel.close()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_a_saved_notebook_gets_a_picture_with_escaped_text_and_no_token(served):
    server, remote = served
    train(remote, 3)
    panel = server.panel()
    data, _ = panel._repr_mimebundle_()
    assert "&lt;i&gt;line&lt;/i&gt;" in data["text/html"]
    assert "<i>line" not in data["text/html"]
    assert "data:image/svg+xml" in data["text/html"]
    assert server.token not in str(data) + str(panel.get_state())
    panel.close()


def drawings(html):
    """Return the images inside a picture as text."""
    return [base64.b64decode(data).decode() for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)]


def test_the_picture_has_curves_of_the_loss_and_of_norms(served):
    server, remote = served
    server._model.updates.norms._clock = (tick // 2 for tick in itertools.count()).__next__  # none comes too soon
    train(remote, 3)
    html = picture(server.snapshot())
    assert [title for title in ("loss", "gradient norm", "weight norm") if title not in html] == []
    assert len(drawings(html)) >= 3
    assert all(drawing.count("<polyline") == 1 for drawing in drawings(html))


EVIL = "<img src=x onerror=alert(1)>"


def test_everything_that_others_say_is_escaped_in_the_picture():
    inner = {EVIL: {"hits": 1, "latency": {"p50": 0.1}}, "server": {"name": EVIL, "incomplete": EVIL}}

    async def statistics():
        return {EVIL: inner}

    with ln.network.serve({"statistics": statistics, "f": lambda: 1}, port=0, name=EVIL) as server:
        snapshot = server.snapshot()
        snapshot |= {"unreachable": EVIL, "panel": '"><b>', "url": EVIL}
        snapshot["branches"] = {"known": {EVIL: inner}, "incomplete": EVIL}
        snapshot["statistics"][EVIL] = snapshot["statistics"]["f"]
        snapshot["recent"][EVIL] = {"hits": [1.0] * 60, "latency": [1.0] * 60}
        html = picture(snapshot)
    assert html.count("&lt;img") >= 6
    assert "<img src=x" not in html
    assert "<b>" not in html.partition("data-panel")[2][:40]


def test_a_panel_of_nobody_says_that_it_is_unreachable():
    panel = Panel(f"localhost:{free_port()}")
    assert "unreachable" in panel.data
    assert "unreachable" in picture(panel.data)
    panel.close()


def sent(panel):
    """Collect the messages that a panel sends beside its state."""
    messages, there = [], threading.Event()

    def take(content, buffers=None):
        messages.append(content)
        there.set()

    panel.send = take
    assert there.wait(SECONDS)
    return messages


@pytest.mark.parametrize("by_url", [False, True])
def test_the_browser_is_given_what_stops_the_server_in_a_message_and_never_in_the_state(served, by_url):
    server, _ = served
    panel = Panel(server.url) if by_url else server.panel()
    capability = sent(panel)[0]["capability"]
    panel.keep_picture()
    shown = [str(panel.get_state()), str(panel._repr_mimebundle_()), str(server.snapshot()), repr(panel)]
    assert not [text for text in shown if capability in text or server.token in text]
    reply = http(server, "POST", "/server/stop", capability.encode(), token=None, Content_Type="text/plain")
    assert reply.status == 200
    assert server.wait(SECONDS)
    panel.close()


def test_a_client_without_the_token_is_given_no_way_to_stop_the_server(served, monkeypatch, tmp_path):
    server, _ = served
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    panel = Panel(server.url)
    wait_until(lambda: panel.data.get("running"))
    assert sent(panel)[0] == {"capability": None}
    panel.close()


@pytest.mark.parametrize("by_url", [False, True])
def test_the_kernel_stops_the_server_where_the_browser_cannot_reach_it(served, by_url):
    server, _ = served
    panel = Panel(server.url) if by_url else server.panel()
    panel._handle_custom_msg({"stop": False}, [])
    assert server.running
    panel._handle_custom_msg({"stop": True}, [])
    assert server.wait(SECONDS)
    panel.close()


class Place:
    """Where a still picture is shown, in a notebook that is not there."""

    def __init__(self):
        self.pictures = queue.Queue()

    def update(self, data, raw):
        self.pictures.put(data["text/html"])


def test_the_still_picture_is_kept_up_to_date_while_the_panel_lives_and_when_it_ends(served):
    server, remote = served
    panel, place = server.panel(), Place()
    panel._places.append(place)
    train(remote, 2)
    while "update 2" not in place.pictures.get(timeout=60):
        pass
    server.stop()
    while "stopped" not in (last := place.pictures.get(timeout=60)):
        pass
    assert "update 2" in last
    panel.close()


def test_the_thread_that_asks_a_remote_server_ends_with_its_panel(served):
    server, _ = served
    panel = Panel(server.url)
    thread = panel.source._thread
    panel.close()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_the_picture_of_a_fresh_server_has_no_curves():
    with ln.network.serve({"hello": lambda: "hi"}, port=0) as server:
        html = picture(server.snapshot())
    assert "hello" in html
    assert drawings(html) == []


def test_a_panel_that_fails_does_not_stop_the_others(served, caplog):
    server, remote = served
    broken, panel = server.panel(), server.panel()
    broken.tick = lambda now: 1 / 0
    train(remote, 1)
    wait_for_hits(panel, 1)
    wait_until(lambda: "ZeroDivisionError" in caplog.text)
    broken.close()
    panel.close()


class Model(ln.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = ln.nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x)


def ended(panel):
    """Wait until a panel has let go of its server."""
    thread = TICKER._thread
    if thread is not None:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert not panel.live


def test_a_panel_lets_go_of_the_model_when_its_server_stops():
    model = Model()
    there = weakref.ref(model)
    server = ln.network.serve_model(model, port=0)
    panel = server.panel()
    server.stop()
    ended(panel)
    assert panel.comm is not None
    del model, server
    wait_until(lambda: (gc.collect(), there())[1] is None)
    assert panel.data["running"] is False
    panel.close()


def test_a_panel_whose_server_was_replaced_closes_itself_and_can_still_be_shown(capsys):
    with ln.network.serve_model(Model(), port=0, name="one") as first:
        panel = first.panel()
        with ln.network.serve_model(Model(), port=first.port, name="one") as second:
            ended(panel)
            assert panel.comm is None
            panel._ipython_display_()
            assert "Panel(Server('one'" in capsys.readouterr().out
            assert second.running
