"""Compiled convolutions beside labnet's eager ones and torch, on one thread.

``python benchmarks/compiled_convolutions.py`` prints microseconds and, of interleaved rounds, the median ratios of the
time of compiled code to that of torch and of labnet's eager code: 1.0 is as quick, less is quicker. With
``NUMBA_CPU_NAME=haswell`` in the environment it is compiled for vectors of 32 bytes and 16 registers.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import torch

import labnet as ln

torch.set_num_threads(1)
rng = np.random.default_rng(0)

#: Name: (channels, filters, kernel, height and width, options).
ROWS = {
    "3x3 1->16 at 28": (1, 16, 3, 28, {}),
    "3x3 3->16 at 32": (3, 16, 3, 32, {"padding": 1}),
    "3x3 16->32 at 32": (16, 32, 3, 32, {"padding": 1}),
    "3x3 16->32 at 13": (16, 32, 3, 13, {}),
    "3x3 64->64 at 32": (64, 64, 3, 32, {"padding": 1}),
    "3x3 64->64 at 32 valid": (64, 64, 3, 32, {}),
    "3x3 128->128 at 16": (128, 128, 3, 16, {"padding": 1}),
    "5x5 16->32 at 32": (16, 32, 5, 32, {"padding": 2}),
    "5x5 16->32 at 32 valid": (16, 32, 5, 32, {}),
    "1x1 64->64 at 32": (64, 64, 1, 32, {}),
    "depthwise 3x3 32 at 32": (32, 32, 3, 32, {"padding": 1, "groups": 32}),
    "depthwise 3x3 64 at 32 valid": (64, 64, 3, 32, {"groups": 64}),
    "depthwise 5x5 64 at 32": (64, 64, 5, 32, {"padding": 2, "groups": 64}),
    "depthwise 3x3 64 stride 2": (64, 64, 3, 32, {"padding": 1, "stride": 2, "groups": 64}),
    "3x3 4 groups 64->64": (64, 64, 3, 32, {"padding": 1, "groups": 4}),
    "3x3 16->32 stride 2": (16, 32, 3, 32, {"padding": 1, "stride": 2}),
}
Tasks = dict[str, Callable[[], object]]


def tasks(samples: int, channels: int, filters: int, kernel: int, side: int, options: dict, *, train: bool) -> Tasks:
    """Return the same convolution three times: forward, or forward and the gradients of all three operands."""
    arrays = [
        rng.standard_normal(shape).astype("float32")
        for shape in (
            (samples, channels, side, side),
            (filters, channels // options.get("groups", 1), kernel, kernel),
            (filters,),
        )
    ]
    x, weight, bias = (ln.asarray(array, requires_grad=train) for array in arrays)
    theirs = [torch.from_numpy(array).requires_grad_(train) for array in arrays]
    out = ln.nn.conv2d(x, weight, bias, **options)
    seed = np.ones(out.shape, "float32")
    ours, peer = ln.asarray(seed), torch.from_numpy(seed)

    def forward(x, weight, bias):
        return ln.nn.conv2d(x, weight, bias, **options)

    def gradients(x, weight, bias):
        return ln.grad(forward(x, weight, bias), [x, weight, bias], ours)

    def theirs_forward():
        return torch.nn.functional.conv2d(*theirs, **options)

    function = gradients if train else forward
    compiled = ln.jit(function)
    np.testing.assert_allclose(compiled(x, weight, bias)[0].numpy(), function(x, weight, bias)[0].numpy(), atol=1e-3)
    return {
        "compiled": lambda: compiled(x, weight, bias),
        "labnet": lambda: function(x, weight, bias),
        "torch": (lambda: torch.autograd.grad(theirs_forward(), theirs, peer)) if train else theirs_forward,
    }


def seconds_of(task: Callable[[], object], repetitions: int) -> float:
    """Return the seconds of this thread, so that other processes do not count."""
    began = time.thread_time()
    for _ in range(repetitions):
        task()
    return (time.thread_time() - began) / repetitions


def measured(row: Tasks, *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the seconds of each task in each round; the tasks take turns."""
    times: dict[str, list[float]] = {name: [] for name in row}
    repetitions = {}
    for name, task in row.items():
        task()
        repetitions[name] = max(1, round(seconds / max(seconds_of(task, 2), 1e-7)))
    for _ in range(rounds):
        for name, task in row.items():
            times[name].append(seconds_of(task, repetitions[name]))
    return times


def ratio(times: dict[str, list[float]], peer: str) -> float:
    return statistics.median(a / b for a, b in zip(times["compiled"], times[peer], strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.01, help="length of one round of one column")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--train", action="store_true", help="gradients of images, filters and bias too")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    arguments = parser.parse_args()
    print(f"{'microseconds':<30}{'compiled':>10}{'labnet':>10}{'torch':>10}{'/ labnet':>10}{'/ torch':>10}")
    for name, (*sizes, options) in ROWS.items():
        if arguments.only in name:
            row = tasks(arguments.samples, *sizes, options, train=arguments.train)
            times = measured(row, rounds=arguments.rounds, seconds=arguments.seconds)
            cells = "".join(f"{statistics.median(times[each]) * 1e6:>10.1f}" for each in row)
            print(f"{name:<30}{cells}{ratio(times, 'labnet'):>10.2f}{ratio(times, 'torch'):>10.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
