"""The memory plan: the offset of each intermediate value in one arena.

A value occupies its bytes from the group that computes it to the last group that reads it, so values with disjoint
lifetimes share memory. An output that nothing else reads is computed in the memory of the output.
"""

import functools
from dataclasses import dataclass, field

import numpy as np

from labnet.compile.ir.fusion import Group, needs_memory, users
from labnet.compile.ir.values import Program, Shape, Value, contiguous, placed

_ALIGNED = 64


@dataclass
class Plan:
    """The memory of values.

    Attributes
    ----------
    offsets : dict
        {number of a value: its first byte in the arena}.
    outputs : dict
        {number of a value: position of the output in which it is computed}.
    inside : dict
        {number of a value: (the put in whose memory it is computed, its part)}.
    begins : dict
        {position of a group: the puts that must be zeroed before it}.
    nbytes : int
        Length of the arena.
    """

    offsets: dict[int, int] = field(default_factory=dict)
    outputs: dict[int, int] = field(default_factory=dict)
    inside: dict[int, tuple[Value, int, Shape]] = field(default_factory=dict)
    begins: dict[int, list[Value]] = field(default_factory=dict)
    nbytes: int = 0


def computed_in_place(program: Program) -> dict[int, int]:
    """Return the values that can be computed in the memory of an output, with the positions of these outputs."""
    found: dict[int, int] = {}
    for store in program.stores:
        base, offset, strides = placed(store.value)
        whole = base.size == store.value.size and offset == 0 and _moves_alike(strides, store.value)
        if isinstance(store.target, int) and base.kind in ("reduce", "matmul", "put", "call") and whole:
            found.setdefault(base.number, store.target)
    return found


def _moves_alike(strides: tuple[int, ...], value: Value) -> bool:
    plain = contiguous(value.shape)
    return all(length == 1 or a == b for length, a, b in zip(value.shape, strides, plain, strict=True))


@functools.lru_cache(maxsize=512)
def coverage(size: int, shapes: tuple[Shape, ...], places: tuple[tuple[int, Shape], ...]) -> tuple[bool, bool]:
    """Return whether the parts of a put are disjoint, and whether they cover all elements.

    Examples
    --------
    >>> coverage(6, ((2,), (3,)), ((0, (1,)), (3, (1,))))
    (True, False)
    """
    counts = np.zeros(size, np.uint8)
    for shape, (offset, strides) in zip(shapes, places, strict=True):
        reach = 1
        for step, length in sorted((abs(step), length) for step, length in zip(strides, shape, strict=True)):
            if length > 1 and step < reach:
                return False, False
            reach = max(reach, step * (length - 1) + reach)
        seen = np.lib.stride_tricks.as_strided(counts[offset:], shape, strides)
        seen += 1
    return bool(counts.max(initial=0) <= 1), bool(counts.min(initial=1) >= 1)


def parts_of(value: Value) -> tuple[bool, bool]:
    """Return `coverage` of a put."""
    return coverage(value.size, tuple(operand.shape for operand in value.inputs), value.attributes["places"])


def computed_inside(groups: list[Group]) -> dict[int, tuple[Value, int, Shape]]:
    """Return the values that can be computed in the memory of a put, their only reader."""
    found: dict[int, tuple[Value, int, Shape]] = {}
    readers = users(groups)
    for position, group in enumerate(groups):
        for value in group.members:
            if value.kind != "put" or not parts_of(value)[0]:
                continue
            numbers = [placed(operand)[0].number for operand in value.inputs]
            for operand, (offset, strides) in zip(value.inputs, value.attributes["places"], strict=True):
                alone = numbers.count(operand.number) == 1 and readers[operand.number] == {position}
                if operand.kind in ("map", "take") and alone and operand.dtype == value.dtype:
                    found[operand.number] = (value, offset, strides)
    return found


def lifetimes(groups: list[Group]) -> dict[int, tuple[int, int, int]]:
    """Return {number of a value: (group that computes it, last group that reads it, bytes)}."""
    needed, found = needs_memory(groups), dict[int, tuple[int, int, int]]()
    for position, group in enumerate(groups):
        for value in group.members:
            if value.number in needed:
                found[value.number] = (position, position, value.nbytes)
        for number in group.reads():
            if number in found:
                begin, _, nbytes = found[number]
                found[number] = (begin, position, nbytes)
    return found


def plan(program: Program, groups: list[Group]) -> Plan:
    """Assign an offset to each value that needs memory: the lowest free one, largest values first."""
    result = Plan(outputs=computed_in_place(program), inside=computed_inside(groups))
    lives = lifetimes(groups)
    for number, (whole, _, _) in result.inside.items():
        _, last, nbytes = lives[whole.number]
        lives[whole.number] = (min(lives[whole.number][0], lives[number][0]), last, nbytes)
    wholes = {value.number: value for group in groups for value in group.members if value.kind == "put"}
    for number, value in wholes.items():
        result.begins.setdefault(lives[number][0], []).append(value)
    given_elsewhere = result.outputs.keys() | result.inside.keys()
    lives = {number: life for number, life in lives.items() if number not in given_elsewhere}
    given = np.empty((4, len(lives)), np.int64)
    largest_first = sorted(lives.items(), key=lambda item: (-item[1][2], item[0]))
    for count, (number, (begin, end, nbytes)) in enumerate(largest_first):
        length = -(-max(nbytes, 1) // _ALIGNED) * _ALIGNED
        start, (others, sizes, first, last) = 0, given[:, :count]
        alive = np.flatnonzero((first <= end) & (last >= begin))
        alive = alive[np.argsort(others[alive])]
        for other, size in zip(others[alive].tolist(), sizes[alive].tolist(), strict=True):
            if other >= start + length:
                break
            start = max(start, other + size)
        given[:, count] = start, length, begin, end
        result.offsets[number] = start
        result.nbytes = max(result.nbytes, start + length)
    return result
