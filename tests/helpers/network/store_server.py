"""A server with a store in a process of its own, that can be told to die at its n-th write to the disk.

``python -m tests.helpers.network.store_server FOLDER PORT DURABILITY [DEATH [MODEL]]``; MODEL says what is served.
Without it, it is `make_model`; ``linear`` is `make_linear`, and ``torch`` is `make_torch`. The URL of another server
is a model that goes on there, or in several that follow each other, comma-separated; a word of `KINDS` before the URLs
is another such model.
Environment:

- SERVER_DIES: die once before the first update is written.
- SERVER_HOST, SERVER_TOKEN: the address to bind, and the token, also of the other servers.
- SERVER_LONG: replace the journal when it has so many bytes, and keep 256 replies.
- SERVER_DROPOUT: probability of dropout before the other servers are called; SERVER_SEED: seed of its random numbers.
- SERVER_OPTIONS: further options of `serve_model`, as JSON.
- SERVER_EFFECTS: a file that gets a line each time the route ``/effect`` is carried out.
"""

import asyncio
import errno
import json
import os
import signal
import sys
from pathlib import Path

import labnet as ln
from labnet import nn
from labnet.store import Store, records, training

QUICK = ln.network.Backoff(first=0.01, longest=0.1, attempt=1.0)
WRITES = ("pwrite", "fsync", "ftruncate", "replace", "unlink")


def make_model():
    """Return a small model that is the same in every process."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    for number, parameter in enumerate(model.parameters()):
        values = [((i * 7 + number * 3) % 11 - 5) / 8 for i in range(parameter.size)]
        parameter.assign(ln.asarray(values).reshape(parameter.shape))
    return model


def make_linear():
    """Return one layer that is the same in every process."""
    layer = nn.Linear(3, 3)
    layer.weight.assign(ln.asarray([[0.5, -0.25, 1.0], [0.75, 0.5, -0.5], [-1.0, 0.25, 0.5]]))
    layer.bias.assign(ln.asarray([0.125, -0.5, 0.25]))
    return layer


def make_torch():
    """Return a module of torch with running means that is the same in every process, and its optimizer."""
    import torch

    torch.set_num_threads(1)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            values = [((i * 7 + number * 3) % 11 - 5) / 8 for i in range(parameter.numel())]
            parameter.copy_(torch.tensor(values).reshape(parameter.shape))
    return module, torch.optim.AdamW(module.parameters(), lr=0.01)


def make_optimizer():
    return ln.optim.Adam(lr=0.01)


def batch(step):
    """Return the inputs and targets of a step."""
    return ln.asarray([[step % 5 - 2.0, step % 3 - 1.0, 0.5]]), ln.asarray([[float(step % 2), 1.0]])


def die_at(count):
    """Kill this process at its n-th call that changes something on the disk: before it, or half-way through it."""
    calls = [0]

    def counting(real, name):
        def call(*arguments, **options):
            calls[0] += 1
            if calls[0] == count:
                if name == "pwrite":  # half of it gets there
                    file, data, offset = arguments
                    real(file, bytes(data)[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in WRITES:
        setattr(os, name, counting(getattr(os, name), name))
    return calls


class Composed(nn.Module):
    """A model with parts on other servers."""

    blocking = False

    def __init__(self, urls):
        super().__init__()
        self.own = make_linear()
        self._dropout = float(os.environ.get("SERVER_DROPOUT", "0"))
        options = {"token": os.environ.get("SERVER_TOKEN"), "blocking": self.blocking, "backoff": QUICK}
        self._inner = [ln.network.remote_model(url, **options) for url in urls.split(",")]

    def first(self, x):
        """Return what the other servers are given."""
        return nn.dropout(self.own(x), self._dropout, training=self.training)

    async def forward(self, x):
        y = self.first(x)
        for inner in self._inner:
            y = await inner(y)
        return y


class Blocking(Composed):
    """A model that waits for the other servers where it stands."""

    blocking = True

    def forward(self, x):
        y = self.first(x)
        for inner in self._inner:
            y = inner(y)
        return y


class Twice(Composed):
    """A model that calls one other server twice."""

    async def forward(self, x):
        y = self.first(x)
        (inner,) = self._inner
        return await inner(y) + await inner(y * 0.5)


class Upstreams(Composed):
    """A model that calls one other server twice, each time behind a server of its own, side by side."""

    factor = 0.5

    async def forward(self, x):
        y = self.first(x)
        left, right, inner = self._inner

        async def branch(model, y):
            return await inner(await model(y))

        one, other = await asyncio.gather(branch(left, y), branch(right, y * self.factor))
        return one + other


class Twins(Upstreams):
    """The same, where both calls have the same body."""

    factor = 1.0


#: Models with parts on other servers, by the word before the URLs.
KINDS = {"": Composed, "blocking": Blocking, "twice": Twice, "branches": Upstreams, "twins": Twins}
#: Models without, by their names.
ALONE = {"": make_model, "linear": make_linear}


def make_served(text):
    """Return the model that an argument MODEL names."""
    if text in ALONE:
        return ALONE[text]()
    kind, _, urls = text.rpartition(" ")
    return KINDS[kind](urls)


def die_before_writing(folder):
    """Kill this process just before its first update is written, unless an earlier one did so."""
    marker = Path(folder).with_suffix(".died")
    if marker.exists():
        return
    marker.parent.mkdir(parents=True, exist_ok=True)

    def append(*arguments):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    Store.append = append


def fail_when_told():
    """Have the next two writes to the disk fail after each signal SIGUSR1."""
    left = [0]

    def tell(number, frame):
        left[0] += 2

    def failing(real):
        def call(*arguments, **options):
            if left[0]:
                left[0] -= 1
                raise OSError(errno.EIO, "Input/output error")
            return real(*arguments, **options)

        return call

    for name in ("pwrite", "fsync"):
        setattr(os, name, failing(getattr(os, name)))
    signal.signal(signal.SIGUSR1, tell)


def limit_journal():
    """Replace the journal often, where SERVER_LONG says so."""
    if "SERVER_LONG" in os.environ:
        training._LONG, training._CHECKPOINTS = int(os.environ["SERVER_LONG"]), 0
        records._REPLIES, records._KEYS = 256, 512


def count_effects(path):
    """Return a route that adds a line to a file each time it is carried out."""

    def effect(x):
        with open(path, "a") as file:
            file.write("carried out\n")
        return x

    return effect


def main(folder, port="0", durability="group", death="0", model=""):
    calls = die_at(int(death))
    fail_when_told()
    if "SERVER_DIES" in os.environ:
        die_before_writing(folder)
    if "SERVER_SEED" in os.environ:
        ln.manual_seed(int(os.environ["SERVER_SEED"]))
    place = {"port": int(port), "name": "kept", "store": Path(folder), "durability": durability}
    place["token"] = os.environ.get("SERVER_TOKEN", "auto")
    place["host"] = os.environ.get("SERVER_HOST", "127.0.0.1")
    place |= json.loads(os.environ.get("SERVER_OPTIONS", "{}"))
    if "SERVER_EFFECTS" in os.environ:
        place["routes"] = {"effect": count_effects(os.environ["SERVER_EFFECTS"])}
    limit_journal()
    served = make_torch() if model == "torch" else (make_served(model), make_optimizer())
    server = ln.network.serve_model(*served, **place)
    version = server.statistics()["server"]["version"]
    print(json.dumps({"url": server.url, "port": server.port, "token": server.token, "version": version}), flush=True)
    sys.stdin.read()
    server.stop()
    print(calls[0], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
