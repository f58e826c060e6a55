"""Writing into memory that expressions still to be computed may read: they get what was there before."""

from typing import Any

import numpy as np

from labnet.kernels.cuda import elementwise
from labnet.kernels.cuda.array import DeviceArray, pending_arrays
from labnet.kernels.cuda.expressions import Node
from labnet.kernels.cuda.machine import Block

Host = np.ndarray[Any, Any]


def settle_readers(block: Block | None, but: DeviceArray | None = None) -> None:
    """Compute what was to be computed from memory that is about to change."""
    for other in pending_arrays():
        if other is not but and other._node is not None and reads(other._node, block):
            other.settle()


def write(target: DeviceArray, node: Node) -> None:
    """Write an expression of the shape of `target`, or one that broadcasts to it, into the memory of `target`."""
    block = target._block
    layout = target.layout
    settle_readers(block, target)
    overlapping = any(not _same(leaf.payload.layout, layout) for leaf in _leaves(node) if _within(leaf, block))
    if overlapping:
        fresh = DeviceArray.empty(layout.shape, layout.dtype)
        elementwise.run(node, fresh.layout)
        node = fresh.node()
    elementwise.run(node, layout)


def _same(one: Host, other: Host) -> bool:
    return (
        elementwise.address(one) == elementwise.address(other)
        and one.strides == other.strides
        and one.shape == other.shape
        and one.dtype == other.dtype
    )


def _leaves(root: Node) -> list[Node]:
    found, pending = [], [root]
    while pending:
        node = pending.pop()
        if node.kind == "leaf":
            found.append(node)
        pending.extend(node.args)
    return found


def _within(leaf: Node, block: Block | None) -> bool:
    return (
        block is not None and block.address <= elementwise.address(leaf.payload.layout) < block.address + block.nbytes
    )


def reads(root: Node, block: Block | None) -> bool:
    """Tell whether an expression reads from a block of memory."""
    return any(_within(leaf, block) for leaf in _leaves(root))


def reads_in_step(root: Node, target: DeviceArray) -> bool:
    """Tell whether what an expression reads of the memory of `target`, if anything, is what it writes at each place."""
    layout = target.layout
    return all(_same(leaf.payload.layout, layout) for leaf in _leaves(root) if _within(leaf, target._block))
