"""Fusion: elementwise operations and reductions over the same elements share one loop nest.

The result is a list of groups that run in order. A value joins the earliest group with its loop shape in which its
operands are available and that shares an operand in memory with it. Numbers of the call, such as learning rates, are no
reason to share loops: the updates of equal layers stay apart, so they are compiled as one function.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from labnet.compile.ir.values import Check, Program, Shape, Store, Value, is_number, storage

#: Kinds of values that are available in each iteration of the loops.
AT_ONCE = ("map", "take")


@dataclass
class Group:
    """A unit of execution: one loop nest over `shape`, or one matrix product or other single operation.

    Attributes
    ----------
    shape : tuple or None
        Shape of the loops; None for a single operation.
    members : list of Value
        Computed values, in order.
    stores : list of Store
        Writes into held sources or outputs at the end of each iteration.
    checks : list of Check
        Checks that the group runs instead of computing values.
    """

    shape: Shape | None
    members: list[Value] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def accesses(self) -> Iterator[tuple[Value, bool]]:
        """Yield each operand, and whether it is a whole value of which each iteration reads its own element."""
        for value in self.members:
            for position, operand in enumerate(value.inputs):
                yield operand, operand.shape == self.shape and not (value.kind == "take" and position == 0)
        yield from ((store.value, store.value.shape == self.shape) for store in self.stores)
        yield from ((check.value, False) for check in self.checks)

    def reads(self) -> set[int]:
        """Return the numbers of the values that members and stores read; views count as their base."""
        return {storage(operand).number for operand, _ in self.accesses()}

    def reads_in_step(self, value: Value) -> bool:
        """Return whether each iteration reads at most its own element of a value.

        This alone decides whether those loops may compute the value, and which memory they may overwrite.
        """
        return all(in_step and operand is value for operand, in_step in self.accesses() if storage(operand) is value)


def runs_over(value: Value) -> Shape | None:
    """Return the shape of the loops that compute a value; None if it needs no loop."""
    if value.kind in AT_ONCE:
        return value.shape
    return value.inputs[0].shape if value.kind in ("reduce", "scatter") else None


class Fusion:
    """Assigns the values of a program to groups, one by one."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        #: What each group reads from memory or computes: the reasons to join its loops.
        self._links: list[set[int]] = []
        self._place: dict[int, int] = {}
        self._readers: dict[int, int] = {}
        self._waiting: dict[int, Value] = {}
        self._checked = 0

    def earliest(self, value: Value, loops: Group) -> int:
        """Return the first group whose loops may read a value."""
        place = self._place.get(value.number)
        if place is None:
            return 0
        return place if value.kind in AT_ONCE and loops.reads_in_step(value) else place + 1

    def add_all(self, values: Iterable[Value]) -> None:
        """Assign all computed values without a group."""
        for value in values:
            known = value.number in self._place or value.number in self._waiting
            if known or value.kind in ("source", "splat", "view"):
                continue
            if value.kind == "map" and all(operand.kind in ("source", "splat") for operand in value.inputs):
                self._waiting[value.number] = value  # free to join any group: the first that reads it
            else:
                self.add(value)

    def add(self, value: Value) -> None:
        """Assign a value to a group, after the deferred values that it reads."""
        loops = Group(runs_over(value), [value])
        bases = list(dict.fromkeys(map(storage, value.inputs)))
        joining = [base for base in bases if base.number in self._waiting and self._may_join(base, loops)]
        for base in joining:
            del self._waiting[base.number]
        self.settle(bases)
        first = max((self.earliest(base, loops) for base in bases), default=0)
        if value.kind in ("take", "scatter"):  # positions are checked before they are used
            first = max(first, self._checked)
        loops.members[:0] = joining
        position = self._joined(loops, first)
        self.groups[position].members += loops.members
        for each in loops.members:
            self._place[each.number] = position
            self._note(each.inputs, position)

    @staticmethod
    def _may_join(value: Value, loops: Group) -> bool:
        return loops.shape is not None and loops.reads_in_step(value)

    def settle(self, values: Iterable[Value]) -> None:
        """Assign the deferred ones among these values to groups."""
        for value in values:
            if (waiting := self._waiting.pop(value.number, None)) is not None:
                self.add(waiting)

    def check(self, check: Check) -> None:
        """Assign a check to a group of its own, before any store to held memory."""
        self.settle([check.value])
        self.groups.append(Group(None, checks=[check]))
        self._links.append(set())
        self._checked = len(self.groups)

    def store(self, store: Store) -> None:
        """Assign a store to a group after all readers of the target, or in step with them."""
        base, loops = storage(store.value), Group(store.value.shape, stores=[store])
        first = self.earliest(base, loops)
        if isinstance(store.target, Value):
            first = max(first, self._checked, self._overwritable(store.target))
        position = self._joined(loops, first)
        self.groups[position].stores.append(store)
        self._note([store.value], position)

    def _overwritable(self, target: Value) -> int:
        """Return the first group that may overwrite a held source."""
        last = self._readers.get(target.number)
        if last is None:
            return 0
        group = self.groups[last]
        return last if group.shape == target.shape and group.reads_in_step(target) else last + 1

    def _note(self, inputs: "list[Value] | tuple[Value, ...]", position: int) -> None:
        for operand in inputs:
            base = storage(operand).number
            self._readers[base] = max(position, self._readers.get(base, 0))

    def _joined(self, loops: Group, first: int) -> int:
        """Return the position of the group that takes the members or the store of another one, from `first` on."""
        links = {value.number for operand, _ in loops.accesses() if not is_number(value := storage(operand))}
        position = len(self.groups)
        if loops.shape is not None:
            for known in range(first, len(self.groups)):
                if self.groups[known].shape == loops.shape and not links.isdisjoint(self._links[known]):
                    position = known
                    break
        if position == len(self.groups):
            self.groups.append(Group(loops.shape))
            self._links.append(set())
        self._links[position] |= links
        self._links[position].update(value.number for value in loops.members)
        return position


def fuse(program: Program, in_place: dict[int, int] | None = None) -> list[Group]:
    """Return the groups of a program, in the order in which they run.

    `in_place` maps values that are computed in the memory of an output, and so need no store, to that output.
    """
    fusion = Fusion()
    for check in program.checks:
        fusion.add_all(Program(checks=[check]).values())
        fusion.check(check)
    fusion.add_all(program.values())
    fusion.settle(storage(store.value) for store in program.stores)
    for store in sorted(program.stores, key=_overwrites):  # outputs read the old values
        done = isinstance(store.target, int) and (in_place or {}).get(storage(store.value).number) == store.target
        if store.value is not store.target and not done:
            fusion.store(store)
    sink(fusion.groups)
    return fusion.groups


def _overwrites(store: Store) -> bool:
    return isinstance(store.target, Value)


def users(groups: list[Group]) -> dict[int, set[int]]:
    """Return {number of a value: positions of the groups that read it}; views count as their base."""
    found: dict[int, set[int]] = {}
    for position, group in enumerate(groups):
        for number in group.reads():
            found.setdefault(number, set()).add(position)
    return found


def sink(groups: list[Group]) -> None:
    """Move elementwise values into the only group that reads them, if that saves their memory.

    It does if the group has the same shape, and their operands are in memory anyway.
    """
    known, needs = users(groups), [_needed_by(group) for group in groups]
    for position in range(len(groups) - 1, -1, -1):
        for value in list(reversed(groups[position].members)):
            readers = known.get(value.number, set())
            if value.kind != "map" or len(readers) != 1 or position in readers:
                continue
            place = next(iter(readers))
            target = groups[place]
            if target.shape != value.shape or not target.reads_in_step(value):
                continue
            if _stays(set().union(*needs), value):
                before = groups[position].reads()
                groups[position].members.remove(value)
                target.members.insert(0, value)
                needs[position], needs[place] = _needed_by(groups[position]), _needed_by(target)
                for number in before - groups[position].reads():
                    known[number].discard(position)
                for operand in value.inputs:
                    known[storage(operand).number].add(place)
    groups[:] = [group for group in groups if group.members or group.stores or group.checks]


def _stays(needed: set[int], value: Value) -> bool:
    """Return whether all operands of a value are in memory and remain unchanged."""
    for operand in value.inputs:
        base = storage(operand)
        if base.kind == "source" and base.attributes["origin"] == "held":
            return False
        if base.kind not in ("source", "splat") and base.number not in needed:
            return False
    return True


def needs_memory(groups: list[Group]) -> set[int]:
    """Return the numbers of the computed values that need memory.

    These are all but the elementwise values that are read only in step, in their own loops.
    """
    return set().union(*map(_needed_by, groups))


def _needed_by(group: Group) -> set[int]:
    """Return the numbers of the values that need memory because of one group."""
    own = {value.number for value in group.members if value.kind in AT_ONCE}
    needed = {value.number for value in group.members} - own
    in_step: dict[int, bool] = {}
    for operand, follows in group.accesses():
        base = storage(operand)
        if base.kind not in ("source", "splat"):
            in_step[base.number] = in_step.get(base.number, True) and follows and operand is base
    return needed | {number for number, follows in in_step.items() if not (number in own and follows)}
