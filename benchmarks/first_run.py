"""The first run beside the third one, and forwards while code is compiled beside forwards while it is not.

``python benchmarks/first_run.py`` prints two tables and writes ``build/first_run.json``. The first has the wall seconds
of ``examples/demo.py`` with an empty cache, then again, then a third time, and with the cache that ``make demo`` fills
before. The second has latencies of forwards, in turns: while the process that serves has nothing else to do, while one
of its threads waits for ``ln.jit``, and while its kernels are compiled. ``--in-process`` has ``ln.jit`` compile in that
process instead, for comparison.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import labnet as ln

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"
SERVER = """
import os, shutil, sys
import numpy as np
import labnet as ln
from labnet import kernels
from labnet.kernels.machine_code import cache, compiler_process

if sys.argv[1] == "here":
    def refuse():
        raise compiler_process.NoCompiler("compiled here, for comparison")
    compiler_process.COMPILER._started = refuse

def encoder(count):
    model = ln.nn.TransformerEncoder(ln.nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0), 2)
    optimizer = ln.optim.Adam()
    def train(x):
        loss = (model(x) ** 2).mean()
        optimizer(loss.backward())
        return loss
    ln.jit(train)(ln.ones((8, count, 64)))

server = ln.network.serve_model(ln.nn.Sequential(ln.nn.Linear(64, 64), ln.nn.relu, ln.nn.Linear(64, 10)), port=0)
print(server.url, server.token, flush=True)
for line in sys.stdin:
    what, number = line.split()
    cache.clear()
    if what == "step":
        encoder(int(number))
    elif what == "kernels":
        for kernel in kernels.KERNELS:
            kernel._loading = None
            kernel.load().result()
    print("done", flush=True)
server.stop()
"""


def demo(folder: str) -> float:
    """Return the wall seconds of the demo with a cache folder."""
    began = time.perf_counter()
    command = [sys.executable, str(DEMO)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "LABNET_CACHE": folder})
    return time.perf_counter() - began


def runs(rounds: int) -> dict[str, list[float]]:
    """Time demos with empty, used and filled caches, in turns."""
    found: dict[str, list[float]] = {"first": [], "second": [], "third": [], "after make demo": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as filled:
            command = [sys.executable, "-m", "labnet", "cache", "--warm"]
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, "LABNET_CACHE": filled})
            for name in ("first", "second", "third"):
                found[name].append(demo(empty))
            found["after make demo"].append(demo(filled))
    return found


class Serving:
    """A process that serves a model, and that is told to compile."""

    def __init__(self, folder: str, place: str):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = {**os.environ, "LABNET_CACHE": folder}
        self._process = subprocess.Popen([sys.executable, "-c", SERVER, place], text=True, env=environment, **pipes)
        url, token = self._process.stdout.readline().split()
        self._model = ln.network.remote_model(url, token=token, blocking=True)
        self._x = ln.ones((8, 64))

    def latencies(self, what: str, number: int, least: int) -> list[float]:
        """Return the seconds of forwards, one after the other, until the server has done what it is told."""
        done = threading.Event()
        print(what, number, file=self._process.stdin, flush=True)
        threading.Thread(target=lambda: (self._process.stdout.readline(), done.set())).start()
        found = []
        while not done.is_set() or len(found) < least:
            began = time.perf_counter()
            with ln.no_grad():
                self._model(self._x)
            found.append(time.perf_counter() - began)
        return found

    def end(self) -> None:
        """Stop the server."""
        self._process.stdin.close()
        self._process.wait()


def forwards(rounds: int, place: str) -> dict[str, list[float]]:
    """Return the latencies of forwards beside each kind of work, in turns."""
    found: dict[str, list[float]] = {"nothing": [], "step": []}
    if place == "child":
        found["kernels"] = []
    with tempfile.TemporaryDirectory() as folder:
        serving = Serving(folder, place)
        serving.latencies("nothing", 0, 1000)
        for number in range(rounds):
            for what, times in found.items():
                times += serving.latencies(what, 8 + number, 2000 if what == "nothing" else 0)
        serving.end()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-process", action="store_true", help="compile in the process that serves")
    parser.add_argument("--only", choices=("demo", "forwards"))
    parser.add_argument("--json", type=Path, default=Path("build/first_run.json"))
    arguments = parser.parse_args()
    results = {}
    if arguments.only != "forwards":
        demos = {name: float(np.median(times)) for name, times in runs(arguments.rounds).items()}
        print(f"{'demo, wall s':<24}{'median':>9}{'x third':>9}")
        for name, seconds in demos.items():
            print(f"{name:<24}{seconds:>9.2f}{seconds / demos['third']:>9.2f}", flush=True)
        results["demo"] = demos
    if arguments.only != "demo":
        times = forwards(arguments.rounds, "here" if arguments.in_process else "child")
        shares = {name: [float(np.percentile(found, share)) for share in (50, 99)] for name, found in times.items()}
        print(f"{'forwards beside, ms':<24}{'count':>9}{'p50':>9}{'p99':>9}{'x p99':>9}")
        for name, (half, most) in shares.items():
            ratio = most / shares["nothing"][1]
            print(f"{name:<24}{len(times[name]):>9}{half * 1e3:>9.2f}{most * 1e3:>9.2f}{ratio:>9.2f}")
        results["forwards"] = shares
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
