"""Single layers and functions in eager mode beside torch, in one run: the time of labnet divided by torch's.

``python benchmarks/layers.py`` measures all rows, ``python benchmarks/layers.py gelu lstm`` those whose names contain
one of these words, and ``--list`` prints the names. It writes ``build/layers.json``. Torch is needed
(``pip install torch==2.13.0``). Both libraries use one thread; ``OMP_NUM_THREADS=2`` gives both two, and
``NUMBA_CPU_NAME=haswell`` compiles labnet's kernels for a processor with AVX2. To hold the libraries to AVX2 too, add
``ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell``.

Every row computes the same with both libraries, from the same numbers, in turns. A figure is the CPU time of this
process, with several threads the time of the clock, and the least of all rounds, since other programs can only lengthen
it. Rows with gradients are measured twice: the forward pass alone, and with the backward pass.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, os.environ.get("OMP_NUM_THREADS", "1"))

import numpy as np
import torch

import labnet as ln
from labnet import kernels
from labnet.kernels.machine_code.background import BACKGROUND

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
ln.set_num_threads(torch.get_num_threads())
clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

#: Threads of a library look for work for some milliseconds after its last op, on the other one's processor.
_SETTLE_SECONDS = 0.03
Task = Callable[[], object]
rng = np.random.default_rng(0)


class Row(NamedTuple):
    """A function of a library and tensors, and the arrays that it gets.

    Attributes
    ----------
    name : str
    function : callable
        ``function(library, *tensors)``, where the library is `labnet` or `torch`.
    arrays : tuple of array
    gradients : int
        How many of the first tensors need gradients.
    module : callable or None
        Makes a module of a library, which the function gets as its second argument; its parameters need gradients.
    prepare : bool
        Whether the function returns what is measured, such as a training step with its state.
    """

    name: str
    function: Callable[..., Any]
    arrays: tuple[Any, ...] = ()
    gradients: int = 0
    module: Callable[[Any], Any] | None = None
    prepare: bool = False


def normal(*shape: int, dtype: str = "float32") -> Any:
    return rng.standard_normal(shape).astype(dtype)


def elementwise() -> Iterator[Row]:
    x = normal(1_000_000)
    f = "nn.functional."
    for name in ("gelu", "sigmoid", "silu", "softplus", "mish", "elu", "hardswish", "leaky_relu", "relu"):
        yield Row(f"{name} 1e6", call(f + name), (x,), 1)
    for name in ("erf", "tanh", "exp", "log1p", "sqrt"):
        yield Row(f"{name} 1e6", call(name), (np.abs(x),), 1)
    yield Row("x**3 1e6", lambda t, x: x**3, (x,), 1)
    yield Row("x**2 1e6", lambda t, x: x**2, (x,), 1)
    yield Row("clip 1e6", lambda t, x: x.clip(-0.5, 0.5), (x,), 1)
    yield Row("add 1e6", lambda t, x, y: x + y, (x, x), 2)
    yield Row("add float16 1e6", lambda t, x, y: x + y, (x.astype("float16"), x.astype("float16")))
    yield Row("multiply float16 1e6", lambda t, x, y: x * y, (x.astype("float16"), x.astype("float16")))
    yield Row("in-place add 1e6", in_place, (x, x), prepare=True)
    yield Row("gelu float64 1e5", call(f + "gelu"), (normal(100_000, dtype="float64"),), 1)
    yield Row("sigmoid float64 1e5", call(f + "sigmoid"), (normal(100_000, dtype="float64"),), 1)
    yield Row("gelu of columns 1e6", lambda t, x: t.nn.functional.gelu(x.T), (normal(1000, 1000),), 1)
    yield Row("gelu tanh 1e6", lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), (x,), 1)
    for size in (32, 4096):
        yield Row(f"gelu {size}", call(f + "gelu"), (normal(size),), 1)
        yield Row(f"sigmoid {size}", call(f + "sigmoid"), (normal(size),), 1)
    yield Row("randn 100", lambda t: t.randn((100,)))
    yield Row("randn 1e6", lambda t: t.randn((1_000_000,)))


def call(path: str) -> Callable[..., Any]:
    """Return a function that calls the one at a dotted path of a library."""

    def function(library: Any, *tensors: Any) -> Any:
        for part in path.split("."):
            library = getattr(library, part)
        return library(*tensors)

    return function


def in_place(t: Any, x: Any, y: Any) -> Task:
    def step() -> None:
        nonlocal x
        x += y

    return step


def small() -> Iterator[Row]:
    x = normal(32)
    yield Row("add 32", lambda t, x, y: x + y, (x, x), 2)
    yield Row("reshape small", lambda t, x: x.reshape((4, 8)), (x,), 1)
    yield Row("permute small", lambda t, x: x.permute((1, 0, 2)), (normal(2, 3, 4),), 1)
    yield Row("sum small", lambda t, x: x.sum(), (x,), 1)
    yield Row("sum of rows small", lambda t, x: x.sum(dim=1), (normal(4, 8),), 1)
    yield Row("std small", lambda t, x: x.std(), (x,), 1)
    yield Row("mean small", lambda t, x: x.mean(), (x,), 1)
    yield Row("rows of a loop", lambda t, x: list(x), (normal(100, 8),))
    yield Row("softmax 32x32", lambda t, x: t.nn.functional.softmax(x, dim=-1), (normal(32, 32),), 1)


def reductions() -> Iterator[Row]:
    x, matrix = normal(1_000_000), normal(1000, 1000)
    yield Row("vector_norm 1e7", lambda t, x: t.linalg.vector_norm(x), (normal(10_000_000),), 1)
    yield Row("sum 1e6", lambda t, x: x.sum(), (x,), 1)
    yield Row("sum of columns 1e6", lambda t, x: x.sum(dim=0), (matrix,), 1)
    yield Row("std 1e6", lambda t, x: x.std(), (x,), 1)
    yield Row("prod 1e6", lambda t, x: x.prod(), (np.exp(x * 1e-3),), 1)
    yield Row("median 1e6", lambda t, x: x.median(), (x,))
    yield Row("cumsum 1e6", lambda t, x: t.cumsum(x, dim=0), (x,), 1)
    yield Row("cumprod 1e6", lambda t, x: t.cumprod(x, dim=0), (np.exp(x * 1e-3),), 1)
    yield Row("cumsum of rows 1e6", lambda t, x: t.cumsum(x, dim=1), (matrix,), 1)
    yield Row("cumsum of columns 1e6", lambda t, x: t.cumsum(x, dim=0), (matrix,), 1)


def selection() -> Iterator[Row]:
    x, matrix = normal(1_000_000), normal(1000, 1000)
    places = rng.integers(0, 1000, (1000, 1000))
    yield Row("take_along_axis 1e6", along, (matrix, places), 1)
    yield Row("scatter_add 1e6", lambda t, x, at: t.zeros((1000, 1000)).scatter_add(0, at, x), (matrix, places), 1)
    yield Row("topk 1e6", lambda t, x: t.topk(x, 10)[0], (x,))
    yield Row("topk of rows", lambda t, x: t.topk(x, 10)[0], (normal(64, 10_000),), 1)
    yield Row("sort 1e5", lambda t, x: t.sort(x), (normal(100_000),))
    yield Row("unique 1e6", lambda t, x: t.unique(x), (rng.integers(0, 1000, 1_000_000),))
    tokens = rng.integers(0, 1000, (64, 128))
    yield Row("embedding 64x128x64", lambda t, w, at: t.nn.functional.embedding(at, w), (normal(1000, 64), tokens), 1)


def along(t: Any, x: Any, places: Any) -> Any:
    return t.take_along_axis(x, places, axis=1) if t is ln else t.take_along_dim(x, places, dim=1)


def normalization() -> Iterator[Row]:
    for rows, columns in ((64, 64), (512, 768), (1, 768)):
        yield Row(
            f"layer_norm {rows}x{columns}",
            lambda t, x, w, b: t.nn.functional.layer_norm(x, (x.shape[-1],), w, b),
            (normal(rows, columns), normal(columns), normal(columns)),
            3,
        )
    yield Row("rms_norm 512x768", lambda t, m, x: m(x), (normal(512, 768),), 1, lambda t: t.nn.RMSNorm(768))
    yield Row("batch norm 2d", lambda t, m, x: m(x), (normal(32, 16, 28, 28),), 1, lambda t: t.nn.BatchNorm2d(16))
    yield Row("batch norm by hand", by_hand, (normal(256, 256), normal(256), normal(256)), 3)
    softmax = lambda t, x: t.nn.functional.softmax(x, dim=-1)  # noqa: E731
    log_softmax = lambda t, x: t.nn.functional.log_softmax(x, dim=-1)  # noqa: E731
    for shape in ((512, 768), (64, 10_000)):
        yield Row(f"softmax {shape[0]}x{shape[1]}", softmax, (normal(*shape),), 1)
        yield Row(f"log_softmax {shape[0]}x{shape[1]}", log_softmax, (normal(*shape),), 1)
    entropy = lambda t, x, y: t.nn.functional.cross_entropy(x, y)  # noqa: E731
    yield Row("cross_entropy 256x10", entropy, (normal(256, 10), rng.integers(0, 10, 256)), 1)
    yield Row("cross_entropy 64x10000", entropy, (normal(64, 10_000), rng.integers(0, 10_000, 64)), 1)


def by_hand(t: Any, x: Any, weight: Any, bias: Any) -> Any:
    mean = x.mean(dim=0)
    distance = x - mean
    variance = (distance * distance).mean(dim=0)
    return distance / (variance + 1e-5).sqrt() * weight + bias


def convolution() -> Iterator[Row]:
    conv = "nn.functional.conv2d"
    image, weight = normal(8, 16, 32, 32), normal(32, 16, 3, 3)
    yield Row("convolution 3x3", call(conv), (image, weight), 2)
    yield Row("convolution 3x3 padding", lambda t, x, w: t.nn.functional.conv2d(x, w, padding=1), (image, weight), 2)
    large = normal(4, 3, 112, 112), normal(32, 3, 7, 7)
    stem = lambda t, x, w: t.nn.functional.conv2d(x, w, stride=2, padding=3)  # noqa: E731
    yield Row("convolution 7x7 stride 2", stem, large, 2)
    yield Row("convolution 7x7 stride 2 compiled", compiled(stem), large, prepare=True)
    deep = lambda t, x, w: t.nn.functional.conv2d(x, w, padding=1, groups=32)  # noqa: E731
    yield Row("depthwise convolution 3x3", deep, (normal(8, 32, 56, 56), normal(32, 1, 3, 3)), 2)
    pool = lambda t, x: t.nn.functional.max_pool2d(x, 2)  # noqa: E731
    yield Row("max_pool2d 2", pool, (normal(32, 16, 28, 28),), 1)


def compiled(function: Callable[..., Any]) -> Callable[..., Task]:
    """Return a preparation that compiles the function with labnet; torch computes it eagerly."""

    def prepare(t: Any, *tensors: Any) -> Task:
        if t is ln:
            step = ln.jit(lambda *tensors: function(ln, *tensors))
            return lambda: step(*tensors)
        return lambda: function(t, *tensors)

    return prepare


def recurrence() -> Iterator[Row]:
    forward = lambda t, m, x: m(x)[0]  # noqa: E731
    for kind in ("LSTM", "GRU"):
        for steps, batch, width in ((100, 1, 32), (16, 32, 64)):
            make = lambda t, kind=kind, width=width: getattr(t.nn, kind)(width, width)  # noqa: E731
            yield Row(f"{kind} {steps}x{batch}x{width}", forward, (normal(steps, batch, width),), 1, make)


def attention() -> Iterator[Row]:
    attend = "nn.functional.scaled_dot_product_attention"
    for shape in ((2, 4, 64, 32), (1, 8, 512, 64)):
        yield Row(f"attention {'x'.join(map(str, shape))}", call(attend), tuple(normal(*shape) for _ in range(3)), 3)
    causal = lambda t, q, k, v: t.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    yield Row("attention causal 1x8x512x64", causal, tuple(normal(1, 8, 512, 64) for _ in range(3)), 3)

    def encoder(t: Any) -> Any:
        return t.nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)

    for batch in (1, 32):
        yield Row(f"encoder layer {batch}x64x64", lambda t, m, x: m(x), (normal(batch, 64, 64),), 1, encoder)


def training() -> Iterator[Row]:
    for batch in (1, 32, 256):
        yield Row(
            f"MLP forward {batch}",
            lambda t, m, x: m(x),
            (normal(batch, 64),),
            0,
            lambda t: t.nn.Sequential(t.nn.Linear(64, 64), t.nn.ReLU(), t.nn.Linear(64, 64)),
        )
        yield Row(f"MLP step {batch}", mlp_step, (normal(batch, 64), normal(batch, 64)), prepare=True)
    for name in ("SGD", "Adam", "AdamW"):
        yield Row(f"{name} step", optimizer_step(name), (normal(256, 256), normal(256, 256)), prepare=True)
    yield Row("clip_norm 8x256x256", clip_norm, tuple(normal(256, 256) for _ in range(8)), prepare=True)


def mlp_step(t: Any, x: Any, y: Any) -> Task:
    model = t.nn.Sequential(t.nn.Linear(64, 64), t.nn.ReLU(), t.nn.Linear(64, 64))
    loss = t.nn.functional.mse_loss
    if t is ln:
        own = ln.optim.SGD(lr=1e-3)
        return lambda: own(loss(model(x), y).backward())
    optimizer = t.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    return step


def optimizer_step(name: str) -> Callable[..., Task]:
    def prepare(t: Any, x: Any, g: Any) -> Task:
        weight = (x * 1).detach().requires_grad_()
        if t is ln:
            optimizer, gradients = getattr(ln.optim, name)(lr=1e-3), (weight * g).sum().backward()
            return lambda: optimizer(gradients)
        peer = getattr(t.optim, name)([weight], lr=1e-3)
        weight.grad = g
        return peer.step

    return prepare


def clip_norm(t: Any, *tensors: Any) -> Task:
    weights = [(x * 0).detach().requires_grad_() for x in tensors]
    if t is ln:
        total = sum([(weight * x).sum() for weight, x in zip(weights, tensors, strict=True)], ln.zeros(()))
        gradients = total.backward()
        return lambda: ln.optim.clip_norm(gradients, 1.0)
    for weight, x in zip(weights, tensors, strict=True):
        weight.grad = x
    return lambda: t.nn.utils.clip_grad_norm_(weights, 1.0)


GROUPS = (
    *(elementwise, small, reductions, selection, normalization),
    *(convolution, recurrence, attention, training),
)


# Measurement


def tasks_of(row: Row) -> dict[str, dict[str, Task]]:
    """Return what is measured of a row: its passes, each with a task per library."""
    found: dict[str, dict[str, Task]] = {}
    modules = [row.module(t) if row.module else None for t in (ln, torch)]
    if row.module:
        own, peer = [list(module.parameters()) for module in modules]
        for mine, its in zip(own, peer, strict=True):
            mine.assign(its.detach().numpy().copy())
    for t, module in zip((ln, torch), modules, strict=True):
        leading = () if module is None else (module,)
        own = t.asarray if t is ln else t.from_numpy
        plain = [own(array.copy()) for array in row.arrays]
        name = t.__name__
        if row.prepare:
            found.setdefault("", {})[name] = row.function(t, *plain)
            continue
        found.setdefault("", {})[name] = forward(t, row.function, (*leading, *plain))
        if row.gradients:
            leaves = [x.requires_grad_() for x in [own(array.copy()) for array in row.arrays[: row.gradients]]]
            given = (*leading, *leaves, *plain[row.gradients :])
            wanted = leaves + (list(module.parameters()) if module is not None else [])
            found.setdefault(", backward", {})[name] = backward(t, row.function, given, wanted)
    return found


def forward(t: Any, function: Callable[..., Any], given: tuple[Any, ...]) -> Task:
    def task() -> object:
        with t.no_grad():
            return function(t, *given)

    return task


def backward(t: Any, function: Callable[..., Any], given: tuple[Any, ...], wanted: list[Any]) -> Task:
    g = t.ones(function(t, *given).shape, dtype=wanted[0].dtype)

    def task() -> None:
        for leaf in wanted:
            leaf.grad = None
        function(t, *given).backward(g)

    return task


def time_once(task: Task, repeats: int) -> float:
    began = clock()
    for _ in range(repeats):
        task()
    return (clock() - began) / repeats


def measure(tasks: dict[str, Task], *, rounds: int, seconds: float) -> dict[str, float]:
    """Return the least time of each library in seconds, from rounds in turns."""
    repeats = {}
    for name, task in tasks.items():
        for _ in range(12):
            task()
        BACKGROUND.submit(lambda: None).result()  # the kernels that it has asked for are loaded
        task()
        began = time.perf_counter()
        task()
        repeats[name] = max(1, int(seconds / max(time.perf_counter() - began, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            if torch.get_num_threads() > 1:
                time.sleep(_SETTLE_SECONDS)
            times[name].append(time_once(task, repeats[name]))
    return {name: min(values) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="rows whose names contain one of these, in any case")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.02, help="length of one round of one library")
    parser.add_argument("--list", action="store_true", help="print the names of rows")
    parser.add_argument("--json", type=Path, default=Path("build/layers.json"))
    arguments = parser.parse_args()
    kernels.load()
    kernels.PATIENCE = 0  # others are loaded after some calls of their own, not after hundreds of any
    results: dict[str, dict[str, float]] = {}
    if not arguments.list:
        print(f"{'microseconds of CPU':<42}{'labnet':>11}{'torch':>11}{'labnet / torch':>16}")
    for row in (row for group in GROUPS for row in group()):
        if arguments.words and not any(word.lower() in row.name.lower() for word in arguments.words):
            continue
        if arguments.list:
            print(row.name)
            continue
        for passes, tasks in tasks_of(row).items():
            times = measure(tasks, rounds=arguments.rounds, seconds=arguments.seconds)
            ratio = times["labnet"] / times["torch"]
            results[row.name + passes] = {**times, "ratio": ratio}
            cells = "".join(f"{times[name] * 1e6:>11.2f}" for name in ("labnet", "torch"))
            print(f"{row.name + passes:<42}{cells}{ratio:>16.2f}", flush=True)
    if results:
        ratios = [result["ratio"] for result in results.values()]
        print(f"{len(ratios)} rows: geometric mean {statistics.geometric_mean(ratios):.2f}, greatest {max(ratios):.2f}")
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
