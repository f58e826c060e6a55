"""Local steps beside a gradient for each step over a slow link: ``python benchmarks/local_steps.py``.

A trainer reaches its server through a proxy that delays and throttles both directions. It trains for so many seconds
with a request for each forward and backward, with bfloat16 on the wire, and with local steps (DiLoCo) whose
differences are float32, bfloat16 and int8. The tables have steps per second, bytes sent and received for a step, and
the loss over the training data after a third, two thirds and all of the time. With ``--sweep`` links of 20, 100 and
200 ms with 10 and 100 Mbit/s are compared.
"""

import argparse
import asyncio
import itertools
import os
import sys
import threading
import time

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np

import labnet as ln

TEXT = "the quick brown fox jumps over the lazy dog and runs to the river to drink some water before the night. " * 40
WINDOW = 12
LOSSES = ("loss after a third", "two thirds", "all")


class Link:
    """A proxy on a thread of its own, with a delay each way and a bandwidth in each direction."""

    def __init__(self, port, seconds, bytes_per_second):
        self._target, self._seconds, self._rate = port, seconds, bytes_per_second
        self.nbytes = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        serving = asyncio.start_server(self._connect, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(serving, self._loop).result()
        self.port = server.sockets[0].getsockname()[1]

    async def _connect(self, reader, writer):
        there = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))

    async def _pass(self, reader, writer):
        """Send on what comes: when the bytes before it are through, and the delay after that."""
        loop, free, waiting = self._loop, 0.0, asyncio.Queue()

        async def deliver():
            while (item := await waiting.get()) is not None:
                await asyncio.sleep(max(0.0, item[0] - loop.time()))
                writer.write(item[1])
            writer.close()

        delivering = asyncio.ensure_future(deliver())
        while chunk := await reader.read(1 << 16):
            self.nbytes += len(chunk)
            free = max(free, loop.time()) + len(chunk) / self._rate
            waiting.put_nowait((free + self._seconds, chunk))
        waiting.put_nowait(None)
        await delivering


def digits():
    """Return a classifier of digits, its batches and its loss over all of them."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = (images / 16).astype("float32"), labels.astype("int64")

    def make():
        ln.manual_seed(0)
        return ln.nn.Sequential(ln.nn.Linear(64, 128), ln.nn.ReLU(), ln.nn.Linear(128, 10))

    return make, x, y


def characters():
    """Return a model of the next character, its batches and its loss over all of them."""
    letters = sorted(set(TEXT))
    codes = np.array([letters.index(letter) for letter in TEXT])
    rows = np.lib.stride_tricks.sliding_window_view(codes, WINDOW)[:-1]
    x = np.eye(len(letters), dtype="float32")[rows].reshape(len(rows), -1)

    def make():
        ln.manual_seed(0)
        return ln.nn.Sequential(ln.nn.Linear(WINDOW * len(letters), 128), ln.nn.Tanh(), ln.nn.Linear(128, len(letters)))

    return make, x, codes[WINDOW:].astype("int64")


def run(case, *, local_steps, dtype, seconds, delay, rate):
    """Train for so many seconds; return the steps per second, bytes per step and losses."""
    make, x, y = case
    inner = ln.optim.Adam(lr=3e-3)
    outer = ln.optim.SGD(lr=0.7, momentum=0.9, nesterov=True) if local_steps else inner
    served, chance, losses = make(), np.random.default_rng(0), []
    with ln.network.serve_model(served, outer, port=0) as server:
        link = Link(server.port, delay / 2, rate)
        given = {"local_steps": local_steps, "model": make(), "optimizer": inner} if local_steps else {}
        remote = ln.network.remote_model(
            f"127.0.0.1:{link.port}", token=server.token, blocking=True, wire_dtype=dtype, **given
        )
        began, steps, nbytes = time.perf_counter(), 0, 0
        while (passed := time.perf_counter() - began) < seconds:
            if passed > (len(losses) + 1) * seconds / 3:
                losses.append(evaluate(served, x, y))
            rows = chance.integers(0, len(x), 32)
            batch = ln.asarray(x[rows]), ln.asarray(y[rows])
            if local_steps:
                remote.step(*batch, loss=ln.loss.cross_entropy)
            else:
                ln.loss.cross_entropy(remote(batch[0]), batch[1]).backward()
            steps, nbytes = steps + 1, link.nbytes
        rate_of_steps = steps / (time.perf_counter() - began)
        losses.append(evaluate(served, x, y))
    return rate_of_steps, nbytes / steps, losses


def evaluate(model, x, y):
    with ln.no_grad():
        return ln.loss.cross_entropy(model(ln.asarray(x)), ln.asarray(y)).item()


def table(case, ways, links, options):
    """Print a row for each link and each way of training over it."""
    heads = ("round trip", "bandwidth", "gradients", "on the wire", "steps/s", "KB a step", *LOSSES)
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for (delay, megabits), (local_steps, dtype) in itertools.product(links, ways):
        speed, nbytes, losses = run(
            case,
            local_steps=local_steps,
            dtype=dtype,
            seconds=options.seconds,
            delay=delay / 1e3,
            rate=megabits * 1e6 / 8,
        )
        what = f"of {local_steps} local steps" if local_steps else "of each step"
        figures = (f"{speed:.1f}", f"{nbytes / 1e3:.1f}", *(f"{loss:.3f}" for loss in losses))
        cells = (f"{delay:g} ms", f"{megabits:g} Mbit/s", what, dtype or "float32", *figures)
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row")
    parser.add_argument("--delay", type=float, default=100.0, help="of a round trip, in ms")
    parser.add_argument("--megabits", type=float, default=100.0, help="per second, in each direction")
    parser.add_argument("--local-steps", type=int, default=20)
    parser.add_argument("--sweep", action="store_true", help="over 20, 100 and 200 ms, 10 and 100 Mbit/s")
    options = parser.parse_args()
    k = options.local_steps
    if options.sweep:
        ways, links = [(None, None), (k, "int8")], [*itertools.product((20, 100, 200), (100, 10))]
    else:
        ways = [(None, None), (None, "bfloat16"), (k, None), (k, "bfloat16"), (k, "int8")]
        links = [(options.delay, options.megabits)]
    for name, case in (("digits", digits()), ("characters", characters())):
        print(f"\n{name}, {options.seconds:g} s\n")
        table(case, ways, links, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
