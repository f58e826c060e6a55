"""The first minute: what a fresh process takes until its first training step, beside torch, jax and tinygrad.

``python benchmarks/startup.py`` prints a table and writes ``build/startup.json``. Each row is a process of its
own, started in turns, with warm disk caches; the figures are medians over the rounds, of wall time and of CPU time.
Peers that are not installed are left out (``pip install torch==2.13.0 jax tinygrad``).
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

OURS = """
import labnet as ln
model, optimizer = ln.nn.Sequential(ln.nn.Linear(64, 64), ln.nn.relu, ln.nn.Linear(64, 64)), ln.optim.Adam()
optimizer(ln.loss.mse(model(ln.ones((64, 64))), ln.zeros((64, 64))).backward())
"""
THEIRS = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
optimizer = torch.optim.Adam(model.parameters())
torch.nn.functional.mse_loss(model(torch.ones(64, 64)), torch.zeros(64, 64)).backward()
optimizer.step()
"""
JAX = """
import jax, jax.numpy as jnp
def loss(parameters, x, y):
    (a, b), (c, d) = parameters
    return jnp.mean((jax.nn.relu(x @ a + b) @ c + d - y) ** 2)
parameters = [(jnp.ones((64, 64)), jnp.zeros(64)) for _ in range(2)]
slopes = jax.grad(loss)(parameters, jnp.ones((64, 64)), jnp.zeros((64, 64)))
jax.block_until_ready(jax.tree.map(lambda value, slope: value - 1e-3 * slope, parameters, slopes))
"""
TINYGRAD = """
from tinygrad import Tensor, nn
class Model:
    def __init__(self):
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
    def __call__(self, x):
        return self.b(self.a(x).relu())
model = Model()
optimizer = nn.optim.Adam(nn.state.get_parameters(model))
with Tensor.train():
    ((model(Tensor.ones(64, 64)) - Tensor.zeros(64, 64)) ** 2).mean().backward()
    optimizer.step()
"""
FIRST = "import labnet, first step"
ROWS = {
    "python": "pass",
    "import numpy": "import numpy",
    "import labnet": "import labnet",
    FIRST: OURS,
    "the same, and a first model served": OURS + "ln.network.serve_model(model, optimizer, port=0).stop()",
    "import torch": "import torch",
    "import torch, first step": THEIRS,
    "import jax": "import jax",
    "import jax, first step": JAX,
    "import tinygrad, first step": TINYGRAD,
}


def seconds(code: str) -> tuple[float, float]:
    """Run a process to its end, and return its wall and CPU seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu


def is_installed(row: str) -> bool:
    """Return whether the peer of a row is installed."""
    return all(importlib.util.find_spec(peer) for peer in ("torch", "jax", "tinygrad") if peer in row)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("build/startup.json"))
    arguments = parser.parse_args()
    rows = {name: code for name, code in ROWS.items() if is_installed(name)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for _ in range(arguments.rounds + 1):
        for name, code in rows.items():
            times[name].append(seconds(code))
    medians = {
        name: [statistics.median(column) for column in zip(*found[1:], strict=True)]  # the first fills the caches
        for name, found in times.items()
    }
    print(f"{'milliseconds of a fresh process':<36}{'wall':>9}{'CPU':>9}{'x first step, CPU':>19}")
    for name, (wall, cpu) in medians.items():
        print(f"{name:<36}{wall * 1e3:>9.0f}{cpu * 1e3:>9.0f}{cpu / medians[FIRST][1]:>19.2f}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(medians, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
