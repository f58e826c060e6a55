"""The writes of a traced run to objects outside of it: their undo, and the changes that each call repeats."""

import types
from collections.abc import Iterable
from typing import Any, NoReturn

from labnet.compile.trace.environment import Environment
from labnet.compile.trace.locations import (
    MISSING,
    Attribute,
    Cell,
    Contents,
    Elements,
    Item,
    Location,
    ModuleAttribute,
    ReplacedAttribute,
)
from labnet.compile.trace.origins import MEMBERS, in_classes, instance_dict
from labnet.compile.trace.traced_tensor import Traced, refuse, user_line
from labnet.nn import Module
from labnet.tensor import Tensor


class Writes:
    """Records each value that a run is about to write outside of itself."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._lines: dict[int, str] = {}

    def write_global(self, namespace: Any, name: str) -> None:
        """Record a global variable before it is set or deleted."""
        self._write(Item(namespace, name, name))

    def write_variable(self, cell: types.CellType, name: str) -> None:
        """Record a variable of an enclosing function before it is set or deleted."""
        if self.environment.has_cell(cell):
            self._write(Cell(cell, name))

    def write_attribute(self, owner: Any, name: str) -> None:
        """Record an attribute before it is set or deleted."""
        if isinstance(owner, Tensor) or self.environment.is_created(owner) or not self.environment.has_seen(owner):
            return
        found = in_classes(type(owner), name)
        if found is None or isinstance(found[1], MEMBERS) or not hasattr(type(found[1]), "__set__"):
            own = instance_dict(owner)
            kind = ModuleAttribute if isinstance(owner, Module) else Attribute
            location = kind(owner, name, f"{self.environment.name_of(owner)}.{name}")
            location.value = own.get(name, MISSING) if own or found is None else location.now()
            self._write(location)

    def write_item(self, container: Any, key: Any) -> None:
        """Record an item before it is set or deleted."""
        if self.environment.is_namespace(container):
            self._write(Item(container, key, str(key)))
        elif self.environment.has_seen(container):
            self._lines.setdefault(id(container), user_line())

    def _write(self, location: Location) -> None:
        key = location.key()
        if key not in self.environment.written:
            if not isinstance(location, Attribute):
                location.value = location.now()
            self.environment.written[key] = (location, user_line())

    def record_line(self, container: Any) -> None:
        """Record the current line as the one that changes a container."""
        self._lines[id(container)] = user_line()

    # Changes

    def changed(self) -> list[tuple[Location, Any, str]]:
        """Return each location that the run has changed, with its new value and the line of the change."""
        rebound = {id(location) for location, _ in self.rebound()}
        written = [pair for pair in self.environment.written.values() if id(pair[0]) not in rebound]
        found = [(location, location.now(), line) for location, line in written if not location.holds()]
        for location in self.environment.locations.values():
            if isinstance(location, Contents | Elements) and not location.holds():
                line = self._lines.get(id(getattr(location, "container", None)), "")
                found.append((location, location.now(), line))
        return found

    def undo(self) -> None:
        """Restore everything that the run has changed."""
        for location in self.environment.locations.values():  # which can have been seen after a write
            if isinstance(location, Contents | Elements) and not location.holds():
                location.put(location.value)
        for location, _ in reversed(self.environment.written.values()):
            if not location.holds():
                location.put(location.value)

    def rebound(self) -> list[tuple[Attribute, Tensor]]:
        """Return the attributes of modules that the run has set to new tensors, or to tensors of each other."""
        found: list[tuple[Attribute, Tensor]] = []
        given: list[tuple[Attribute, Tensor]] = []
        for location, line in self.environment.written.values():
            now = location.now()
            if isinstance(location, Attribute) and isinstance(location.owner, Module) and isinstance(now, Tensor):
                if isinstance(now, Traced) and now.requires_grad:
                    refuse(
                        f"setting {location.name} to a tensor whose graph ends with the call: set its detach()", line
                    )
                (found if isinstance(now, Traced) else given).append((location, now))
        values = [location.value for location, _ in found]
        return found + [pair for pair in given if any(pair[1] is value for value in values)]

    def exclude(self, location: ReplacedAttribute) -> None:
        """Drop the write to an attribute that each call replaces.

        If no other location holds its tensor, the guard accepts any tensor without a history.
        """
        key = location.key()
        del self.environment.written[key]
        if key in self.environment.locations and location.holds() and location.is_alone:
            self.environment.locations[key] = location

    def effects(self) -> list[tuple[Location, Any]]:
        """Return the written locations with their new values, equal ones included."""
        return [(location, location.now()) for location, _ in self.environment.written.values()]

    def settings_of(self, owner: Any) -> dict[str, Any]:
        """Return the attributes of an object that the run has written so far."""
        return {
            location.attribute: location.now()
            for location, _ in self.environment.written.values()
            if isinstance(location, Attribute) and location.owner is owner
        }


def refuse_changes(changes: Iterable[tuple[Location, Any, str]]) -> NoReturn:
    """Refuse the changes of a run outside of itself."""
    found = list(changes)
    names = ", ".join(dict.fromkeys(location.name for location, _, _ in found))
    refuse(
        f"a change of {names}: it would happen once, while the function is traced, and not at each call; return "
        "what is new, and keep it outside",
        next((line for _, _, line in found if line), ""),
    )
