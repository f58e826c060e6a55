"""Start and end servers with a store, train them, and compare what their stores have."""

import json
import subprocess
import sys

import numpy as np

import labnet as ln
from labnet.store import Store
from tests.helpers.constants import ROOT, SECONDS
from tests.helpers.network.fork_server import fork_server
from tests.helpers.network.store_server import batch, make_model, make_optimizer

LEVELS = ["group", "every"]


class Program:
    """A server with a Python of its own, used like one that was forked."""

    def __init__(self, arguments):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.network.store_server", *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.said = json.loads(self._process.stdout.readline())

    def signal(self, number):
        self._process.send_signal(number)

    def end(self):
        with self._process as process:
            return process.communicate(timeout=SECONDS)[0]

    def wait(self):
        self._process.communicate(timeout=SECONDS)


def start(folder, port, durability="group", death=0, inner="", *, fresh=False, **environment):
    """Start a server with a store; returns the process, and what it said, None if it died before that."""
    arguments = (folder, port, durability, death, inner)
    process = Program(arguments) if fresh else fork_server().start(*arguments, **environment)
    return process, process.said


def end(process, number=None):
    """Stop a server in an orderly way, or by a signal; returns the last line that it printed."""
    if number is None:
        return process.end().strip().rpartition("\n")[2]
    process.signal(number)
    process.wait()
    return ""


async def step(model, number):
    x, y = batch(number)
    await ln.loss.mse(await model(x), y).backward()


def expected(steps):
    """Return the weights after so many steps without any fault."""
    model, optimizer = make_model(), make_optimizer()
    for number in range(steps):
        x, y = batch(number)
        optimizer(ln.loss.mse(model(x), y).backward())
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    return all(np.array_equal(np.asarray(found[name]), wanted[name]) for name in wanted)


def reopened(folder):
    """Return the weights and the version that a store has, as whoever opens it gets them."""
    model = make_model()
    store = Store(folder, model, make_optimizer())
    store.close()
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}, store


NATIVE = {"Content_Type": "application/x-labnet"}
