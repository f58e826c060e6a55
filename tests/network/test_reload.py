"""Handlers that serve their own port anew, and what other threads do meanwhile: nobody waits for ever.

Each in a program of its own: a thread that waits for ever would take the test run with it.
"""

import subprocess
import sys

import pytest

from tests.helpers.constants import ROOT, SECONDS

BEGIN = """
import asyncio, sys, threading
import labnet as ln

folder = sys.argv[1]
place = {"name": "reloaded", "port": 0}

def serve(routes, *, store=folder + "/store", optimizer=None):
    server = ln.network.serve_model(
        ln.nn.Linear(2, 1), optimizer or ln.optim.SGD(lr=0.1), routes=routes, store=store, **place
    )
    place["port"] = server.port
    return server

def fetch(route):
    return ln.network.tfetch(f"localhost:{place['port']}/{route}", blocking=True)

def train():
    remote = ln.network.remote_model(f"localhost:{place['port']}", blocking=True)
    remote(ln.ones((1, 2))).sum().backward()
    return remote.statistics()["server"]["version"]

def refused(function):
    try:
        return function().name
    except ln.errors.ServeError as error:
        return str(error)
"""

RELOADING = """
store = {"same": folder + "/store", "other": folder + "/other", "none": None}[sys.argv[3]]

def reload():
    return serve({"fresh": lambda: "fresh"}, store=store).name

async def reload_async():
    return reload()

serve({"reload": reload if sys.argv[2] == "sync" else reload_async})
train()
print(fetch("reload"), fetch("fresh"), train())
try:
    fetch("reload")
except ln.errors.RouteNotFound:
    print("swapped")
with ln.network.serve({"later": lambda: 1}, port=0):
    ln.network.servers()[place["port"]].stop()
from labnet.store.offline import contents
from pathlib import Path
print(contents(Path(folder) / "store").version)
"""

FORWARD = """
class Reloading(ln.nn.Linear):
    def forward(self, x):
        if self.training and place["port"]:
            serve({"fresh": lambda: "fresh"})
        return super().forward(x)

reloading, options = Reloading(2, 1), {"store": folder + "/store", **place}
with ln.network.serve_model(reloading, ln.optim.SGD(lr=0.1), **options) as s:
    place["port"] = s.port
    ln.network.remote_model(s.url, blocking=True)(ln.ones((1, 2)))
    print(fetch("fresh"), train())
    ln.network.servers()[s.port].stop()
"""

OPTIMIZER = """
class Reloading(ln.optim.SGD):
    said = None

    def __call__(self, gradients):
        self.said = refused(lambda: serve({}, optimizer=ln.optim.SGD(lr=0.1)))
        super().__call__(gradients)

optimizer = Reloading(lr=0.1)
with serve({}, optimizer=optimizer):
    print(train(), train())
print(optimizer.said)
"""

WAITED_FOR = """
entered, waiting, done = threading.Event(), threading.Event(), threading.Event()

def handler():
    entered.set()
    waiting.wait()
    names = [server.name for server in ln.network.servers().values()]
    said = refused(lambda: ln.network.serve({"other": lambda: 1}, port=0))
    server.stop()  # behind the handler: it may be replaced by then
    print(names, said, sep="\\n", flush=True)
    done.set()

async def handler_async():
    await asyncio.to_thread(entered.set)
    handler()

server = serve({"handler": handler if sys.argv[2] == "sync" else handler_async})
caller = threading.Thread(target=lambda: fetch("handler"))
caller.start()
entered.wait()
from labnet.network import threads
real = threads.Worker.call

def call(worker, function):
    waiting.set()  # for the worker, with the turn to serve
    if sys.argv[2] == "async":  # the worker is free
        done.wait()
    return real(worker, function)

threads.Worker.call = call
serve({"fresh": lambda: "fresh"})
caller.join()
print(fetch("fresh"))
ln.network.servers()[place["port"]].stop()
"""


def carried_out(program, *arguments):
    """Return what a program has printed, line by line."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=4 * SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(("store", "version", "kept"), [("same", 2, 2), ("other", 1, 1), ("none", 2, 1)])
def test_a_handler_serves_its_own_port_anew(tmp_path, kind, store, version, kept):
    assert carried_out(RELOADING, tmp_path, kind, store) == [f"reloaded fresh {version}", "swapped", str(kept)]


def test_a_model_serves_its_own_port_anew_in_its_forward(tmp_path):
    assert carried_out(FORWARD, tmp_path) == ["fresh 1"]


def test_an_optimizer_cannot_serve_its_own_port_anew_in_the_middle_of_an_update(tmp_path):
    version, said = carried_out(OPTIMIZER, tmp_path)
    assert version == "1 2"
    assert "the optimizer of this server is making an update" in said


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_that_another_thread_waits_for_as_it_serves_does_not_wait_for_that_thread(tmp_path, kind):
    names, said, fresh = carried_out(WAITED_FOR, tmp_path, kind)
    assert names == "['reloaded']"
    assert "another thread is serving or stopping a server" in said
    assert fresh == "fresh"


COMPLETING = """
from labnet.network.threads import IO, MODELS
from labnet.store import Intent, Store
import numpy as np

model = ln.nn.Linear(2, 1)
store = Store(folder + "/store", model, ln.optim.SGD(lr=0.1))
store.intend(Intent("call", ("http://inner",), forward={"x": np.ones(1)}))
store.abandon()

async def inner():
    return refused(lambda: serve({}))

print(ln.network.tfetch(ln.network.serve({"inner": inner}, port=0).url + "/inner", blocking=True))
serve({})

async def on_the_io_loop():
    return refused(lambda: serve({}))

print(IO.run(on_the_io_loop()))
for server in list(ln.network.servers().values()):
    server.stop()
"""


def test_where_serving_would_wait_for_its_own_thread_it_is_refused_at_once(tmp_path):
    inner, on_the_io_loop = carried_out(COMPLETING, tmp_path)
    assert "have it await asyncio.to_thread(serve_model, ...)" in inner
    assert "the thread that carries all sockets cannot wait for itself" in on_the_io_loop
