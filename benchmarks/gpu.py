"""What only a machine with a GPU tells: whether kernels are right, and how fast they are beside torch.

``python benchmarks/gpu.py --check --bench`` takes two to four minutes on an H200 and needs Python 3.11, NumPy, Numba,
numba-cuda and pytest with hypothesis; torch for the comparison. It prints tables, and writes ``gpu.json`` into the
folder that the variable OUT names. ``--sim`` runs everything at tiny sizes in Numba's simulator, where no time means
anything.
"""

import argparse
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
if "--sim" in sys.argv:
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
else:
    os.environ.pop("NUMBA_ENABLE_CUDASIM", None)
os.environ.setdefault("LABNET_CACHE", str(Path(tempfile.gettempdir()) / "labnet-gpu"))

import numpy as np

import labnet as ln
from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.pool import pool

try:
    import torch
except ImportError:
    torch = None

Task = Callable[[], object]
#: Name of a row, what we do, what torch does, bytes or operations of it, and the least ratio to torch's speed.
Row = tuple[str, Task, Task | None, float, float | None]
Makers = tuple[Callable[[], Any], Callable[[], Any]]
rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype("float32")


class Bench:
    """Rows of a size, on both sides; torch is left out where it has no GPU."""

    def __init__(self, *, tiny: bool):
        self.tiny = tiny
        self.torch = None if torch is None or tiny or not torch.cuda.is_available() else torch
        if self.torch:
            self.torch.backends.cuda.matmul.allow_tf32 = False
            self.torch.backends.cudnn.allow_tf32 = False

    def both(self, array: np.ndarray, **named: Any) -> tuple[ln.Tensor, Any]:
        """Return an array on the GPU, ours and torch's."""
        theirs = None
        if self.torch:
            theirs = self.torch.as_tensor(array, device="cuda")
            if named.get("requires_grad"):
                theirs.requires_grad_()
        return ln.asarray(array, device="cuda", **named), theirs

    def peer(self, task: Task) -> Task | None:
        """Return what torch does, where it is to be measured."""
        return task if self.torch else None

    def rows(self) -> Iterator[Row]:
        """Return every row."""
        yield from self.launches()
        yield from self.bandwidth()
        yield from self.products()
        yield from self.layers()
        yield from self.orders()
        yield from self.choices()
        yield from self.steps()

    def launches(self) -> Iterator[Row]:
        """Return what costs a launch and little else."""
        x, tx = self.both(normal(32))
        yield "add of 32", lambda: x + x, self.peer(lambda: tx + tx), 0, 0.5
        size = 1024 if self.tiny else 1 << 20
        shape, dtype = (size,), np.dtype("float32")
        theirs = self.peer(lambda: self.torch.empty(size, device="cuda"))
        yield "memory for 4 MB", lambda: DeviceArray.empty(shape, dtype), theirs, 0, None
        gradient = ln.asarray(normal(32), device="cuda", requires_grad=True)
        _, tg = self.both(normal(32), requires_grad=True)
        yield (
            "forward and backward of 32",
            lambda: (gradient * gradient).sum().backward(),
            self.peer(lambda: (tg * tg).sum().backward()),
            *(0, 0.5),
        )

    def bandwidth(self) -> Iterator[Row]:
        """Return what reads and writes much and computes little."""
        rows, columns = (3, 4) if self.tiny else (8192, 8192)
        x, tx = self.both(normal(rows, columns))
        y, ty = self.both(normal(rows, columns))
        b, tb = self.both(normal(columns))
        nbytes = 4.0 * rows * columns
        yield "add, 256 MB each", lambda: x + y, self.peer(lambda: tx + ty), 3 * nbytes, 0.85
        yield "exp", lambda: ln.exp(x), self.peer(lambda: tx.exp()), 2 * nbytes, 0.85
        yield "add of a row", lambda: x + b, self.peer(lambda: tx + tb), 2 * nbytes, 0.85
        chain = ln.jit(lambda x, y: ln.tanh(x * y) + x)
        yield (
            "three operations, compiled",
            lambda: chain(x, y),
            self.peer(lambda: (tx * ty).tanh() + tx),
            *(3 * nbytes, 2.0),
        )
        dx, dy = x.array, y.array
        yield (
            "three operations, one expression",
            lambda: (np.tanh(dx * dy) + dx).materialize(),
            self.peer(lambda: (tx * ty).tanh() + tx),
            *(3 * nbytes, 2.0),
        )
        yield "gelu", lambda: ln.nn.gelu(x), self.peer(lambda: self.torch.nn.functional.gelu(tx)), 2 * nbytes, 0.85
        theirs = self.peer(lambda: self.torch.rand(rows, columns, device="cuda"))
        yield "random numbers", lambda: ln.rand((rows, columns), device="cuda"), theirs, nbytes, None
        yield "transposed copy", lambda: x.array.T.copy(), self.peer(lambda: tx.T.contiguous()), 2 * nbytes, None
        yield "sum of rows", lambda: x.sum(axis=1), self.peer(lambda: tx.sum(1)), nbytes, 0.8
        yield "sum of columns", lambda: x.sum(axis=0), self.peer(lambda: tx.sum(0)), nbytes, 0.8
        yield "sum of all", lambda: x.sum(), self.peer(lambda: tx.sum()), nbytes, 0.8
        yield "argmax of rows", lambda: ln.argmax(x, axis=1), self.peer(lambda: tx.argmax(1)), nbytes, None
        yield "running sum of rows", lambda: ln.cumulative_sum(x, axis=1), self.peer(lambda: tx.cumsum(1)), nbytes, None

    def products(self) -> Iterator[Row]:
        """Return products of matrices."""
        for n in (8,) if self.tiny else (512, 1024, 2048, 4096):
            a, ta = self.both(normal(n, n))
            b, tb = self.both(normal(n, n))
            yield f"matmul {n}", lambda a=a, b=b: a @ b, self.peer(lambda a=ta, b=tb: a @ b), 2.0 * n**3, 0.95
        batch, n = (2, 4) if self.tiny else (256, 128)
        a, ta = self.both(normal(batch, n, n))
        yield f"matmul {batch} times {n}", lambda: a @ a.mT, self.peer(lambda: ta @ ta.mT), 2.0 * batch * n**3, 0.9

    def layers(self) -> Iterator[Row]:
        """Return what fuses a pass or two, with its backward."""
        rows, columns = (2, 4) if self.tiny else (8192, 4096)
        x, tx = self.both(normal(rows, columns), requires_grad=True)
        labels, tl = self.both(rng.integers(0, columns, rows))
        nbytes = 4.0 * rows * columns
        yield (
            "softmax cross entropy, forward and backward",
            lambda: ln.loss.cross_entropy(x, labels).backward(),
            self.peer(lambda: self.torch.nn.functional.cross_entropy(tx, tl).backward()),
            *(3 * nbytes, 1.0),
        )
        layer = ln.nn.LayerNorm(columns).to("cuda")
        theirs = self.torch.nn.LayerNorm(columns, device="cuda") if self.torch else None
        seed, ts = self.both(normal(rows, columns))
        yield (
            "layer norm, forward and backward",
            lambda: layer(x).backward(seed),
            self.peer(lambda: theirs(tx).backward(ts)),
            *(5 * nbytes, 1.0),
        )

    def orders(self) -> Iterator[Row]:
        """Return what sorts, and an embedding, whose gradient does too."""
        for rows, columns in ((2, 5),) if self.tiny else ((4096, 256), (1, 1 << 20)):
            x, tx = self.both(normal(rows, columns))
            theirs = self.peer(lambda tx=tx: tx.sort(dim=-1, stable=True))
            yield f"sort {rows} rows of {columns}", lambda x=x: ln.sort(x), theirs, 8.0 * rows * columns, None
        size, width, count = (5, 2, 6) if self.tiny else (32_768, 512, 16_384)
        table, tt = self.both(normal(size, width), requires_grad=True)
        seed, ts = self.both(normal(count, width))
        for name, indices in (
            ("all over", rng.integers(0, size, count)),
            ("a tenth of them one", rng.integers(0, size, count) * (rng.random(count) > 0.1)),
        ):
            at, ta = self.both(indices)
            step = ln.jit(lambda at, seed: ln.grad((ln.nn.embedding(at, table) * seed).sum(), table))
            theirs = self.peer(lambda ta=ta: (self.torch.nn.functional.embedding(ta, tt) * ts).sum().backward())
            work = 4.0 * width * (size + 5 * count)
            yield (
                f"embedding {name}, forward and backward",
                lambda at=at: (ln.nn.embedding(at, table) * seed).sum().backward(),
                *(theirs, work, None),
            )
            yield f"embedding {name}, compiled", lambda at=at, step=step: step(at, seed), theirs, work, None

    def choices(self) -> Iterator[Row]:
        """Return what chooses elements by their values, and the running sum that tells where they go."""
        size = 24 if self.tiny else 1 << 26
        x, tx = self.both(normal(size))
        mask, tm = self.both(rng.random(size) < 0.5)
        values, tv = self.both(rng.integers(0, 1000, size // 8))
        rows: list[tuple[str, Task, Task, float]] = [
            ("running sum of one row", lambda: ln.cumulative_sum(x), lambda: tx.cumsum(0), 8.0 * size),
            ("elements at a mask", lambda: x[mask], lambda: tx[tm], 7.0 * size),
            ("fill at a mask", lambda: x.__setitem__(mask, 0.0), lambda: tx.masked_fill_(tm, 0.0), 9.0 * size),
            ("positions that are not zero", lambda: ln.nonzero(mask), lambda: tm.nonzero(), 5.0 * size),
            ("distinct integers", lambda: ln.unique_counts(values), lambda: tv.unique(return_counts=True), 1.0 * size),
        ]
        for name, ours, theirs, work in rows:
            yield name, ours, self.peer(theirs), work, None

    def steps(self) -> Iterator[Row]:
        """Training steps T1 to T4 of benchmarks/eager.py, eager and compiled."""
        inner, hidden, batch = (4, 3, 2) if self.tiny else (784, 256, 128)
        width = 3 if self.tiny else 64
        yield from self.mlp("T1", (1, 2, 1) if self.tiny else (1, 8, 8, 8, 8, 1), 2 if self.tiny else 10)
        yield from self.mlp("T2", (width, width, width), width)
        yield from self.classifier("T3", self.dense(inner, hidden), normal(batch, inner))
        if self.tiny:
            return
        yield from self.classifier("T4", self.convolutional(), normal(32, 1, 28, 28))

    def mlp(self, name: str, widths: tuple[int, ...], batch: int) -> Iterator[Row]:
        """Return a step of linear layers with relu between them, mean squared error and SGD."""
        pairs = list(itertools.pairwise(widths))
        ours = [part for i, o in pairs for part in (ln.nn.Linear(i, o), ln.nn.relu)][:-1]
        model = ln.nn.Sequential(*ours).to("cuda")
        theirs = None
        if self.torch:
            layers = [part for i, o in pairs for part in (self.torch.nn.Linear(i, o), self.torch.nn.ReLU())][:-1]
            theirs = self.torch.nn.Sequential(*layers).cuda()
        x, tx = self.both(normal(batch, widths[0]))
        y, ty = self.both(normal(batch, widths[-1]))
        peer = None
        if theirs is not None:
            peer = self.torch_step(
                theirs, self.torch.optim.SGD(theirs.parameters(), lr=1e-3), self.torch.nn.functional.mse_loss, tx, ty
            )
        yield from self.step(name, model, ln.optim.SGD(lr=1e-3), ln.loss.mse, (x, y), peer, 2.0)

    @staticmethod
    def dense(inner: int, hidden: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Return what makes two linear layers, ours and torch's."""

        def theirs() -> Any:
            return torch.nn.Sequential(torch.nn.Linear(inner, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10))

        return lambda: ln.nn.Sequential(ln.nn.Linear(inner, hidden), ln.nn.relu, ln.nn.Linear(hidden, 10)), theirs

    @staticmethod
    def convolutional() -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Return what makes a small convolutional net, ours and torch's."""

        def ours() -> Any:
            return ln.nn.Sequential(
                *(ln.nn.Conv2d(1, 16, 3), ln.nn.relu, ln.nn.MaxPool2d(2)),
                *(ln.nn.Conv2d(16, 32, 3), ln.nn.relu, ln.nn.MaxPool2d(2)),
                *(ln.nn.Flatten(), ln.nn.Linear(800, 10)),
            )

        def theirs() -> Any:
            return torch.nn.Sequential(
                *(torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
                *(torch.nn.Conv2d(16, 32, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
                *(torch.nn.Flatten(), torch.nn.Linear(800, 10)),
            )

        return ours, theirs

    def classifier(self, name: str, makers: Makers, images: np.ndarray) -> Iterator[Row]:
        """Return a step with cross entropy and Adam."""
        x, tx = self.both(images)
        y, ty = self.both(rng.integers(0, 10, len(images)))
        peer = None
        if self.torch:
            theirs = makers[1]().cuda()
            optimizer = self.torch.optim.Adam(theirs.parameters())
            peer = self.torch_step(theirs, optimizer, self.torch.nn.functional.cross_entropy, tx, ty)
        yield from self.step(name, makers[0]().to("cuda"), ln.optim.Adam(), ln.loss.cross_entropy, (x, y), peer, 1.0)

    def step(
        self, name: str, model: Any, optimizer: Any, loss: Any, data: tuple[Any, Any], peer: Task | None, bar: float
    ) -> Iterator[Row]:
        """Return a step of ours, eager and compiled, beside one of torch."""

        def step(x: Any, y: Any) -> Any:
            value = loss(model(x), y)
            optimizer(value.backward())
            return value

        yield f"{name}, eager", lambda: step(*data), peer, 0, 0.5
        compiled = ln.jit(step)
        yield f"{name}, compiled", lambda: compiled(*data), peer, 0, bar

    @staticmethod
    def torch_step(model: Any, optimizer: Any, loss: Any, x: Any, y: Any) -> Task:
        """Return a step of torch."""

        def step() -> None:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()

        return step

    def seconds(self, task: Task, *, rounds: int = 15, length: float = 0.02) -> tuple[float, float]:
        """Return the median time of a task, many of them between two waits for the GPU, and the host's part of it."""
        wait = current_gpu().synchronize

        def once(repeats: int) -> tuple[float, float]:
            wait()
            began = time.perf_counter()
            for _ in range(repeats):
                task()
            issued = time.perf_counter()
            wait()
            return (time.perf_counter() - began) / repeats, (issued - began) / repeats

        if self.tiny:
            return once(1)
        if self.torch:
            self.torch.cuda.synchronize()
        for _ in range(3):
            once(3)
        repeats = max(1, min(1000, int(length / max(once(5)[0], 1e-7))))
        # where the GPU cannot follow, the driver makes the host wait, but not for a few tasks
        host = statistics.median(once(min(repeats, 10))[1] for _ in range(rounds))
        return statistics.median(once(repeats)[0] for _ in range(rounds)), host


def bench(*, tiny: bool, chosen: str = "") -> dict[str, Any]:
    """Print a line for each row; the ratio is torch's time divided by ours, so more is better.

    "host us" is what the host takes to issue a task: where it is the whole time, the GPU waits for the host.
    """
    suite = Bench(tiny=tiny)
    results: dict[str, Any] = {}
    print(f"{current_gpu().name}{', times mean nothing' if tiny else ''}")
    print(f"{'':<46}{'us':>12}{'host us':>10}{'torch us':>12}{'host us':>10}{'per second':>14}{'x torch':>9}{'bar':>6}")
    for name, ours, theirs, work, bar in suite.rows():
        if not re.search(chosen, name):
            continue
        try:
            mine, host = suite.seconds(ours)
            other, their_host = suite.seconds(theirs) if theirs else (None, None)
        except Exception as error:  # a row that fails must not cost the others on a machine that is there once
            results[name] = {"error": f"{type(error).__name__}: {error}"}
            print(f"{name:<46}  {results[name]['error']}", flush=True)
            continue
        ratio = other / mine if other else None
        met = None if ratio is None or bar is None else ratio >= bar
        results[name] = {"seconds": mine, "torch": other, "work": work, "ratio": ratio, "bar": bar, "met": met}
        results[name].update(host=host, torch_host=their_host)
        print(
            f"{name:<46}{mine * 1e6:>12.2f}{host * 1e6:>10.2f}"
            + (f"{other * 1e6:>12.2f}{their_host * 1e6:>10.2f}" if other and their_host else f"{'':>22}")
            + (f"{work / mine:>14.3e}" if work and not tiny else f"{'':>14}")
            + (f"{ratio:>9.2f}" if ratio else f"{'':>9}")
            + (f"{bar:>6.2f}" if bar else f"{'':>6}")
            + ("" if met is None else "  met" if met else "  short"),
            flush=True,
        )
    results["memory"] = {"held": pool.held, "used": pool.used, "peak": pool.peak}
    return results


SANITIZED = """
import numpy as np, labnet as ln
x = ln.asarray(np.random.default_rng(0).standard_normal((70, 300)).astype("float32"), device="cuda", requires_grad=True)
w = ln.asarray(np.ones((300, 65), "float32"), device="cuda", requires_grad=True)
from labnet.kernels.cuda.kernels import matmul
matmul._cublas = lambda: None
y = ln.nn.softmax(x @ w).sum(axis=0)
(y.sum() + x.max(axis=1).sum() + ln.cumulative_sum(x, axis=1).mean() + x[[1, 1, 2]].sum()).backward()
(x * 2 + x.T.sum()).sum().item(), ln.argmax(x, axis=0).tolist(), ln.argmax(x, axis=1).tolist()
ln.asarray(np.ones(1 << 20, "float32"), device="cuda").sum().item()
layer = ln.nn.Conv2d(3, 4, 3, padding=1).to("cuda")
ln.optim.Adam()(layer(ln.ones((2, 3, 8, 8), device="cuda")).sum().backward())
layer.weight.tolist()
pooled = ln.nn.MaxPool2d(2).to("cuda")(layer(ln.ones((2, 3, 8, 8), device="cuda")))
ln.optim.SGD(lr=0.1, momentum=0.9)(pooled.sum().backward())
normed = ln.nn.LayerNorm(300).to("cuda")
ln.loss.cross_entropy(normed(x), ln.asarray(np.arange(70), device="cuda")).backward()
long = ln.asarray(np.random.default_rng(1).integers(0, 900, 70_001), device="cuda")
ln.sort(long).tolist(), ln.argsort(x, axis=1).tolist(), ln.unique_counts(long)[1].tolist()
ln.nonzero(long > 450)[0].tolist(), long[long > 450].tolist(), ln.cumulative_sum(long).tolist()
table = ln.asarray(np.ones((900, 33), "float32"), device="cuda", requires_grad=True)
step = ln.jit(lambda at: ln.grad(ln.nn.embedding(at, table).sum(), table))
step(long[:5_000]).tolist(), step(long[1:5_001]).tolist()
ln.rand((1000,), device="cuda").tolist(), x.std(axis=0).tolist(), ln.prod(x, axis=1).tolist()
x.T.reshape((-1,)).tolist()
"""


def check(*, tiny: bool, seconds: float, chosen: str = "") -> dict[str, Any]:
    """Run the tests of arrays on the device, and what NVIDIA's sanitizer says of our kernels."""
    environment = {
        **os.environ,
        "LABNET_GPU": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-c", "tests/cuda/alone.ini", "--confcutdir=tests/cuda"]
    command += ["-p", "no:cacheprovider", "--rootdir=."]
    folder = Path("tests/cuda/device")
    names = ["test_matmul.py"] if tiny else sorted(path.name for path in (ROOT / folder).glob("test_*.py"))
    parts = {name: [str(folder / name)] for name in names}
    if not tiny:
        parts["values"] = [*parts["test_registry.py"], "-k", "values"]
        parts["gradients"] = [*parts.pop("test_registry.py"), "-k", "not values"]
    commands = {name: [*command, *part] for name, part in parts.items() if re.search(chosen, name)}
    program = shutil.which("compute-sanitizer")
    if program is None:
        print("compute-sanitizer was not found")
    elif not tiny:
        for tool in ("memcheck", "racecheck"):
            if re.search(chosen, tool):
                commands[tool] = [program, f"--tool={tool}", "--error-exitcode=1", sys.executable, "-c", SANITIZED]
    # one process per part: what takes its time is to compile kernels, and there are cores
    results = {}
    with ThreadPoolExecutor(len(commands) or 1) as several:
        started = {name: several.submit(_run, part, environment, seconds) for name, part in commands.items()}
        for name, running in started.items():
            results[name] = running.result()
            end = results[name]["end"]
            print(f"\n{name}\n{end[-6_000:] if results[name]['code'] else end[-300:]}", flush=True)
    return results


def _run(command: list[str], environment: dict[str, str], seconds: float) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        code, said = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        code, said = None, output.decode(errors="replace") if isinstance(output, bytes) else output
    seconds = time.perf_counter() - began
    said += f"{'stopped' if code is None else 'failed' if code else 'passed'} after {seconds:.0f} s"
    return {"code": code, "seconds": seconds, "end": said[-20_000:]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="run the tests on the device")
    parser.add_argument("--bench", action="store_true", help="compare with torch")
    parser.add_argument("--sim", action="store_true", help="in the simulator, at tiny sizes")
    parser.add_argument("--seconds", type=float, default=240.0, help="the most that the tests may take")
    parser.add_argument("--only", default="", help="rows and parts whose name this regular expression is found in")
    arguments = parser.parse_args()
    out = Path(os.environ.get("OUT") or ROOT / "build")
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"simulated": arguments.sim}
    failed = False
    if arguments.sim:
        sys.setswitchinterval(1e-5)  # threads of the simulator wait for each other in loops
    for name, work in (
        ("bench", lambda: bench(tiny=arguments.sim, chosen=arguments.only)),
        ("check", lambda: check(tiny=arguments.sim, seconds=arguments.seconds, chosen=arguments.only)),
    ):
        if getattr(arguments, name):
            results[name] = work()
            (out / "gpu.json").write_text(json.dumps(results, indent=1))  # what is known so far
    failed |= any(part["code"] != 0 for part in results.get("check", {}).values())
    failed |= any("error" in row for row in results.get("bench", {}).values())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
