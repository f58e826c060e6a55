"""Op statistics: while they are collected, counting kernels replace the kernels of ops.

The functions of `labnet.ops.core.dispatch` keep the array function of their op in a closure cell. Collection replaces
the content of the cell and restores it at the end, so an op has no overhead otherwise. Backwards are counted as
separate ops, such as ``matmul.backward``; the ops inside a gradient rule are not counted again. GPU ops are counted at
once, and their seconds are added when they are known; see `labnet.kernels.cuda.driver.clock`.
"""

import time
import weakref
from collections.abc import Callable
from types import CellType
from typing import Any

import numpy as np

from labnet.autograd import Run
from labnet.kernels.device_dispatch import is_on_gpu, materialize, timed
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import Recorded, is_view
from labnet.ops.core.registry import REGISTRY, on_declare
from labnet.stats.collecting import active, later, on_switch, record, suspended
from labnet.stats.operations import OpCount
from labnet.tensor import as_array

Kernel = Callable[..., Any]

#: Cells with their plain and counting kernels, and classes with their plain and counting vjps; made at the first
#: collection.
_cells: list[tuple[CellType, Kernel, Kernel]] = []
_vjps: list[tuple[type[Recorded], Kernel, Kernel]] = []


def kernel_cell(op: Op) -> CellType:
    """Return the closure cell of an op's function that contains its kernel."""
    cells = [cell for cell in op.function.__closure__ or () if cell.cell_contents is op.forward]
    if len(cells) != 1:
        raise RuntimeError(f"{op.name}: its function should hold its kernel in one cell, found {len(cells)}")
    return cells[0]


def counting_kernel(op: Op) -> Kernel:
    """Wrap the kernel of an op in counting."""
    kernel, variadic = _alone(op.forward) if op.is_custom else op.forward, op.variadic

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


def _alone(kernel: Kernel) -> Kernel:
    """Return a kernel that does not count the ops that it calls."""

    def alone(*arguments: Any, **static: Any) -> Any:
        with suspended():
            return kernel(*arguments, **static)

    return alone


def counting_vjp(vjp: Kernel) -> Kernel:
    """Wrap the vjp of a recorded op in counting, as one op."""

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
        # the gradient of a bias, the third input of linear maps and convolutions, is a sum without a product
        summed = int(np.size(gradient))
        flops = sum([forward if position < 2 or op.variadic else summed for position in wanted])
        nbytes = _nbytes(op, inputs, out) + sum(as_array(each).nbytes for each in wanted.values())
        record(name, OpCount(1, seconds, nbytes, flops))
        return parts

    return counted


def _vjp_classes() -> list[type[Recorded]]:
    """Return the classes of recorded ops that define their own vjp."""
    found, kinds = [], [Recorded]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if "vjp" in vars(kind):
            found.append(kind)
    return found


def _nbytes(op: Op, inputs: Any, out: Any) -> int:
    """Return the bytes that an op reads and writes; 0 for a view."""
    if op.view and is_view(out):
        return 0
    return sum(array.nbytes for array in (*inputs, out) if hasattr(array, "nbytes"))


class _Late:
    """Ops that are declared after the first collection, or by users, whose kernels are replaced too."""

    def __init__(self) -> None:
        self.is_on = False
        self._ops: weakref.WeakSet[Op] = weakref.WeakSet()

    def add(self, op: Op) -> None:
        """Add an op that is declared now."""
        if (op.is_custom or _cells) and not op.is_composed:
            op.kernels = kernel_cell(op), op.forward, counting_kernel(op)
            self._ops.add(op)
            self._install(op)

    def switch(self, on: bool) -> None:
        """Install the counting kernels or the plain ones."""
        self.is_on = on
        for op in list(self._ops):
            self._install(op)

    def _install(self, op: Op) -> None:
        cell, plain, counted = op.kernels
        cell.cell_contents = counted if self.is_on else plain


_late = _Late()
on_declare.append(_late.add)


def switch(on: bool) -> None:
    """Install the counting kernels or the plain ones."""
    if not _cells:
        _cells.extend(
            (kernel_cell(op), op.forward, counting_kernel(op)) for op in REGISTRY.values() if not op.is_composed
        )
        _vjps.extend((kind, vars(kind)["vjp"], counting_vjp(vars(kind)["vjp"])) for kind in _vjp_classes())
    _late.switch(on)
    for cell, plain, counted in _cells:
        cell.cell_contents = counted if on else plain
    for kind, plain, counted in _vjps:
        setattr(kind, "vjp", counted if on else plain)  # noqa: B010  (mypy refuses to assign a method)


on_switch(switch)
