"""Kernels as a GPU gets them, without one: a catalogue of sources, their PTX, and what ``ptxas`` says of it.

``python -m tests.cuda.ptx`` prints the registers of each kernel.
"""

import argparse
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.driver import compiler, driver, gpu
from labnet.kernels.cuda.kernels import random

CAPABILITIES = ((8, 0), (9, 0))


class Recorder:
    """Stands where the driver does: has the shape of an H200, no memory, and keeps what it is to compile."""

    simulated = True  # no cuBLAS, so that our own product is in the catalogue
    name, threads, tile, multiprocessors, capability = "recorder", 256, 16, 132, (9, 0)
    launches = 0

    def __init__(self) -> None:
        self.stream_lock = threading.RLock()
        self.kernels: list[tuple[str, list[str]]] = []
        self._next = 1 << 20

    def allocate(self, nbytes: int) -> int:
        self._next += nbytes + 512
        return self._next // 512 * 512

    def kernel(self, text: str, types: list[str]) -> Callable[..., None]:
        self.kernels.append((text, types))

        def launch(grid: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
            assert len(args) == len(types)
            assert np.prod(block) <= 1024
            assert grid[0] < 1 << 31
            assert max(1, *grid[1:], 1) <= 65_535

        return launch

    def enter(self, *_: Any) -> None:
        """Do nothing, as for everything that follows."""

    upload = copy = clear = synchronize = wait_for = enter

    def download(self, target: np.ndarray, _: int) -> None:
        target[...] = 1


def array(shape: tuple[int, ...], dtype: str = "float32") -> DeviceArray:
    return DeviceArray.empty(shape, np.dtype(dtype))


UNARY = ("exp", "log", "tanh", "sqrt", "sin", "expm1", "log1p", "arcsinh", "rint", "sign", "absolute", "reciprocal")
BINARY = ("add", "divide", "power", "maximum", "remainder", "floor_divide", "arctan2", "hypot", "logaddexp", "less")


def workloads() -> dict[str, Callable[[], Any]]:
    """Return what is done to get each kernel, by name."""
    row, wide = array((1000, 1024)), array((64, 4))
    found: dict[str, Callable[[], Any]] = {}
    for dtype in ("float32", "float16", "float64"):
        x, y = array((5000,), dtype), array((5000,), dtype)
        for name in UNARY if dtype == "float32" else ("exp", "tanh"):
            found[f"{name} {dtype}"] = lambda name=name, x=x: getattr(np, name)(x).materialize()
        for name in BINARY if dtype == "float32" else ("add", "power", "maximum"):
            found[f"{name} {dtype}"] = lambda name=name, x=x, y=y: getattr(np, name)(x, y).materialize()
    for dtype in ("int8", "int32", "int64", "uint8"):
        x, y = array((5000,), dtype), array((5000,), dtype)
        for name in ("add", "floor_divide", "right_shift") if dtype == "int32" else ("multiply",):
            found[f"{name} {dtype}"] = lambda name=name, x=x, y=y: getattr(np, name)(x, y).materialize()
        found[f"{dtype} to float32"] = lambda x=x: x.astype("float32").materialize()
        found[f"sum of rows {dtype}"] = lambda dtype=dtype: np.sum(array((10, 50), dtype), 1)
    found |= {
        "bias and relu": lambda: np.maximum(row + array((1024,)), 0).materialize(),
        "three operations": lambda: (np.exp(row) * row + 1.0).materialize(),
        "transposed copy": lambda: row.T.copy(),
        "transposed sum": lambda: (
            array((4, 64, 65)).transpose(2, 0, 1) + array((65, 4, 64)) * array((64,))
        ).materialize(),
        "four dimensions": lambda: (array((2, 3, 4, 5))[:, ::2, ::-1] + array((5, 4))[::-1].T).materialize(),
        "where": lambda: np.where(row > 0, row, 0.0).materialize(),
        "logical not": lambda: np.logical_not(array((9,), "bool")).materialize(),
        "sum of rows": lambda: np.sum(row, 1),
        "sum of columns": lambda: np.sum(row, 0),
        "sum of all": lambda: np.sum(array((1 << 22,))),
        "sum of squares": lambda: np.sum((row - 1.0) * (row - 1.0), 1),
        "sum of rows float16": lambda: np.sum(array((8, 64), "float16"), 1),
        "sum of rows float64": lambda: np.sum(array((8, 64), "float64"), 1),
        "sum of the middle": lambda: np.sum(array((20, 30, 40)), 1),
        "maximum of rows": lambda: np.max(row, 1),
        "product of columns": lambda: np.prod(row, 0),
        "any of rows": lambda: np.any(array((8, 64), "bool"), 1),
        "argmax of rows": lambda: np.argmax(row, 1),
        "argmax of columns": lambda: np.argmax(row, 0),
        "argmin int32": lambda: np.argmin(array((8, 64), "int32"), 1),
        "running sum": lambda: np.cumsum(row, 1),
        "running product float64": lambda: np.cumprod(array((3, 9), "float64"), 1),
        "running sum int64": lambda: np.cumsum(array((3, 9), "int64"), 1),
        "read at": lambda: wide[[1, 2, 2]],
        "write at": lambda: wide.__setitem__(([1, 2],), array((2, 4))),
        "add at": lambda: np.add.at(wide, ([1, 2, 2],), array((3, 4))),
        "add at float16": lambda: np.add.at(array((4, 3), "float16"), ([1, 1],), array((2, 3), "float16")),
        "read at positions": lambda: wide[array((5, 1), "int32"), array((3,), "int64")],
        "write at positions": lambda: wide.__setitem__(array((5,), "int16"), array((5, 4))),
        "add at positions": lambda: np.add.at(wide, array((300,), "int64"), array((300, 4))),
        "add at positions bool": lambda: np.add.at(array((4, 3), "bool"), array((9,), "int64"), array((9, 3), "bool")),
        "read at a mask": lambda: wide[array((64, 4), "bool")],
        "write at a mask": lambda: wide.__setitem__(array((64,), "bool"), array((1, 4))),
        "add at a mask": lambda: np.add.at(wide, array((64, 4), "bool"), array((1,))),
        "add at a mask float16": lambda: np.add.at(array((9,), "float16"), array((9,), "bool"), array((1,), "float16")),
        "fill a mask": lambda: row.__setitem__(array((1000, 1024), "bool"), 0.0),
        "running sum of a long row": lambda: np.cumsum(array((1 << 20,))),
        "distinct": lambda: np.unique_all(array((5000,))),
        "take along": lambda: np.take_along_axis(row, array((1000, 3), "int64"), 1),
        "put along": lambda: np.put_along_axis(row, array((1000, 3), "int64"), array((1000, 3)), 1),
    }
    for dtype in ("float32", "float16", "float64"):
        found[f"random {dtype}"] = lambda dtype=dtype: random.uniform(np.random.default_rng(0), 5000, np.dtype(dtype))
    for dtype in ("float32", "float16", "float64", "int64", "bool"):
        found[f"sort {dtype}"] = lambda dtype=dtype: np.sort(array((8, 1000), dtype))
        found[f"search {dtype}"] = lambda dtype=dtype: np.searchsorted(array((900,), dtype), array((70,), dtype))
    for dtype in ("float32", "float16", "float64", "int32", "bool"):
        found[f"matmul {dtype}"] = lambda dtype=dtype: np.matmul(array((70, 90), dtype), array((90, 80), dtype))
    return found | _of_tensors()


def _of_tensors() -> dict[str, Callable[[], Any]]:
    """Return steps with kernels of their own: forward, backward and update of layers."""
    import labnet as ln

    def step(layer: Any, x: Any, optimizer: Any) -> None:
        optimizer(layer.to("cuda")(x).sum().backward())

    def rows(**named: Any) -> Any:
        return ln.ones((16, 8), device="cuda", **named)

    def image() -> Any:
        return ln.ones((2, 3, 8, 8), device="cuda")

    return {
        "linear and sgd": lambda: step(ln.nn.Linear(8, 4), rows(), ln.optim.SGD(momentum=0.9)),
        "layer norm and adam": lambda: step(ln.nn.LayerNorm(8), rows(), ln.optim.Adam()),
        "convolution and adamw": lambda: step(ln.nn.Conv2d(3, 4, 3, padding=1), image(), ln.optim.AdamW()),
        "gelu": lambda: step(ln.nn.GELU(), rows(requires_grad=True), lambda _: None),
        "cross entropy": lambda: ln.loss.cross_entropy(
            ln.ones((16, 10), device="cuda", requires_grad=True), ln.zeros(16, dtype="int64", device="cuda")
        ).backward(),
    }


def catalogue() -> dict[str, tuple[str, list[str]]]:
    """Return the sources of kernels and the types of their arguments, by what they are for.

    Afterwards this process cannot use a GPU: the kernels that it knows do nothing.
    """
    recorder = gpu._found = Recorder()
    found: dict[str, tuple[str, list[str]]] = {}
    known: set[str] = set()
    for name, work in workloads().items():
        recorder.kernels.clear()
        work()
        fresh = [kernel for kernel in recorder.kernels if kernel[0] not in known]
        for place, kernel in enumerate(fresh):
            known.add(kernel[0])
            found[name if len(fresh) == 1 else f"{name}, {place + 1}"] = kernel
    return found


@dataclass(frozen=True)
class Usage:
    """What a kernel takes: registers of a thread, bytes that it spills, bytes of a block's shared memory."""

    registers: int
    spilled: int
    shared: int


def assembler() -> str | None:
    """Return the path of ``ptxas``, as pip or the toolkit installs it."""
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder).glob("*/bin/ptxas"):
            return str(path)
    return shutil.which("ptxas")


def assembled(ptx: str, capability: tuple[int, int], program: str) -> Usage:
    """Have ``ptxas`` make machine code, and return what it says.

    Raises
    ------
    ValueError
        If it refuses.
    """
    architecture = f"-arch=sm_{capability[0]}{capability[1]}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [program, "-v", architecture, str(path), "-o", str(path.with_suffix(".cubin"))]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ValueError(result.stdout + result.stderr)
    said = result.stdout + result.stderr
    spills = sum(map(int, re.findall(r"(\d+) bytes spill (?:stores|loads)", said)))
    shared = re.search(r"(\d+) bytes smem", said)
    registers = re.search(r"Used (\d+) registers", said)
    assert registers, said
    return Usage(int(registers[1]), spills, int(shared[1]) if shared else 0)


def parameters(ptx: str) -> list[int]:
    """Return the sizes in bytes of what the entry of a kernel is given."""
    head = ptx.partition(".entry")[2].partition(")")[0]
    return [int(bits) // 8 for bits in re.findall(r"\.param (?:\.align \d+ )?\.[busf](\d+)", head)]


def packed(types: list[str]) -> list[int]:
    """Return the same of what the driver packs."""
    return [struct.calcsize("Q" if kind[0] == "p" else driver._FORMATS[kind]) for kind in types]


def measured(text: str, types: list[str], capability: tuple[int, int], program: str | None) -> dict[str, Any]:
    """Return what is to be known of a kernel for one kind of GPU."""
    ptx = compiler.compiled(text, types, capability, keep=False).ptx
    usage = {} if program is None else asdict(assembled(ptx, capability, program))
    return usage | {
        "doubles": ".f64" in ptx,
        "calls": ".extern .func" in ptx,
        "parameters": parameters(ptx),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--json", action="store_true", help="print everything, a quarter of them for both")
    arguments = parser.parse_args()
    program = assembler()
    if program is None and not arguments.json:
        print("ptxas was not found: pip install nvidia-cuda-nvcc")
        return 1
    kernels = {name: kernel for name, kernel in catalogue().items() if arguments.only in name}
    if arguments.json:
        tables = {
            name: {"types": types, "packed": packed(types)}
            | {
                f"sm_{a}{b}": measured(text, types, (a, b), program)
                for a, b in (CAPABILITIES if place % 4 == 0 else CAPABILITIES[-1:])
            }
            for place, (name, (text, types)) in enumerate(kernels.items())
        }
        print(json.dumps(tables))
        return 0
    print(f"{'kernel':<36}{'sm_80':>8}{'sm_90':>8}{'spilled':>9}{'shared':>8}   (registers, bytes)")
    for name, (text, types) in kernels.items():
        old, new = (measured(text, types, capability, program) for capability in CAPABILITIES)
        numbers = old["registers"], new["registers"], new["spilled"], new["shared"]
        print(f"{name:<36}{numbers[0]:>8}{numbers[1]:>8}{numbers[2]:>9}{numbers[3]:>8}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
