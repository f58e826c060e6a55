"""What keeping a model costs a training step: ``python benchmarks/durability.py [FOLDER]``.

A client trains servers that differ in nothing but ``store=`` and ``durability=``, in turns; the folder decides which
disk is measured. Times are medians of a step, forward and backward, and ratios to the server without a store.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import labnet as ln
from labnet.store import LEVELS

MODELS = {
    "64-64-64, 8 thousand weights": (64, 64, 64),
    "784-256-10, 0.2 million weights": (784, 256, 10),
    "1024-1024-1024, 2 million weights": (1024, 1024, 1024),
}


def make(widths):
    """Return a model of so many units in each layer."""
    layers = [ln.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return ln.nn.Sequential(layers[0], ln.nn.ReLU(), *layers[1:])


def step(model, x):
    """Train once; returns the seconds that took."""
    began = time.perf_counter()
    model(x).sum().backward()
    return time.perf_counter() - began


def fsync_ms(folder):
    """Return the median time in ms that the disk takes for 4 KB."""
    times = []
    with open(Path(folder) / "probe", "wb") as file:
        for _ in range(50):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="where the stores are made (default: the folder for temporary files)")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(f"fsync of 4 KB: {fsync_ms(folder):.2f} ms")
        print(f"{'model':<36}{'no store':>10}" + "".join(f"{level:>18}" for level in LEVELS))
        for number, (name, widths) in enumerate(MODELS.items()):
            with contextlib.ExitStack() as stack:
                models = []
                for level in (None, *LEVELS):
                    kept = {} if level is None else {"store": Path(folder) / f"{number}-{level}", "durability": level}
                    server = ln.network.serve_model(make(widths), ln.optim.SGD(lr=1e-6), port=0, **kept)
                    stack.enter_context(server)
                    models.append(ln.network.remote_model(server.url, blocking=True))
                x = ln.ones((16, widths[0]))
                times: list[list[float]] = [[] for _ in models]
                for _ in range(options.steps):
                    for model, found in zip(models, times, strict=True):
                        found.append(step(model, x))
                none, *others = (1e3 * statistics.median(found[len(found) // 5 :]) for found in times)
                cells = "".join(f"{f'{ms:.2f} ms, {ms / none:.2f}':>18}" for ms in others)
                print(f"{name:<36}{f'{none:.2f} ms':>10}{cells}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
