"""What guards cost at each call of a compiled step: T1 of ``benchmarks/compiled.py`` with and without them.

``python benchmarks/compiled_guards.py`` prints the time of a call with guards divided by that of one that compares
nothing, for a step that finds its model in a closure, in an attribute of an object, and in global variables. Rounds are
interleaved and medians are taken.
"""

import argparse
import itertools
import os
import statistics
import timeit

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np

import labnet as ln
from labnet.compile.trace.guards import Guards

WIDTHS = (1, 8, 8, 8, 8, 1)


def parts() -> tuple[ln.nn.Module, ln.optim.Optimizer]:
    layers = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layers += [ln.nn.Linear(inputs, outputs), ln.nn.ReLU()]
    return ln.nn.Sequential(*layers[:-1]), ln.optim.SGD(lr=1e-3)


def in_closure():
    model, optimizer = parts()

    def step(x, y):
        loss = ln.loss.mse(model(x), y)
        optimizer(loss.backward())
        return loss

    return step


class Trainer:
    """An object that trains its own model."""

    def __init__(self):
        self.model, self.optimizer = parts()

    def step(self, x, y):
        """Train on one batch."""
        loss = ln.loss.mse(self.model(x), y)
        self.optimizer(loss.backward())
        return loss


def with_globals():
    scope = {"ln": ln}
    scope["model"], scope["optimizer"] = parts()
    exec("def step(x, y):\n    loss = ln.loss.mse(model(x), y)\n    optimizer(loss.backward())\n    return loss", scope)
    return scope["step"]


class Net(ln.nn.Module):
    """A model of a class of its own."""

    def __init__(self):
        super().__init__()
        self.layers, self.scale = parts()[0], 1.0

    def forward(self, x):
        """Scale what the layers return."""
        return self.layers(x) * self.scale


def of_class():
    net, optimizer = Net(), parts()[1]

    def step(x, y):
        loss = ln.loss.mse(net(x), y)
        optimizer(loss.backward())
        return loss

    return step


ROWS = {"closure": in_closure, "object": lambda: Trainer().step, "globals": with_globals, "class": of_class}


def compiled(make, x, y, *, guarded: bool):
    """Return a compiled step that compares what it has read, or nothing."""
    condition = Guards.condition
    if not guarded:
        Guards.condition = lambda self, scope: condition(self, scope) and "True"
    try:
        step = ln.jit(make())
        step(x, y)
        step(x, y)
    finally:
        Guards.condition = condition
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--calls", type=int, default=5000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    x, y = (ln.asarray(rng.standard_normal((10, 1)).astype("float32")) for _ in range(2))
    print(f"{'us a call':<10}{'guarded':>10}{'without':>10}{'ratio':>8}")
    for name, make in ROWS.items():
        both = [compiled(make, x, y, guarded=guarded) for guarded in (True, False)]
        times = [
            [timeit.timeit(lambda s=s: s(x, y), number=arguments.calls) for s in both] for _ in range(arguments.rounds)
        ]
        with_guards, without = (
            statistics.median(column) / arguments.calls * 1e6 for column in zip(*times, strict=True)
        )
        ratio = statistics.median(a / b for a, b in times)
        print(f"{name:<10}{with_guards:>10.2f}{without:>10.2f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
