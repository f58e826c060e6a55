"""The panel as a widget: what it sends, when, and what is left in a saved notebook."""

import threading

import pytest

import labnet as ln
from labnet.jupyter import Panel
from labnet.jupyter.picture import picture


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
        if change["new"]["statistics"]["forward"]["hits"] == hits:
            arrived.set()

    panel.observe(look, "data")
    look({"new": panel.data})
    assert arrived.wait(10)
    panel.unobserve(look, "data")


def test_the_panel_follows_the_server_without_being_asked(served):
    server, remote = served
    panel = server.panel()
    train(remote, 3)
    wait_for_hits(panel, 3)
    assert len(panel.data["loss"]["values"]) == 3
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
    assert stopped.wait(10)
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
    assert gone.wait(10)
    assert panel.data["statistics"]["forward"]["hits"] == 1
    panel.close()


def test_the_panels_thread_ends_with_the_last_panel(served):
    server, _ = served
    panel = server.panel()
    (thread,) = [t for t in threading.enumerate() if t.name == "labnet-panels"]
    panel.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_saved_notebook_gets_a_picture_with_escaped_text_and_no_token(served):
    server, remote = served
    train(remote, 3)
    panel = server.panel()
    data, _ = panel._repr_mimebundle_()
    assert "&lt;i&gt;line&lt;/i&gt;" in data["text/html"]
    assert "<i>line" not in data["text/html"]
    assert "<polyline" in data["text/html"]
    assert server.token not in str(data) + str(panel.get_state())
    panel.close()


def test_the_picture_of_a_fresh_server_has_no_curves():
    with ln.network.serve({"hello": lambda: "hi"}, port=0) as server:
        html = picture(server.snapshot())
    assert "hello" in html
    assert "polyline" not in html


def test_a_panel_that_fails_does_not_stop_the_others(served, caplog):
    server, remote = served
    broken, panel = server.panel(), server.panel()
    broken.refresh = lambda: 1 / 0
    train(remote, 1)
    wait_for_hits(panel, 1)
    assert "ZeroDivisionError" in caplog.text
    broken.close()
    panel.close()
