"""Fusion: elementwise operations and reductions over the same places share one nest of loops.

The result is a list of groups that run one after the other. A value belongs to the earliest group that runs over
its shape, has what it needs, and reads something that it reads too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from labnet.compile.ir import Check, Program, Shape, Store, Value, reads_plainly, storage


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

    def reads(self) -> set[int]:
        """Return the numbers of what the members and stores read, views by what they show."""
        found = [storage(operand).number for value in self.members for operand in value.inputs]
        found += [storage(store.value).number for store in self.stores]
        return {*found, *(check.value.number for check in self.checks)}

    def reads_plainly(self, value: Value) -> bool:
        """Tell whether the loops read a value, if at all, just where they are."""
        read = [
            reads_plainly(member, operand)
            for member in self.members
            for operand in member.inputs
            if storage(operand) is value
        ]
        read += [store.value is value for store in self.stores if storage(store.value) is value]
        return all(read) and not any(check.value is value for check in self.checks)


def runs_over(value: Value) -> Shape | None:
    """Return the shape that the loops for a value run over; None if it is no matter of a loop."""
    if value.kind in ("map", "take"):
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

    def earliest(self, operand: Value, shape: Shape | None, *, plainly: bool = True) -> int:
        """Return the first group in which an operand can be read by loops over `shape`."""
        base = storage(operand)
        if base.number not in self._place:
            return 0
        place = self._place[base.number]
        same = plainly and operand is base and base.kind in ("map", "take") and base.shape == shape
        return place if same else place + 1

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
        shape = runs_over(value)
        joining = [
            self._waiting.pop(operand.number)
            for operand in dict.fromkeys(value.inputs)
            if operand.number in self._waiting and operand.shape == shape and reads_plainly(value, operand)
        ]
        self._settle(value.inputs)
        starts = [self.earliest(x, shape, plainly=reads_plainly(value, x)) for x in value.inputs]
        first = max(starts, default=0)
        if value.kind in ("take", "scatter"):  # positions are used only after they have been checked
            first = max(first, self._checked)
        reads = [storage(operand).number for each in (value, *joining) for operand in each.inputs]
        position = self._find(shape, first, set(reads))
        for each in (*joining, value):
            self.groups[position].members.append(each)
            self._place[each.number] = position
            self._note(each.inputs, position)

    def _settle(self, operands: Iterable[Value]) -> None:
        """Put those of the operands into groups that still wait for one."""
        for operand in operands:
            if (waiting := self._waiting.pop(storage(operand).number, None)) is not None:
                self.add(waiting)

    def check(self, check: Check) -> None:
        """Put a check into a group of its own; nothing that is held changes before it."""
        self._settle([check.value])
        self.groups.append(Group(None, checks=[check]))
        self._checked = len(self.groups)

    def store(self, store: Store) -> None:
        """Put a store into a group: after, or in step with, all that read the target before."""
        self._settle([store.value])
        shape = store.value.shape
        first = self.earliest(store.value, shape)
        if isinstance(store.target, Value):
            first = max(first, self._checked)
            for number, position in self._readers.items():
                if number == store.target.number:
                    in_step = self._reads_in_step(position, store.target, shape)
                    first = max(first, position if in_step else position + 1)
        position = self._find(shape, first, {storage(store.value).number})
        self.groups[position].stores.append(store)
        self._note([store.value], position)

    def _reads_in_step(self, position: int, target: Value, shape: Shape) -> bool:
        group = self.groups[position]
        return group.shape == shape and group.reads_plainly(target)

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
    for store in program.stores:
        done = isinstance(store.target, int) and (in_place or {}).get(storage(store.value).number) == store.target
        if store.value is not store.target and not done:
            fusion.store(store)
    sink(fusion.groups)
    return fusion.groups


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
            if target.shape == value.shape and target.reads_plainly(value) and _stays(needed, value):
                groups[position].members.remove(value)
                target.members.insert(0, value)
                known, needed = users(groups), needs_memory(groups)
    groups[:] = [group for group in groups if group.members or group.stores or group.checks]


def _stays(needed: set[int], value: Value) -> bool:
    """Tell whether all that a value is computed from is in memory, and will be unchanged later."""
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
        own = {value.number for value in group.members if value.kind in ("map", "take")}
        needed |= {value.number for value in group.members} - own
        operands = [(operand, reads_plainly(value, operand)) for value in group.members for operand in value.inputs]
        operands += [(store.value, store.value.kind != "view") for store in group.stores]
        operands += [(check.value, False) for check in group.checks]
        for operand, plainly in operands:
            base = storage(operand)
            if base.kind not in ("source", "splat") and (not plainly or base.number not in own):
                needed.add(base.number)
    return needed
