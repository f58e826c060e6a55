"""Hazards of writes: pending expressions that read the memory are computed first, with its old values."""

from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import LONGEST, DeviceArray, pending_arrays
from labnet.kernels.cuda.array.operands import mixed
from labnet.kernels.cuda.codegen import elementwise
from labnet.kernels.cuda.codegen.expressions import Node, cast
from labnet.kernels.cuda.driver.pool import Block


def materialize_readers(block: Block | None, but: DeviceArray | None = None) -> None:
    """Compute the pending arrays that read from memory that is about to change."""
    for other in pending_arrays():
        if other is not but and other.expression is not None and reads(other.expression, block):
            other.materialize()


def write(target: DeviceArray, node: Node) -> None:
    """Write an expression, broadcast to the shape of `target`, into the memory of `target`."""
    block = target.materialize().block
    materialize_readers(block, target)
    overlapping = any(not _same(leaf, target) for leaf in node.leaves if _within(leaf, block))
    if overlapping:
        fresh = DeviceArray.empty(target.shape, target.dtype)
        elementwise.run(node, fresh)
        node = fresh.node()
    elementwise.run(node, target)


def write_out(target: Any, node: Node, shape: tuple[int, ...]) -> Any:
    """Write an expression into the `out` of a function: at once, or as its pending expression if it has one.

    Raises
    ------
    DeviceError
        If it is an array of the host.
    ValueError, TypeError
        If the shape or the dtype does not fit.
    """
    if not isinstance(target, DeviceArray):
        raise mixed(target)
    if np.broadcast_shapes(shape, target.shape) != target.shape:
        raise ValueError(f"non-broadcastable output operand with shape {target.shape} for the shape {shape}")
    if not np.can_cast(node.dtype, target.dtype, "same_kind"):
        raise TypeError(f"cannot cast output from {node.dtype!r} to {target.dtype!r} with casting rule 'same_kind'")
    if target.expression is not None and shape == target.shape:
        target.expression = cast(node, target.dtype)
        if target.expression.size > LONGEST:
            target.materialize()
    else:
        write(target, node)
    return target


def _same(one: DeviceArray, other: DeviceArray) -> bool:
    return one.address == other.address and one.form == other.form and one.dtype == other.dtype


def _within(leaf: DeviceArray, block: Block | None) -> bool:
    return block is not None and block.address <= leaf.address < block.address + block.nbytes


def reads(root: Node, block: Block | None) -> bool:
    """Return whether an expression reads from a block of memory."""
    return any(_within(leaf, block) for leaf in root.leaves)


def reads_in_step(root: Node, target: DeviceArray) -> bool:
    """Return whether an expression reads, of the memory of `target`, only the element that it writes."""
    return all(_same(leaf, target) for leaf in root.leaves if _within(leaf, target.block))
