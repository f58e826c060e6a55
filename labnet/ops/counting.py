"""How ops are counted: while somebody collects statistics, each op's kernel is a counting one.

The functions that `labnet.ops.dispatch` makes hold the array function of their op in a cell. Counting puts
another function into that cell and takes it out again at the end, so that an op costs exactly the same as
before while nobody counts. Backwards are counted as ops of their own, ``matmul.backward``; the ops that a
gradient rule is written in are part of it and not counted again.
"""

import time
from collections.abc import Callable
from types import CellType
from typing import Any

import numpy as np

from labnet.autograd import Run
from labnet.ops.dispatch import Recorded
from labnet.ops.registry import REGISTRY, Op
from labnet.stats.collecting import active, on_switch, record, suspended
from labnet.stats.operations import OpCount
from labnet.tensor import Tensor

Kernel = Callable[..., Any]

#: Cells that hold a kernel, with the plain and the counting one; made when counting begins for the first time.
_cells: list[tuple[CellType, Kernel, Kernel]] = []
_pull = Recorded.pull


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
        out = kernel(*arguments, **static)
        seconds = time.perf_counter() - began
        inputs = arguments[0] if variadic else arguments
        record(op.name, OpCount(1, seconds, _nbytes(op, inputs, out), op.count_flops(out, *inputs, **static)))
        return out

    return counted


def counting_pull(node: Recorded, gradient: Tensor, run: Run) -> list[Tensor | None]:
    """Apply the rules of a recorded op, and count that as one op."""
    if not active():
        return _pull(node, gradient, run)
    op, inputs, out, static = node.op, node.arrays, node.out, node.static
    began = time.perf_counter()
    with suspended():
        pulled = _pull(node, gradient, run)
    seconds = time.perf_counter() - began
    wanted = {position: each for position, each in enumerate(pulled) if each is not None}
    forward = op.count_flops(out, *inputs, **static)
    # a bias, the third input of linear maps and convolutions, gets the sum of the gradient and no product of it
    flops = sum(forward if position < 2 or op.variadic else np.size(gradient) for position in wanted)
    nbytes = _nbytes(op, inputs, gradient._array) + sum(each._array.nbytes for each in wanted.values())
    record(f"{op.name}.backward", OpCount(1, seconds, nbytes, flops))
    return pulled


def _nbytes(op: Op, inputs: Any, out: Any) -> int:
    """Return the bytes that an op reads and writes; a view takes none."""
    if op.view and getattr(out, "base", None) is not None:
        return 0
    return sum(array.nbytes for array in (*inputs, out) if isinstance(array, np.ndarray | np.generic))


def switch(on: bool) -> None:
    """Put the counting kernels in place, or the plain ones."""
    if not _cells:
        _cells.extend(
            (kernel_cell(op), op.forward, counting_kernel(op)) for op in REGISTRY.values() if not op.is_composed
        )
    for cell, plain, counted in _cells:
        cell.cell_contents = counted if on else plain
    setattr(Recorded, "pull", counting_pull if on else _pull)  # noqa: B010  (mypy lets nobody assign a method)


on_switch(switch)
