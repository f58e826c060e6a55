"""Fusion: elementwise operations and reductions over the same places share one nest of loops.

The result is a list of groups that run one after the other. A value belongs to the earliest group that runs over
its shape, has what it needs, and reads something that it reads too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from labnet.compile.ir.values import Check, Program, Shape, Store, Value, storage

#: Kinds of values that are known at each turn of the loops.
AT_ONCE = ("map", "take")


@dataclass
class Group:
    """What runs together: one nest of loops over `shape`, or one product of matrices or other single operation.

    Attributes
    ----------
    shape : tuple or None
        What the loops run over; None for a single operation.
    members : list of Value
        What is computed, in order.
    stores : list of Store
        What the loops write into held sources or outputs at the end of each turn.
    checks : list of Check
        What is checked instead of computing something.
    """

    shape: Shape | None
    members: list[Value] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def accesses(self) -> Iterator[tuple[Value, bool]]:
        """Yield what is read, and whether it is a whole value of which each turn reads the element of its own place."""
        for value in self.members:
            for position, operand in enumerate(value.inputs):
                yield operand, operand.shape == self.shape and not (value.kind == "take" and position == 0)
        yield from ((store.value, store.value.shape == self.shape) for store in self.stores)
        yield from ((check.value, False) for check in self.checks)

    def reads(self) -> set[int]:
        """Return the numbers of what the members and stores read, views by what they show."""
        return {storage(operand).number for operand, _ in self.accesses()}

    def reads_in_step(self, value: Value) -> bool:
        """Return whether each turn of the loops reads of a value, if anything, the element of its own place only.

        This decides alone what may be computed in the loops that read it, and which memory they may overwrite.
        """
        return all(in_step and operand is value for operand, in_step in self.accesses() if storage(operand) is value)


def runs_over(value: Value) -> Shape | None:
    """Return the shape that the loops for a value run over; None if it is no matter of a loop."""
    if value.kind in AT_ONCE:
        return value.shape
    return value.inputs[0].shape if value.kind in ("reduce", "scatter") else None


class Fusion:
    """Puts the values of a program into groups, one by one."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self._place: dict[int, int] = {}
        self._readers: dict[int, int] = {}
        self._waiting: dict[int, Value] = {}
        self._checked = 0

    def earliest(self, value: Value, loops: Group) -> int:
        """Return the first group of which loops that read a value can be part."""
        place = self._place.get(value.number)
        if place is None:
            return 0
        return place if value.kind in AT_ONCE and loops.reads_in_step(value) else place + 1

    def add_all(self, values: Iterable[Value]) -> None:
        """Put all values that are computed, and have no place yet, into groups."""
        for value in values:
            known = value.number in self._place or value.number in self._waiting
            if known or value.kind in ("source", "splat", "view"):
                continue
            if value.kind == "map" and all(operand.kind in ("source", "splat") for operand in value.inputs):
                self._waiting[value.number] = value  # it can be computed anywhere: where it is needed first
            else:
                self.add(value)

    def add(self, value: Value) -> None:
        """Put a value into a group, and before it what has waited for it."""
        loops = Group(runs_over(value), [value])
        bases = list(dict.fromkeys(map(storage, value.inputs)))
        joining = [base for base in bases if base.number in self._waiting and self._may_join(base, loops)]
        for base in joining:
            del self._waiting[base.number]
        self.settle(bases)
        first = max((self.earliest(base, loops) for base in bases), default=0)
        if value.kind in ("take", "scatter"):  # positions are used only after they have been checked
            first = max(first, self._checked)
        loops.members[:0] = joining
        position = self._find(loops.shape, first, loops.reads())
        self.groups[position].members += loops.members
        for each in loops.members:
            self._place[each.number] = position
            self._note(each.inputs, position)

    @staticmethod
    def _may_join(value: Value, loops: Group) -> bool:
        return loops.shape is not None and loops.reads_in_step(value)

    def settle(self, values: Iterable[Value]) -> None:
        """Put those of the values into groups that still wait for one."""
        for value in values:
            if (waiting := self._waiting.pop(value.number, None)) is not None:
                self.add(waiting)

    def check(self, check: Check) -> None:
        """Put a check into a group of its own; nothing that is held changes before it."""
        self.settle([check.value])
        self.groups.append(Group(None, checks=[check]))
        self._checked = len(self.groups)

    def store(self, store: Store) -> None:
        """Put a store into a group: after, or in step with, all that read the target before."""
        base, loops = storage(store.value), Group(store.value.shape, stores=[store])
        first = self.earliest(base, loops)
        if isinstance(store.target, Value):
            first = max(first, self._checked, self._overwritable(store.target))
        position = self._find(loops.shape, first, {base.number})
        self.groups[position].stores.append(store)
        self._note([store.value], position)

    def _overwritable(self, target: Value) -> int:
        """Return the first group in which what is held can be overwritten."""
        last = self._readers.get(target.number)
        if last is None:
            return 0
        group = self.groups[last]
        return last if group.shape == target.shape and group.reads_in_step(target) else last + 1

    def _note(self, inputs: "list[Value] | tuple[Value, ...]", position: int) -> None:
        for operand in inputs:
            base = storage(operand).number
            self._readers[base] = max(position, self._readers.get(base, 0))

    def _find(self, shape: Shape | None, first: int, reads: set[int]) -> int:
        if shape is not None:
            for position in range(first, len(self.groups)):
                group = self.groups[position]
                if group.shape == shape and (reads & (group.reads() | {value.number for value in group.members})):
                    return position
        self.groups.append(Group(shape))
        return len(self.groups) - 1


def fuse(program: Program, in_place: dict[int, int] | None = None) -> list[Group]:
    """Return the groups of a program, in the order in which they run.

    `in_place` are the values that are computed where they are handed out, with these outputs: nothing to store.
    """
    fusion = Fusion()
    for check in program.checks:
        fusion.add_all(Program(checks=[check]).values())
        fusion.check(check)
    fusion.add_all(program.values())
    fusion.settle(storage(store.value) for store in program.stores)
    for store in sorted(program.stores, key=_overwrites):  # what is handed out reads what was there before
        done = isinstance(store.target, int) and (in_place or {}).get(storage(store.value).number) == store.target
        if store.value is not store.target and not done:
            fusion.store(store)
    sink(fusion.groups)
    return fusion.groups


def _overwrites(store: Store) -> bool:
    return isinstance(store.target, Value)


def users(groups: list[Group]) -> dict[int, set[int]]:
    """Return {number of a value: positions of the groups that read it}, views counted for what they show."""
    found: dict[int, set[int]] = {}
    for position, group in enumerate(groups):
        for number in group.reads():
            found.setdefault(number, set()).add(position)
    return found


def sink(groups: list[Group]) -> None:
    """Move elementwise values into the only group that reads them, where that saves their memory.

    That is so if the group runs over the same shape, and what they are computed from is in memory anyway.
    """
    known, needed = users(groups), needs_memory(groups)
    for position in range(len(groups) - 1, -1, -1):
        for value in list(reversed(groups[position].members)):
            readers = known.get(value.number, set())
            if value.kind != "map" or len(readers) != 1 or position in readers:
                continue
            target = groups[next(iter(readers))]
            if target.shape == value.shape and target.reads_in_step(value) and _stays(needed, value):
                groups[position].members.remove(value)
                target.members.insert(0, value)
                known, needed = users(groups), needs_memory(groups)
    groups[:] = [group for group in groups if group.members or group.stores or group.checks]


def _stays(needed: set[int], value: Value) -> bool:
    """Return whether all operands of a value are in memory, and stay unchanged."""
    for operand in value.inputs:
        base = storage(operand)
        if base.kind == "source" and base.attributes["origin"] == "held":
            return False
        if base.kind not in ("source", "splat") and base.number not in needed:
            return False
    return True


def needs_memory(groups: list[Group]) -> set[int]:
    """Return the numbers of the computed values that have to be in memory.

    Those are all but the elementwise ones that are only read, as they are, in their own loops.
    """
    needed: set[int] = set()
    for group in groups:
        own = {value.number for value in group.members if value.kind in AT_ONCE}
        needed |= {value.number for value in group.members} - own
        bases = {base.number: base for base in (storage(operand) for operand, _ in group.accesses())}
        needed |= {
            number
            for number, base in bases.items()
            if base.kind not in ("source", "splat") and not (number in own and group.reads_in_step(base))
        }
    return needed
