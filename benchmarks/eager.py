"""Eager speed on one thread beside NumPy, torch, jax and mygrad, in one run.

``python benchmarks/eager.py`` prints a table and writes ``build/eager.json``. Peers that are not installed are
left out (``pip install torch==2.13.0 jax mygrad``). Every figure is the median of interleaved rounds, so a
drift of the machine's speed hits all columns alike; the ratio to torch is what can be compared between runs.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import itertools

import numpy as np

import labnet as ln
from labnet import kernels

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None
try:
    import jax
    import jax.numpy as jnp
except ImportError:
    jax = None
try:
    import mygrad
except ImportError:
    mygrad = None

Task = Callable[[], object]
Row = dict[str, Task]

rng = np.random.default_rng(0)


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype("float32")


# Elementary rows


def add_rows(n: int) -> dict[str, Row]:
    a, b = normal(n), normal(n)
    forward: Row = {"numpy": lambda: a + b}
    recorded: Row = {}
    both: Row = {}

    x, y = ln.asarray(a), ln.asarray(b)
    p, q = ln.asarray(a, requires_grad=True), ln.asarray(b, requires_grad=True)
    g = ln.asarray(b)
    forward["labnet"] = lambda: x + y
    recorded["labnet"] = lambda: p + q
    both["labnet"] = lambda: (p + q).backward(g)
    if torch:
        tx, ty, tg = torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(b)
        tp, tq = tx.clone().requires_grad_(), ty.clone().requires_grad_()
        forward["torch"] = lambda: tx + ty
        recorded["torch"] = lambda: tp + tq
        both["torch"] = lambda: (tp + tq).backward(tg)
    if jax:
        jx, jy = jnp.asarray(a), jnp.asarray(b)
        forward["jax"] = lambda: (jx + jy).block_until_ready()
    if mygrad:
        mx, my = mygrad.tensor(a), mygrad.tensor(b)
        recorded["mygrad"] = lambda: mx + my
        both["mygrad"] = lambda: (mx + my).backward(b)
    return {f"add {n}": forward, f"add {n}, recorded": recorded, f"add {n}, forward+backward": both}


def matmul_rows(n: int) -> dict[str, Row]:
    a, b = normal(n, n), normal(n, n)
    x, y = ln.asarray(a), ln.asarray(b)
    p, q = ln.asarray(a, requires_grad=True), ln.asarray(b, requires_grad=True)
    forward: Row = {"numpy": lambda: a @ b, "labnet": lambda: x @ y}
    recorded: Row = {"labnet": lambda: p @ q}
    both: Row = {"labnet": lambda: (p @ q).backward(y)}
    if torch:
        tx, ty = torch.from_numpy(a), torch.from_numpy(b)
        tp, tq = tx.clone().requires_grad_(), ty.clone().requires_grad_()
        forward["torch"] = lambda: tx @ ty
        recorded["torch"] = lambda: tp @ tq
        both["torch"] = lambda: (tp @ tq).backward(ty)
    if jax:
        jx, jy = jnp.asarray(a), jnp.asarray(b)
        forward["jax"] = lambda: (jx @ jy).block_until_ready()
    return {f"matmul {n}": forward, f"matmul {n}, recorded": recorded, f"matmul {n}, forward+backward": both}


def hidden_rows(n: int) -> dict[str, Row]:
    a, w, b = normal(64, n), normal(n, n, scale=n**-0.5), normal(n)

    def with_numpy() -> np.ndarray:
        return np.tanh(np.maximum(a @ w + b, 0) * 0.5) + a

    x, weight, bias = ln.asarray(a), ln.asarray(w), ln.asarray(b)
    p, q, r = (ln.asarray(v, requires_grad=True) for v in (a, w, b))

    def ours(x: ln.Tensor, weight: ln.Tensor, bias: ln.Tensor) -> ln.Tensor:
        return ln.tanh(ln.nn.relu(x @ weight + bias) * 0.5) + x

    forward: Row = {"numpy": with_numpy, "labnet": lambda: ours(x, weight, bias)}
    recorded: Row = {"labnet": lambda: ours(p, q, r)}
    both: Row = {"labnet": lambda: ours(p, q, r).backward(x)}
    if torch:
        tx, tw, tb = map(torch.from_numpy, (a, w, b))
        tp, tq, tr = (t.clone().requires_grad_() for t in (tx, tw, tb))

        def theirs(x, weight, bias):
            return torch.tanh(torch.relu(x @ weight + bias) * 0.5) + x

        forward["torch"] = lambda: theirs(tx, tw, tb)
        recorded["torch"] = lambda: theirs(tp, tq, tr)
        both["torch"] = lambda: theirs(tp, tq, tr).backward(tx)
    return {
        f"hidden layer {n}": forward,
        f"hidden layer {n}, recorded": recorded,
        f"hidden layer {n}, forward+backward": both,
    }


# Training steps


def our_mlp(widths: tuple[int, ...]) -> ln.nn.Sequential:
    layers: list = []
    for inner, outer in itertools.pairwise(widths):
        layers += [ln.nn.Linear(inner, outer), ln.nn.relu]
    return ln.nn.Sequential(*layers[:-1])


def torch_mlp(widths: tuple[int, ...]):
    layers: list = []
    for inner, outer in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inner, outer), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def our_step(model, optimizer, loss, x, y) -> Task:
    return lambda: optimizer(loss(model(x), y).backward())


def torch_step(model, optimizer, loss, x, y) -> Task:
    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    return step


def mlp_rows(name: str, widths: tuple[int, ...], batch: int) -> dict[str, Row]:
    """Mean squared error and SGD, as modules and written by hand."""
    x, y = normal(batch, widths[0]), normal(batch, widths[-1])
    modules: Row = {
        "labnet": our_step(our_mlp(widths), ln.optim.SGD(lr=1e-3), ln.loss.mse, ln.asarray(x), ln.asarray(y))
    }
    by_hand: Row = {}
    weights = [normal(i, o, scale=i**-0.5) for i, o in itertools.pairwise(widths)]
    biases = [normal(o, scale=0.1) for o in widths[1:]]

    parameters = [ln.asarray(v, requires_grad=True) for pair in zip(weights, biases, strict=True) for v in pair]
    optimizer, tx, ty = ln.optim.SGD(lr=1e-3), ln.asarray(x), ln.asarray(y)

    def hand() -> None:
        h = tx
        for i in range(0, len(parameters), 2):
            h = h @ parameters[i] + parameters[i + 1]
            if i + 2 < len(parameters):
                h = ln.nn.relu(h)
        d = h - ty
        optimizer((d * d).mean().backward())

    by_hand["labnet"] = hand
    numpy_weights = [w.copy() for w in weights]
    numpy_biases = [b.copy() for b in biases]
    by_hand["numpy"] = lambda: numpy_step(numpy_weights, numpy_biases, x, y, 1e-3)
    if torch:
        model = torch_mlp(widths)
        px, py = torch.from_numpy(x), torch.from_numpy(y)
        modules["torch"] = torch_step(
            model, torch.optim.SGD(model.parameters(), lr=1e-3), torch.nn.functional.mse_loss, px, py
        )
        theirs = [
            torch.from_numpy(v.copy()).requires_grad_() for pair in zip(weights, biases, strict=True) for v in pair
        ]
        their_optimizer = torch.optim.SGD(theirs, lr=1e-3)

        def torch_hand() -> None:
            h = px
            for i in range(0, len(theirs), 2):
                h = h @ theirs[i] + theirs[i + 1]
                if i + 2 < len(theirs):
                    h = torch.relu(h)
            d = h - py
            their_optimizer.zero_grad()
            (d * d).mean().backward()
            their_optimizer.step()

        by_hand["torch"] = torch_hand
    if jax:
        state = [(jnp.asarray(w), jnp.asarray(b)) for w, b in zip(weights, biases, strict=True)]
        jx, jy = jnp.asarray(x), jnp.asarray(y)

        def jax_loss(state):
            h = jx
            for i, (w, b) in enumerate(state):
                h = h @ w + b
                h = jnp.maximum(h, 0) if i + 1 < len(state) else h
            return ((h - jy) ** 2).mean()

        jitted = jax.jit(
            lambda s: [
                (w - 1e-3 * gw, b - 1e-3 * gb) for (w, b), (gw, gb) in zip(s, jax.grad(jax_loss)(s), strict=True)
            ]
        )
        box = [state]

        def jax_hand() -> None:
            box[0] = jitted(box[0])
            box[0][0][0].block_until_ready()

        by_hand["jax"] = jax_hand
    return {f"{name} modules": modules, f"{name} by hand": by_hand}


def numpy_step(weights, biases, x, y, lr) -> None:
    """Differentiated by hand: what no eager framework without fusion can beat."""
    inputs, h = [], x
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        inputs.append(h)
        h = h @ w + b
        if i + 1 < len(weights):
            h = np.maximum(h, 0)
    g = (2 / h.size) * (h - y)
    for i in reversed(range(len(weights))):
        gw, gb = inputs[i].T @ g, g.sum(0)
        if i:
            g = (g @ weights[i].T) * (inputs[i] > 0)
        weights[i] -= lr * gw
        biases[i] -= lr * gb


def classifier_rows() -> dict[str, Row]:
    """T3: 784-256-10, batch 128, cross-entropy, Adam."""
    x, y = normal(128, 784), rng.integers(0, 10, 128)
    row: Row = {
        "labnet": our_step(
            our_mlp((784, 256, 10)), ln.optim.Adam(), ln.loss.cross_entropy, ln.asarray(x), ln.asarray(y)
        )
    }
    if torch:
        model = torch_mlp((784, 256, 10))
        row["torch"] = torch_step(
            model,
            torch.optim.Adam(model.parameters()),
            torch.nn.functional.cross_entropy,
            torch.from_numpy(x),
            torch.from_numpy(y),
        )
    return {"T3 modules": row}


def convolution_rows() -> dict[str, Row]:
    """T4: conv3x3x16, relu, maxpool2, conv3x3x32, relu, maxpool2, linear 10 on 32x1x28x28."""
    if not hasattr(ln.nn, "Conv2d"):
        return {}
    x, y = normal(32, 1, 28, 28), rng.integers(0, 10, 32)
    model = ln.nn.Sequential(
        *(ln.nn.Conv2d(1, 16, 3), ln.nn.relu, ln.nn.MaxPool2d(2)),
        *(ln.nn.Conv2d(16, 32, 3), ln.nn.relu, ln.nn.MaxPool2d(2)),
        *(lambda h: h.reshape((32, -1)), ln.nn.Linear(800, 10)),
    )
    row: Row = {"labnet": our_step(model, ln.optim.SGD(lr=1e-3), ln.loss.cross_entropy, ln.asarray(x), ln.asarray(y))}
    if torch:
        peer = torch.nn.Sequential(
            *(torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
            *(torch.nn.Conv2d(16, 32, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
            *(torch.nn.Flatten(), torch.nn.Linear(800, 10)),
        )
        row["torch"] = torch_step(
            peer,
            torch.optim.SGD(peer.parameters(), lr=1e-3),
            torch.nn.functional.cross_entropy,
            torch.from_numpy(x),
            torch.from_numpy(y),
        )
    return {"T4 modules": row}


#: Least ratio to torch that the project asks for.
TARGETS = {
    "add 32": 3.0,
    "add 1024": 3.0,
    "add 32768": 0.9,
    "matmul 64": 0.9,
    "matmul 128": 0.9,
    "matmul 1024": 0.9,
    "hidden layer 64, forward+backward": 2.0,
    "T1 modules": 8.0,
    "T1 by hand": 3.0,
    "T2 modules": 4.5,
    "T2 by hand": 2.5,
    "T3 modules": 1.5,
    "T4 modules": 1.0,
}


def all_rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for n in (32, 1024, 32768):
        rows |= add_rows(n)
    for n in (64, 128, 1024):
        rows |= matmul_rows(n)
    for n in (64, 128, 1024):
        rows |= hidden_rows(n)
    rows |= mlp_rows("T1", (1, 8, 8, 8, 8, 1), 10)
    rows |= mlp_rows("T2", (64, 64, 64), 64)
    return rows | classifier_rows() | convolution_rows()


def time_once(task: Task, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        task()
    return (time.perf_counter() - began) / repeats


def measure(row: Row, *, rounds: int, seconds: float) -> dict[str, float]:
    """Return the median time of each column in seconds, from interleaved rounds."""
    repeats = {}
    for name, task in row.items():
        for _ in range(3):
            task()
        repeats[name] = max(1, int(seconds / max(time_once(task, 3), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in row}
    for _ in range(rounds):
        for name, task in row.items():
            times[name].append(time_once(task, repeats[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.02, help="length of one round of one column")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", type=Path, default=Path("build/eager.json"))
    arguments = parser.parse_args()
    columns = ["labnet", "numpy", "torch", "jax", "mygrad"]
    print(f"{'microseconds':<36}" + "".join(f"{c:>10}" for c in columns) + f"{'x torch':>9}{'target':>8}")
    kernels.load()  # which a process does in the background once it has trained for a second
    results = {}
    for name, row in all_rows().items():
        if arguments.only not in name:
            continue
        times = measure(row, rounds=arguments.rounds, seconds=arguments.seconds)
        ratio = times["torch"] / times["labnet"] if "torch" in times else None
        target = TARGETS.get(name)
        results[name] = {"seconds": times, "ratio_to_torch": ratio, "target": target}
        cells = "".join(f"{times[c] * 1e6:>10.2f}" if c in times else f"{'':>10}" for c in columns)
        print(
            f"{name:<36}{cells}"
            + (f"{ratio:>9.2f}" if ratio else f"{'':>9}")
            + (f"{target:>8.1f}" if target else f"{'':>8}")
            + ("  short" if ratio and target and ratio < target else ""),
            flush=True,
        )
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
