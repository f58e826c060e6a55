"""A server with a store in a process of its own, that can be told to die at its n-th write to the disk.

``python -m tests.network.kept FOLDER PORT DURABILITY [DEATH [INNER]]``; INNER is the URL of another server that is part
of its model, or several that follow each other, comma-separated, ``blocking URL`` one that is waited for where it
stands. From the environment: with KEPT_DIES it dies once before its own update is written, KEPT_HOST is the address to
bind, and with KEPT_LONG the journal is replaced when it has so many bytes, and 256 replies are kept.
"""

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
        options = {"token": os.environ.get("KEPT_TOKEN"), "blocking": self.blocking, "backoff": QUICK}
        self._inner = [ln.network.remote_model(url, **options) for url in urls.split(",")]

    async def forward(self, x):
        y = self.own(x)
        for inner in self._inner:
            y = await inner(y)
        return y


class Blocking(Composed):
    """One that waits for the other servers where it stands."""

    blocking = True

    def forward(self, x):
        y = self.own(x)
        for inner in self._inner:
            y = inner(y)
        return y


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


def main(folder, port="0", durability="group", death="0", inner=""):
    calls = die_at(int(death))
    fail_when_told()
    if "KEPT_DIES" in os.environ:
        die_before_writing(folder)
    kind = Blocking if inner.startswith("blocking ") else Composed
    model = kind(inner.removeprefix("blocking ")) if inner else make_model()
    place = {"port": int(port), "name": "kept", "store": Path(folder), "durability": durability}
    place["token"] = os.environ.get("KEPT_TOKEN", "auto")
    place["host"] = os.environ.get("KEPT_HOST", "127.0.0.1")
    if "KEPT_LONG" in os.environ:
        training._LONG, training._CHECKPOINTS = int(os.environ["KEPT_LONG"]), 0
        records._REPLIES, records._KEYS = 256, 512
    server = ln.network.serve_model(model, make_optimizer(), **place)
    version = server.statistics()["server"]["version"]
    print(json.dumps({"url": server.url, "port": server.port, "token": server.token, "version": version}), flush=True)
    sys.stdin.read()
    server.stop()
    print(calls[0], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
