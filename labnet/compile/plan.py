"""The memory plan: where each intermediate value lies.

One arena serves all of them. A value has its bytes from the group that computes it to the last one that reads it;
values that never live at the same time share memory. What is only handed out is computed where it is handed out.
"""

from dataclasses import dataclass, field

from labnet.compile.fuse import Group, needs_memory
from labnet.compile.ir import Program, Value, contiguous, placed

_ALIGNED = 64


@dataclass
class Plan:
    """Places of values.

    Attributes
    ----------
    offsets : dict
        {number of a value: its first byte in the arena}.
    outputs : dict
        {number of a value: position of the output in which it is computed}.
    nbytes : int
        Length of the arena.
    """

    offsets: dict[int, int] = field(default_factory=dict)
    outputs: dict[int, int] = field(default_factory=dict)
    nbytes: int = 0


def computed_in_place(program: Program) -> dict[int, int]:
    """Return the values that are computed right where they are handed out, with the positions of these outputs."""
    found: dict[int, int] = {}
    for store in program.stores:
        base, offset, strides = placed(store.value)
        whole = base.size == store.value.size and offset == 0 and _moves_alike(strides, store.value)
        if isinstance(store.target, int) and base.kind in ("reduce", "matmul", "put") and whole:
            found.setdefault(base.number, store.target)
    return found


def _moves_alike(strides: tuple[int, ...], value: Value) -> bool:
    plain = contiguous(value.shape)
    return all(length == 1 or a == b for length, a, b in zip(value.shape, strides, plain, strict=True))


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
    """Give every value that has to be in memory a place: the lowest that is free, the largest value first."""
    result = Plan(outputs=computed_in_place(program))
    lives = {number: life for number, life in lifetimes(groups).items() if number not in result.outputs}
    given: list[tuple[int, int, int, int]] = []
    for number, (begin, end, nbytes) in sorted(lives.items(), key=lambda item: (-item[1][2], item[0])):
        length = -(-max(nbytes, 1) // _ALIGNED) * _ALIGNED
        start = 0
        for other, size, first, last in sorted(given):
            if first <= end and begin <= last and other < start + length and start < other + size:
                start = other + size
        given.append((start, length, begin, end))
        result.offsets[number] = start
        result.nbytes = max(result.nbytes, start + length)
    return result
