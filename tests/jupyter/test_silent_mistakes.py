"""Mistakes that would go unnoticed, in a real kernel: each is named in one sentence, without labnet's own frames."""

import re

import pytest

from tests.helpers.jupyter.kernels import IGNORED, kernel
from tests.helpers.ports import free_port
from tests.helpers.threads import wait_until

pytestmark = pytest.mark.filterwarnings(*IGNORED)

SERVE = """
server = ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port={port}, name="line")
remote = ln.network.remote_model(server.url)
x = ln.ones((3, 2))
"""
FORGOTTEN = "for _ in range(20):\n    loss = (await remote(x)).sum()\n    loss.backward()"
#: Serves from another process, which dies without a word and comes back on the same port.
OTHER = """
import subprocess, sys
code = '''
import labnet as ln
server = ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port={port}, name="other")
print("ready", flush=True)
server.wait()
'''
def start():
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\\n"
    return process
process = start()
quick = ln.network.Backoff(first=0.05, longest=0.2)
other = ln.network.remote_model("localhost:{port}", timeout=12, backoff=quick)
async def step():
    await (await other(ln.ones((3, 2)))).sum().backward()
await step()
"""
BUG = """
def helper(x):
    return x["nothing"]
def run(x):
    return helper({})
functions = ln.network.serve({"run": run}, port=0)
"""


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture(scope="module")
def shared_kernel():
    with kernel() as running:
        yield running


@pytest.fixture
def notebook(shared_kernel):
    yield shared_kernel
    shared_kernel.run("for server in ln.network.servers().values(): server.stop()")


def test_a_backward_without_await_warns_in_the_line_that_drops_it_and_the_panel_counts(notebook):
    notebook.run(SERVE.format(port=0))
    outcome = notebook.run(FORGOTTEN)
    assert "RuntimeWarning" in outcome.text
    assert "write `await loss.backward()`, or use blocking=True\n  loss.backward()" in outcome.text
    assert "not awaited" in notebook.run("loss.backward()").text
    assert "20 forwards, 0 updates" in notebook.run("server.panel()").html()
    quiet = notebook.run("grads = loss.backward()\nawait grads\ndel grads")
    assert "RuntimeWarning" not in quiet.text
    assert "20 forwards" not in notebook.run("server.panel()").html()


def test_gradients_that_an_optimizer_has_refused_do_not_warn_as_well(notebook):
    notebook.run(SERVE.format(port=0))
    outcome = notebook.try_to_run("ln.optim.SGD(lr=0.1)((await remote(x)).sum().backward())")
    assert "were not awaited" in outcome.error
    assert "RuntimeWarning" not in outcome.text


def test_a_long_retry_and_new_weights_are_reported_once(notebook):
    port = free_port()
    notebook.run(OTHER.replace("{port}", str(port)))
    outcome = notebook.try_to_run("process.kill()\nprocess.wait()\nawait ln.network.all(step(), step())")
    assert outcome.error.startswith("Unreachable")
    reports = re.findall(rf"localhost:{port}\S*: no success for \d+ s \(.+\); trying for another \d+ s", outcome.text)
    assert len(reports) == 1
    assert "no success" in notebook.try_to_run("await step()").text  # the next attempt of the user
    back = notebook.run("process = start()\nfor _ in range(3): await step()")
    assert back.text.count("server restarted") == 1
    notebook.run("process.kill()\nprocess.wait()\nprocess.stdout.close()")


@pytest.mark.parametrize("way", ["server.stop()", "%labnet stop line"])
def test_clients_of_a_stopped_server_end_at_once(notebook, way):
    notebook.run(SERVE.format(port=0))
    notebook.run("await remote(x)")
    outcome = notebook.try_to_run(f"{way}\nawait remote(x)")
    assert outcome.error.startswith("ServerStopped")
    assert "no success" not in outcome.text


def test_a_traceback_has_the_users_frames_and_the_message_only(notebook):
    notebook.run(SERVE.format(port=0) + BUG)
    cells = {
        "await remote(ln.ones((3, 5)))": "RemoteShapeError",
        "def f():\n    return ln.ones((2, 3)) @ ln.ones((2, 3))\nf()": "ShapeError",
        "ln.network.tfetch(functions.url + '/run', x, blocking=True)": "RemoteFailure",
        "ln.io.load('/nothing/there.safetensors')": "FileNotFoundError",
        "ln.nn.Sequential(ln.nn.ReLU)": "TypeError",
        "ln.optim.Adam().learning_rate = 3": "AttributeError",
        "class M(ln.nn.Module):\n    def forward(self, x):\n        return x + missing\nM()(x)": "NameError",
    }
    for cell, error in cells.items():
        outcome = notebook.try_to_run(cell)
        shown = plain(outcome.traceback)
        assert outcome.error.startswith(error)
        assert "File " not in shown, shown
        assert "During handling" not in shown
        assert cell.splitlines()[-1] in shown
    assert "return x + missing" in shown  # a user's frame below labnet's
    notebook.run("%xmode Verbose")
    assert "labnet/" in plain(notebook.try_to_run("await remote(ln.ones((3, 5)))").traceback)
    notebook.run("%xmode Context")


def test_a_bug_in_a_served_function_is_shown_by_its_own_lines(notebook):
    notebook.run(BUG)
    outcome = notebook.try_to_run("await ln.network.tfetch(functions.url + '/run', ln.ones(1))")
    assert 'return x["nothing"]' in outcome.text
    assert "KeyError: 'nothing'" in outcome.text
    assert "labnet/" not in outcome.text
    assert "the handler raised KeyError" in outcome.error


WAIT = """
import threading
from pathlib import Path
released = threading.Event()
def wait():
    Path({begun!r}).touch()
    released.wait()
waiting = ln.network.serve({{"wait": wait}}, port=0)
"""


def test_an_interrupted_cell_shows_its_own_line(notebook, tmp_path):
    begun = tmp_path / "begun"
    notebook.run(WAIT.format(begun=str(begun)))
    request = notebook.start("ln.network.tfetch(waiting.url + '/wait', blocking=True)")
    wait_until(begun.exists)
    notebook.interrupt()
    outcome = notebook.finish(request)
    notebook.run("released.set()")
    assert outcome.error.startswith("KeyboardInterrupt")
    assert "File " not in plain(outcome.traceback)


def test_a_taken_port_names_the_notebook_and_the_flag(notebook, monkeypatch):
    notebook.run(SERVE.format(port=0))
    port = notebook.run("print(server.port)").text.strip()
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/ana/second.ipynb")
    with kernel() as second:
        outcome = second.run(f"model = ln.nn.Linear(2, 1)\n%serve_model model --port {port}")
        assert f"port {port} is taken by server 'line'" in outcome.text
        assert "--port 0 takes a free one" in outcome.text
        own = second.run("%serve_model model --port 0 --no-panel\nprint(ln.network.servers().popitem()[0])").text
        notebook.run("net = ln.nn.Linear(2, 1)")
        again = notebook.run(f"%serve_model net --port {own.split()[0]}")
        assert "of second.ipynb, process" in again.text
