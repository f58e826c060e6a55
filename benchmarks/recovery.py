"""How long a store takes to open after a crash: ``python benchmarks/recovery.py``.

A process makes so many updates and is killed; another one then serves the model from its store. The table has the CPU
seconds of that start, with the checkpoints of ``recovery_seconds`` and without them, which is what it cost before.
Ratios are to the start after the fewest updates.
"""

import argparse
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np

import labnet as ln
from labnet.autograd import Gradients
from labnet.store import Outcome, Store

WIDTH = 4


def make():
    """Return the model and its optimizer."""
    model = ln.nn.Sequential(ln.nn.Linear(WIDTH, WIDTH), ln.nn.ReLU(), ln.nn.Linear(WIDTH, WIDTH))
    return model, ln.optim.Adam(lr=1e-3)


def train(folder, updates, recovery_seconds):
    """Make updates as a served model does, with the reply of each, and end without closing the store."""
    model, optimizer = make()
    store = Store(Path(folder), model, optimizer, recovery_seconds=recovery_seconds)
    parameters = list(model.parameters())
    chance = np.random.default_rng(0)
    values = [chance.normal(size=p.shape).astype("float32") for p in parameters]
    reply = bytes(64 * WIDTH)
    for number in range(updates):
        outcome = Outcome(f"trainer:{number}", ("/optimize", f"{number:032x}"), f"{number:032x}", reply, number + 1)
        gradients = Gradients([(p, ln.asarray(value)) for p, value in zip(parameters, values, strict=True)])
        store.append(gradients, [outcome])
        optimizer(gradients)
        store.applied([outcome])
    os.kill(os.getpid(), signal.SIGKILL)


def recover(folder):
    """Serve the model from its store; print the CPU seconds of that and the replayed updates."""
    model, optimizer = make()
    began = time.process_time()
    server = ln.network.serve_model(model, optimizer, port=0, store=folder)
    seconds = time.process_time() - began
    print(seconds, server.statistics()["server"]["store"]["replayed"], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def measured(updates, recovery_seconds):
    """Return the CPU seconds of the two starts after a crash, and the updates that they replay."""
    with tempfile.TemporaryDirectory() as folder:
        place = [str(Path(folder) / "store")]
        subprocess.run([sys.executable, __file__, "--train", *place, str(updates), str(recovery_seconds)], check=False)
        found = []
        for _ in range(2):
            told = subprocess.run(
                [sys.executable, __file__, "--recover", *place], stdout=subprocess.PIPE, text=True, check=False
            ).stdout.split()
            found.append((float(told[0]), int(told[1])))
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, nargs="+", default=[50, 10_000, 100_000])
    parser.add_argument("--train", nargs=3, metavar=("FOLDER", "UPDATES", "SECONDS"), help=argparse.SUPPRESS)
    parser.add_argument("--recover", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train[0], int(options.train[1]), float(options.train[2]))
    if options.recover:
        recover(options.recover)
    print("| updates | recovery_seconds | replayed | start, s of CPU | ratio | start after a second crash |")
    print("|---|---|---|---|---|---|")
    first = None
    for updates in options.updates:
        for seconds in (1.0, math.inf):
            (start, replayed), (again, _) = measured(updates, seconds)
            first = first or start
            print(f"| {updates:,} | {seconds:g} | {replayed:,} | {start:.2f} | {start / first:.1f} | {again:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
