"""What it takes until the first compiled step of a fresh process has run, without machine code on the disk and with it.

``python benchmarks/compiled_start.py`` prints CPU seconds without a cache and milliseconds with one, and writes
``build/compiled_start.json``: medians of processes of their own, from the call of ``ln.jit`` to the first result, the
process that compiles and its imports included. Models are those of ``benchmarks/compiled.py``, and small encoders of
1, 2 and 4 layers, whose code is long.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CODE = """
import json, resource, sys, time
import numpy as np
import labnet as ln
from labnet.kernels.machine_code.compiler_process import COMPILER
def mlp(*widths):
    layers = []
    for i, o in zip(widths, widths[1:]):
        layers += [ln.nn.Linear(i, o), ln.nn.relu]
    return ln.nn.Sequential(*layers[:-1])
{model}
def train(x, y):
    value = loss(model(x), y)
    optimizer(value.backward())
    return value
cpu, wall = time.process_time(), time.perf_counter()
ln.jit(train)(ln.asarray(x), ln.asarray(y))
wall = time.perf_counter() - wall
COMPILER.stop()  # so that its CPU time is counted here
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.process_time() - cpu + used.ru_utime + used.ru_stime, wall]))
"""
_SGD = "optimizer, loss = ln.optim.SGD(lr=1e-3), ln.loss.mse\n"
_CLASSES = "loss = ln.loss.cross_entropy\n"
_POOL = "ln.nn.relu, ln.nn.MaxPool2d(2)"
MODELS = {
    "T1": _SGD + "model, x, y = mlp(1, 8, 8, 8, 8, 1), np.ones((10, 1), 'f4'), np.ones((10, 1), 'f4')",
    "T2": _SGD + "model, x, y = mlp(64, 64, 64), np.ones((64, 64), 'f4'), np.ones((64, 64), 'f4')",
    "T3": _CLASSES
    + "model, optimizer, x, y = mlp(784, 256, 10), ln.optim.Adam(), np.ones((128, 784), 'f4'), np.zeros(128, int)",
    "T4": _CLASSES
    + f"model = ln.nn.Sequential(ln.nn.Conv2d(1, 16, 3), {_POOL}, ln.nn.Conv2d(16, 32, 3), {_POOL}, "
    + "lambda h: h.reshape((32, -1)), ln.nn.Linear(800, 10))\n"
    + "optimizer, x, y = ln.optim.SGD(lr=1e-3), np.ones((32, 1, 28, 28), 'f4'), np.zeros(32, int)",
    **{
        f"encoder {layers}": "optimizer, loss, x = ln.optim.Adam(), ln.loss.mse, np.ones((4, 6, 16), 'f4')\n"
        f"y, model = x, ln.nn.TransformerEncoder(ln.nn.TransformerEncoderLayer(16, 2, 32), {layers})"
        for layers in (1, 2, 4)
    },
}


def first_step(model: str, folder: str) -> tuple[float, float] | None:
    """Return CPU and wall seconds of the first compiled step of a fresh process; None if it cannot be compiled."""
    result = subprocess.run(
        [sys.executable, "-c", CODE.format(model=model)],
        capture_output=True,
        text=True,
        env={**os.environ, "LABNET_CACHE": folder},
    )
    return None if result.returncode else tuple(json.loads(result.stdout))


def measured(rounds: int) -> dict[str, dict[str, float]]:
    """Print and return what the first step takes without and with a cache; medians of some processes each."""
    print(f"{'first step':<12}{'cold, CPU s':>12}{'cached, ms':>12}{'cached, CPU ms':>16}")
    found = {}
    for name, model in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            cold = [first_step(model, tempfile.mkdtemp(dir=folder)) for _ in range(3)]
            if None in cold:
                print(f"{name:<12} cannot be compiled")
                continue
            kept = tempfile.mkdtemp(dir=folder)
            first_step(model, kept)
            cached = [first_step(model, kept) for _ in range(rounds)]
        found[name] = {
            "cold_cpu": statistics.median(cpu for cpu, _ in cold),
            "cached": statistics.median(wall for _, wall in cached),
            "cached_cpu": statistics.median(cpu for cpu, _ in cached),
        }
        cold_cpu, wall, cpu = found[name].values()
        print(f"{name:<12}{cold_cpu:>12.2f}{wall * 1e3:>12.0f}{cpu * 1e3:>16.0f}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=Path("build/compiled_start.json"))
    arguments = parser.parse_args()
    results = measured(arguments.rounds)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
