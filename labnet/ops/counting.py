"""How ops are counted: while somebody collects statistics, each op's kernel is a counting one.

The functions that `labnet.ops.dispatch` makes hold the array function of their op in a cell. Counting puts
another function into that cell and takes it out again at the end, so that an op costs exactly the same as
before while nobody counts. Backwards are counted as ops of their own, ``matmul.backward``; the ops that a
gradient rule is written in are part of it and not counted again. What runs on a GPU is counted at once, and its
seconds there are added when they are known; see `labnet.kernels.cuda.driver.clock`.
"""

import time
from collections.abc import Callable
from types import CellType
from typing import Any

import numpy as np

from labnet.autograd import Run
from labnet.kernels.device_dispatch import is_on_gpu, materialize, timed
from labnet.ops.dispatch import Recorded
from labnet.ops.registry import REGISTRY, Op
from labnet.stats.collecting import active, later, on_switch, record, suspended
from labnet.stats.operations import OpCount
from labnet.tensor import as_array

Kernel = Callable[..., Any]

#: Cells that hold a kernel, and classes that hold a vjp, with the plain and the counting one; made when counting
#: begins for the first time.
_cells: list[tuple[CellType, Kernel, Kernel]] = []
_vjps: list[tuple[type[Recorded], Kernel, Kernel]] = []


def kernel_cell(op: Op) -> CellType:
    """Return the cell in which the function of an op keeps its kernel."""
    cells = [cell for cell in op.function.__closure__ or () if cell.cell_contents is op.forward]
    if len(cells) != 1:
        raise RuntimeError(f"{op.name}: its function should hold its kernel in one cell, found {len(cells)}")
    return cells[0]


def counting_kernel(op: Op) -> Kernel:
    """Return the kernel of an op, with counting around it."""
    kernel, variadic = op.forward, op.variadic

    def counted(*arguments: Any, **static: Any) -> Any:
        if not active():
            return kernel(*arguments, **static)
        began = time.perf_counter()
        with timed(later(op.name)):
            out = kernel(*arguments, **static)
            materialize(out)
        seconds = 0.0 if is_on_gpu(out) else time.perf_counter() - began
        inputs = arguments[0] if variadic else arguments
        record(op.name, OpCount(1, seconds, _nbytes(op, inputs, out), op.count_flops(out, *inputs, **static)))
        return out

    return counted


def counting_vjp(vjp: Kernel) -> Kernel:
    """Return what applies the rules of a recorded op, with counting around it as one op."""

    def counted(node: Recorded, gradient: Any, run: Run) -> Any:
        if not active():
            return vjp(node, gradient, run)
        op, inputs, out, static = node.op, node.arrays, node.out, node.static
        began, name = time.perf_counter(), f"{op.name}.backward"
        with timed(later(name)), suspended():
            parts = vjp(node, gradient, run)
            materialize(*parts)
        seconds = 0.0 if is_on_gpu(out) else time.perf_counter() - began
        wanted = {position: each for position, each in enumerate(parts) if each is not None}
        forward = op.count_flops(out, *inputs, **static)
        # a bias, the third input of linear maps and convolutions, gets the sum of the gradient and no product of it
        summed = int(np.size(gradient))
        flops = sum([forward if position < 2 or op.variadic else summed for position in wanted])
        nbytes = _nbytes(op, inputs, out) + sum(as_array(each).nbytes for each in wanted.values())
        record(name, OpCount(1, seconds, nbytes, flops))
        return parts

    return counted


def _vjp_classes() -> list[type[Recorded]]:
    """Return the kinds of recorded ops that have a way of their own to apply their rules."""
    found, kinds = [], [Recorded]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if "vjp" in vars(kind):
            found.append(kind)
    return found


def _nbytes(op: Op, inputs: Any, out: Any) -> int:
    """Return the bytes that an op reads and writes; a view takes none."""
    if op.view and getattr(out, "base", None) is not None:
        return 0
    return sum(array.nbytes for array in (*inputs, out) if hasattr(array, "nbytes"))


def switch(on: bool) -> None:
    """Put the counting kernels in place, or the plain ones."""
    if not _cells:
        _cells.extend(
            (kernel_cell(op), op.forward, counting_kernel(op)) for op in REGISTRY.values() if not op.is_composed
        )
        _vjps.extend((kind, vars(kind)["vjp"], counting_vjp(vars(kind)["vjp"])) for kind in _vjp_classes())
    for cell, plain, counted in _cells:
        cell.cell_contents = counted if on else plain
    for kind, plain, counted in _vjps:
        setattr(kind, "vjp", counted if on else plain)  # noqa: B010  (mypy lets nobody assign a method)


on_switch(switch)
