"""The first compiled step of a fresh process, beside jax: with nothing on the disk, with machine code there, and again.

``python benchmarks/compiled_start.py`` prints medians of processes of their own and writes
``build/compiled_start.json``. Cold are CPU seconds from the call of ``ln.jit`` or ``jax.jit`` to the first result, the
imports of the compiler and child processes included; jax has run a small computation before. `disk` is the same with
machine code on the disk. `again` is the wall time of a second version in the same process whose last layer has another
activation, as when a cell of a notebook is run again.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMON = """
import json, os, resource, sys, time
import numpy as np

rng = np.random.default_rng(0)

def cpu():
    own, total = resource.getrusage(resource.RUSAGE_SELF), 0.0
    for process in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            fields = open(f"/proc/{process}/stat").read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own.ru_utime + own.ru_stime + total

def first(step, *inputs):
    before, began = cpu(), time.perf_counter()
    step(*inputs)
    return cpu() - before, time.perf_counter() - began
"""
LABNET = """
import labnet as ln
nn = ln.nn

def mlp(last, *widths):
    layers = []
    for i, o in zip(widths, widths[1:]):
        layers += [nn.Linear(i, o), ln.nn.relu]
    return nn.Sequential(*layers[:-1], last)

def convolutions(last):
    pool = (ln.nn.relu, nn.MaxPool2d(2))
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), *pool, nn.Conv2d(16, 32, 3), *pool, nn.Flatten(), nn.Linear(800, 10), last
    )

class Recurrent(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.lstm, self.linear, self.last = nn.LSTM(64, 64), nn.Linear(64, 64), last

    def forward(self, x):
        return self.last(self.linear(self.lstm(x)[0]))

def encoder(last, layers):
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, layers), last)

MODELS = {
    "T1": lambda last: (mlp(last, 1, 8, 8, 8, 8, 1), ln.optim.SGD(lr=1e-3), (10, 1)),
    "T2": lambda last: (mlp(last, 64, 64, 64), ln.optim.SGD(lr=1e-3), (64, 64)),
    "T3": lambda last: (mlp(last, 784, 256, 10), ln.optim.Adam(), (128, 784)),
    "T4": lambda last: (convolutions(last), ln.optim.SGD(lr=1e-3), (32, 1, 28, 28)),
    "LSTM": lambda last: (Recurrent(last), ln.optim.Adam(), (32, 16, 64)),
    **{f"encoder {n}": lambda last, n=n: (encoder(last, n), ln.optim.Adam(), (8, 64, 64)) for n in (1, 4, 12)},
}

def step_of(last):
    model, optimizer, shape = MODELS[sys.argv[1]](last)
    x = ln.asarray(rng.standard_normal(shape).astype("f4"))
    if sys.argv[1] in ("T3", "T4"):
        y, loss = ln.asarray(np.zeros(shape[0], int)), ln.loss.cross_entropy
    else:
        y, loss = (ln.asarray(np.ones((10, 1), "f4")) if sys.argv[1] == "T1" else x), ln.loss.mse

    def train(x, y):
        value = loss(model(x), y)
        optimizer(value.backward())
        return value

    return ln.jit(train), x, y

found = [*first(*step_of(nn.Identity()))]
found.append(first(*step_of(nn.Tanh()))[1])
print(json.dumps(found))
"""
JAX = """
import jax, jax.numpy as jnp

def linear(i, o):
    return [rng.standard_normal((i, o)).astype("f4") / np.sqrt(i), np.zeros(o, "f4")]

def mlp(layers, x):
    for position, (w, b) in enumerate(layers):
        x = x @ w + b
        x = jax.nn.relu(x) if position < len(layers) - 1 else x
    return x

def convolutions(p, x):
    for w, b in (p[0], p[1]):
        x = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID") + b[None, :, None, None]
        x = jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return x.reshape(len(x), -1) @ p[2][0] + p[2][1]

def recurrent(p, x):
    def turn(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ p[0][0] + p[0][1] + h @ p[1][0] + p[1][1], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((16, 64), "f4")
    return jax.lax.scan(turn, (zeros, zeros), x)[1] @ p[2][0] + p[2][1]

def normalized(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p[0] + p[1]

def encoder(layers, x):
    key = jax.random.key(0)

    def drop(h):
        nonlocal key
        key, used = jax.random.split(key)
        return jnp.where(jax.random.uniform(used, h.shape) >= 0.1, h / 0.9, 0)

    for p in layers:
        q, k, v = (
            a.reshape(8, 64, 4, 16).transpose(0, 2, 1, 3) for a in jnp.split(x @ p["in"][0] + p["in"][1], 3, -1)
        )
        h = drop(jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) / 4)) @ v
        h = h.transpose(0, 2, 1, 3).reshape(x.shape) @ p["out"][0] + p["out"][1]
        x = normalized(p["one"], x + drop(h))
        h = drop(jax.nn.relu(x @ p["up"][0] + p["up"][1])) @ p["down"][0] + p["down"][1]
        x = normalized(p["two"], x + drop(h))
    return x

def layer():
    norms = {name: [np.ones(64, "f4"), np.zeros(64, "f4")] for name in ("one", "two")}
    return {"in": linear(64, 192), "out": linear(64, 64), "up": linear(64, 128), "down": linear(128, 64), **norms}

def filters(*shape):
    return [rng.standard_normal(shape).astype("f4"), np.zeros(shape[0], "f4")]

def mse(y, target):
    return jnp.mean((y - target) ** 2)

def cross_entropy(y, target):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(y), target[:, None], 1))

def sgd(p, g, state):
    return jax.tree.map(lambda p, g: p - 1e-3 * g, p, g), state

def adam(p, g, state):
    m, v, t = state
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
    one, two, t = 1 - 0.9 ** (t + 1), 1 - 0.999 ** (t + 1), t + 1
    return jax.tree.map(lambda p, m, v: p - 1e-3 * (m / one) / (jnp.sqrt(v / two) + 1e-8), p, m, v), (m, v, t)

MODELS = {
    "T1": lambda: (mlp, [linear(*s) for s in ((1, 8), (8, 8), (8, 8), (8, 8), (8, 1))], sgd, (10, 1)),
    "T2": lambda: (mlp, [linear(64, 64), linear(64, 64)], sgd, (64, 64)),
    "T3": lambda: (mlp, [linear(784, 256), linear(256, 10)], adam, (128, 784)),
    "T4": lambda: (
        convolutions, [filters(16, 1, 3, 3), filters(32, 16, 3, 3), linear(800, 10)], sgd, (32, 1, 28, 28)
    ),
    "LSTM": lambda: (recurrent, [linear(64, 256), linear(64, 256), linear(64, 64)], adam, (32, 16, 64)),
    **{f"encoder {n}": lambda n=n: (encoder, [layer() for _ in range(n)], adam, (8, 64, 64)) for n in (1, 4, 12)},
}
model, p, optimizer, shape = MODELS[sys.argv[1]]()
x = rng.standard_normal(shape).astype("f4")
loss, y = (cross_entropy, np.zeros(shape[0], int)) if sys.argv[1] in ("T3", "T4") else (mse, x)
state = jax.tree.map(np.zeros_like, p), jax.tree.map(np.zeros_like, p), 0.0

@jax.jit
def train(p, state, x, y):
    value, g = jax.value_and_grad(lambda p: loss(model(p, x), y))(p)
    return *optimizer(p, g, state), value

jax.block_until_ready(jnp.ones(3) + 1)
print(json.dumps(first(lambda *given: jax.block_until_ready(train(*given)), p, state, x, y)))
"""
NAMES = ("T1", "T2", "T3", "T4", "LSTM", "encoder 1", "encoder 4", "encoder 12")


def first_step(code: str, name: str, folder: str) -> list[float]:
    """Return CPU and wall seconds of the first compiled step of a fresh process, and of what follows it."""
    result = subprocess.run(
        [sys.executable, "-c", COMMON + code, name],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "LABNET_CACHE": folder, "JAX_PLATFORMS": "cpu"},
    )
    found: list[float] = json.loads(result.stdout)
    return found


def measured(rounds: int) -> dict[str, dict[str, float]]:
    """Print and return what the first steps take; labnet and jax take turns."""
    names = ("labnet, CPU s", "jax, CPU s", "disk, ms", "disk, CPU ms", "again, ms")
    print(f"{'first step':<12}", *(f"{name:>13}" for name in names))
    has_jax, found = importlib.util.find_spec("jax") is not None, {}
    for name in NAMES:
        cold, disk, jax = [], [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                cold.append(first_step(LABNET, name, folder))
                disk.append(first_step(LABNET, name, folder))
            if has_jax:
                jax.append(first_step(JAX, name, ""))
        figures = {
            "cold_cpu": statistics.median(cpu for cpu, *_ in cold),
            "jax_cpu": statistics.median(cpu for cpu, *_ in jax) if jax else float("nan"),
            "disk": statistics.median(wall for _, wall, _ in disk),
            "disk_cpu": statistics.median(cpu for cpu, *_ in disk),
            "again": statistics.median(again for *_, again in cold),
        }
        found[name] = figures
        cpu, jax_cpu, wall, disk_cpu, again = figures.values()
        row = (f"{cpu:.2f}", f"{jax_cpu:.2f}", *(f"{seconds * 1e3:.0f}" for seconds in (wall, disk_cpu, again)))
        print(f"{name:<12}", *(f"{figure:>13}" for figure in row), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("build/compiled_start.json"))
    arguments = parser.parse_args()
    results = measured(arguments.rounds)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
