"""Whether groups and a memory plan read what was written, and before it is overwritten: decided without running them.

Written apart from the passes that it checks: it compares offsets, strides and bytes, group by group.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass

from labnet.compile.backends import cpu_program
from labnet.compile.ir import memory_plan as planning
from labnet.compile.ir.values import Value, broadcast_strides, contiguous, placed


class Hazard(AssertionError):
    """A read of memory that is not written yet, or overwritten already."""


@dataclass(frozen=True)
class Read:
    """A read of an operand by loops over `shape`; without a shape, by an operation on whole arrays."""

    operand: Value
    shape: tuple | None
    member: int

    @property
    def base(self):
        return placed(self.operand)[0]

    def is_in_step(self):
        """Return whether turn t of the loops reads element t of the memory of the base."""
        if self.shape is None or self.base.size != math.prod(self.shape):
            return False
        _, offset, strides = placed(self.operand)
        steps = broadcast_strides(self.operand.shape, strides, self.shape)
        rows = zip(self.shape, steps, contiguous(self.shape), strict=True)
        return offset == 0 and all(length == 1 or step == row for length, step, row in rows)


def reads_of(group):
    for position, value in enumerate(group.members):
        for number, operand in enumerate(value.inputs):
            anywhere = group.shape is None or (value.kind == "take" and number == 0)
            yield Read(operand, None if anywhere else group.shape, position)
    yield from (Read(store.value, group.shape, len(group.members)) for store in group.stores)
    yield from (Read(check.value, None, 0) for check in group.checks)


class Verification:
    """Goes through the groups of a program in the order in which they run."""

    def __init__(self, program, groups, plan):
        self._program, self._groups, self._plan = program, groups, plan
        self._places = {v.number: (p, m) for p, group in enumerate(groups) for m, v in enumerate(group.members)}
        self._values = {value.number: value for group in groups for value in group.members}
        self._overwritten = {
            store.target.number: position
            for position, group in enumerate(groups)
            for store in group.stores
            if isinstance(store.target, Value)
        }

    def run(self):
        for number in self._plan.offsets:
            _, stop = self._bytes(number)
            self._need(stop <= self._plan.nbytes, f"v{number} ends behind the arena")
        for position, group in enumerate(self._groups):
            for read in reads_of(group):
                self._read(position, read)
        self._stores()

    def _need(self, holds, message):
        if not holds:
            raise Hazard(f"{message}\n{self._program}\n{self._groups}\n{self._plan}")

    def _read(self, position, read):
        base = read.base
        what = f"group {position} reads v{base.number}"
        self._need(base.kind != "view", f"{what}, a view of a view")
        if base.kind == "splat" or not base.size:
            return
        self._within(read, what)
        if base.kind == "source":
            end = self._overwritten.get(base.number, position + 1)
            self._need(position < end or (position == end and read.is_in_step()), f"{what} after it is overwritten")
            return
        self._need(base.number in self._places, f"{what}, which is never computed")
        place, member = self._places[base.number]
        if place == position and base.kind in ("map", "take"):
            beside = read.operand is base and read.is_in_step() and member < read.member
            self._need(beside, f"{what} in the loops that compute it, at other elements")
            return
        self._need(place < position, f"{what} before it is written")
        self._kept(base, position, what)

    def _within(self, read, what):
        """Complain about elements before the beginning or behind the end."""
        base, first, strides = placed(read.operand)
        if read.operand.size:
            reach = [step * (length - 1) for step, length in zip(strides, read.operand.shape, strict=True)]
            low, high = first + sum(x for x in reach if x < 0), first + sum(x for x in reach if x > 0)
            self._need(low >= 0 and high < base.size, f"{what} outside of it")

    def _kept(self, base, position, what):
        """Complain where something else is written between the first write of a value and a read of it."""
        plan = self._plan
        if base.number in plan.outputs:
            return
        if base.number in plan.inside:
            whole = plan.inside[base.number][0]
            self._need(self._places[whole.number][0] == position, f"{what}, which is part of v{whole.number} by now")
            return
        self._need(base.number in plan.offsets, f"{what}, which has no memory")
        start, stop = self._bytes(base.number)
        for other in self._written(self._born(base.number), position):
            first, last = self._bytes(other)
            mine = other == base.number or self._whole(other) == base.number
            self._need(mine or stop <= first or last <= start, f"{what} where v{other} is written meanwhile")

    def _written(self, begin, end):
        """Yield what is in the arena, and written by some of the groups from `begin` to `end`."""
        for number, (place, _) in self._places.items():
            owner = self._whole(number)
            if owner in self._plan.offsets and (begin <= place <= end or begin <= self._born(owner) <= end):
                yield number

    def _whole(self, number):
        return self._plan.inside[number][0].number if number in self._plan.inside else number

    def _born(self, number):
        """Return the first group that writes to the memory of a value."""
        parts = [part for part, (whole, _, _) in self._plan.inside.items() if whole.number == number]
        blank = [p for p, values in self._plan.begins.items() if number in [value.number for value in values]]
        return min([self._places[number][0], *blank, *(self._places[part][0] for part in parts)])

    def _bytes(self, number):
        start = self._plan.offsets[self._whole(number)]
        return start, start + self._values[self._whole(number)].nbytes

    def _stores(self):
        """Complain where a store is left out, or done twice."""
        done = [id(store) for group in self._groups for store in group.stores]
        for store in self._program.stores:
            base = placed(store.value)[0]
            in_place = isinstance(store.target, int) and self._plan.outputs.get(base.number) == store.target
            times = done.count(id(store)) + in_place
            self._need(times == (store.value is not store.target), f"{store} is done {times} times")


def verify(program, groups, plan):
    """Raise `Hazard` where a group reads memory that is not written yet, or overwritten already."""
    Verification(program, groups, plan).run()


#: Source and arena of each program that was compiled, by its name in the cache.
_written = {}


@contextmanager
def verified():
    """Have every program that is compiled meanwhile verified, and written anew even if its source is on the disk.

    Programs of the same name must have the same source.
    """
    cache = cpu_program.cache
    recall, remember = cache.recall, cache.remember

    def check(program, source, nbytes):
        assert _written.setdefault(program, (source, nbytes)) == (source, nbytes)
        remember(program, source, nbytes)

    def plan(program, groups):
        found = planning.plan(program, groups)
        verify(program, groups, found)
        return found

    cpu_program.plan, cache.recall, cache.remember = plan, lambda program: None, check
    try:
        yield
    finally:
        cpu_program.plan, cache.recall, cache.remember = planning.plan, recall, remember
