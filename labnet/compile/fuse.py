"""Fusion: elementwise operations and reductions over the same places share one nest of loops.

The result is a list of groups that run one after the other. A value belongs to the earliest group that runs over
its shape, has what it needs, and reads something that it reads too.
"""

from dataclasses import dataclass, field

from labnet.compile.ir import Program, Shape, Store, Value, placed


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
    """

    shape: Shape | None
    members: list[Value] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)

    def reads(self) -> set[int]:
        """Return the numbers of what the members and stores read, views by what they show."""
        found = [placed(operand)[0].number for value in self.members for operand in value.inputs]
        return {*found, *(placed(store.value)[0].number for store in self.stores)}


def runs_over(value: Value) -> Shape | None:
    """Return the shape that the loops for a value run over; None if it is no matter of a loop."""
    if value.kind == "map":
        return value.shape
    return value.inputs[0].shape if value.kind == "reduce" else None


class Fusion:
    """Puts the values of a program into groups, one by one."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self._place: dict[int, int] = {}
        self._readers: dict[int, int] = {}

    def earliest(self, operand: Value, shape: Shape | None) -> int:
        """Return the first group in which an operand can be read by loops over `shape`."""
        base = placed(operand)[0]
        if base.number not in self._place:
            return 0
        place = self._place[base.number]
        same = operand is base and base.kind == "map" and base.shape == shape
        return place if same else place + 1

    def add(self, value: Value) -> None:
        """Put a value into a group."""
        shape = runs_over(value)
        first = max([self.earliest(operand, shape) for operand in value.inputs], default=0)
        position = self._find(shape, first, {placed(operand)[0].number for operand in value.inputs})
        self.groups[position].members.append(value)
        self._place[value.number] = position
        self._note(value.inputs, position)

    def store(self, store: Store) -> None:
        """Put a store into a group: after, or in step with, all that read the target before."""
        shape = store.value.shape
        first = self.earliest(store.value, shape)
        if isinstance(store.target, Value):
            for number, position in self._readers.items():
                if number == store.target.number:
                    in_step = self._reads_in_step(position, store.target, shape)
                    first = max(first, position if in_step else position + 1)
        position = self._find(shape, first, {placed(store.value)[0].number})
        self.groups[position].stores.append(store)
        self._note([store.value], position)

    def _reads_in_step(self, position: int, target: Value, shape: Shape) -> bool:
        group = self.groups[position]
        if group.shape != shape:
            return False
        read = [operand for value in group.members for operand in value.inputs]
        read += [store.value for store in group.stores]
        return all(operand is target for operand in read if placed(operand)[0] is target)

    def _note(self, inputs: "list[Value] | tuple[Value, ...]", position: int) -> None:
        for operand in inputs:
            base = placed(operand)[0].number
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
    for value in program.values():
        if value.kind not in ("source", "splat", "view"):
            fusion.add(value)
    for store in program.stores:
        done = isinstance(store.target, int) and (in_place or {}).get(placed(store.value)[0].number) == store.target
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
    for position in range(len(groups) - 1, -1, -1):
        for value in list(reversed(groups[position].members)):
            readers = users(groups).get(value.number, set())
            if value.kind != "map" or len(readers) != 1 or position in readers:
                continue
            target = groups[next(iter(readers))]
            if target.shape == value.shape and _reads_plainly(target, value) and _stays(groups, value):
                groups[position].members.remove(value)
                target.members.insert(0, value)
    groups[:] = [group for group in groups if group.members or group.stores]


def _reads_plainly(group: Group, value: Value) -> bool:
    read = [operand for member in group.members for operand in member.inputs]
    read += [store.value for store in group.stores]
    return all(operand is value for operand in read if placed(operand)[0] is value)


def _stays(groups: list[Group], value: Value) -> bool:
    """Tell whether all that a value is computed from is in memory, and will be unchanged later."""
    needed = needs_memory(groups)
    for operand in value.inputs:
        base = placed(operand)[0]
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
        own = {value.number for value in group.members if value.kind == "map"}
        for value in group.members:
            if value.kind != "map":
                needed.add(value.number)
        operands = [operand for value in group.members for operand in value.inputs]
        operands += [store.value for store in group.stores]
        for operand in operands:
            base = placed(operand)[0]
            if base.kind not in ("source", "splat") and (operand is not base or base.number not in own):
                needed.add(base.number)
    return needed
