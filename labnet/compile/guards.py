"""What a compiled step relies on besides its arguments: values that the function finds in its surroundings.

Closure variables, globals and attributes of modules are followed as far as the user's own code goes.
"""

import dis
import operator
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labnet.compile.traced import Traced
from labnet.nn import Module
from labnet.nn.modules import changes, current_mode
from labnet.optim import Optimizer
from labnet.tensor import Tensor

_SCALARS = (bool, int, float, str, bytes, type(None))
_MISSING = object()
#: Elements up to which lists and dicts are looked at before every call.
_SHORT = 64


@dataclass
class Place:
    """A place where a value was found: a key of a dict, or a cell.

    Attributes
    ----------
    container : dict or cell
    key : str or None
    value : object
        What was there; scalars may be replaced by equal ones, anything else by nothing.
    name : str
        What a person would call it.
    owner : object
        Whose attribute it is, if it is one.
    """

    container: Any
    key: str | None
    value: Any
    name: str = ""
    owner: Any = None

    def now(self) -> Any:
        """Return what is there now."""
        if self.key is not None:
            return self.container.get(self.key, _MISSING)
        try:
            return self.container.cell_contents
        except ValueError:
            return _MISSING

    def restore(self) -> None:
        """Put back what was there."""
        if self.key is None:
            self.container.cell_contents = self.value
        elif isinstance(self.owner, Module):
            setattr(self.owner, self.key, self.value)
        else:
            self.container[self.key] = self.value

    def holds(self) -> bool:
        """Tell whether what is there would give the same step."""
        return _alike(self.now(), self.value)


@dataclass(eq=False)
class Contents:
    """A list or dict, with what was in it.

    Attributes
    ----------
    container : list or dict
    before : list or dict
        A copy.
    name : str
        What a person would call it.
    """

    container: Any
    before: Any
    name: str

    def holds(self) -> bool:
        """Tell whether what is in it now would give the same step."""
        now, before = self.container, self.before
        if len(now) != len(before):
            return False
        if isinstance(now, dict):
            return now.keys() == before.keys() and all(map(_alike, now.values(), map(before.get, now)))
        return all(map(_alike, now, before))

    def counts(self) -> bool:
        """Tell whether a number that was in it is another one by now."""
        now, before = self.container, self.before
        keys = before if isinstance(before, dict) else range(min(len(now), len(before)))
        return any(
            isinstance(before[key], _SCALARS)
            and not ((not isinstance(now, dict) or key in now) and _alike(now[key], before[key]))
            for key in keys
        )

    def restore(self) -> None:
        """Put back what was there."""
        if isinstance(self.container, list):
            self.container[:] = self.before
        else:
            self.container.clear()
            self.container.update(self.before)


def _alike(now: Any, before: Any) -> bool:
    """Tell whether a value is the same one, or an equal number."""
    return now is before or (isinstance(before, _SCALARS) and type(now) is type(before) and now == before)


def _names(code: types.CodeType) -> Iterator[str]:
    """Yield the global names that a function, or one defined inside it, uses."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_own(function: Any) -> bool:
    """Tell whether a function or class belongs to labnet."""
    return (getattr(function, "__module__", None) or "").split(".")[0] == "labnet"


def _is_of_user(kind: type) -> bool:
    """Tell whether a class is the user's own: neither Python's, nor that of a library that was installed."""
    name = (getattr(kind, "__module__", None) or "").split(".")[0]
    if name in sys.builtin_module_names or name in sys.stdlib_module_names or name == "labnet":
        return name == "__main__"
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & set(Path(file).parts)


def _has_traced(found: Any, depth: int = 4) -> bool:
    """Tell whether stand-ins are in a list, tuple or dict, or in those in it."""
    if isinstance(found, Traced) or not depth:
        return isinstance(found, Traced)
    parts = found.values() if isinstance(found, dict) else found if isinstance(found, list | tuple) else ()
    return any(_has_traced(part, depth - 1) for part in parts)


class Surroundings:
    """Everything that a function was found to depend on.

    Parameters
    ----------
    function : callable
    arguments : sequence
        Those of its arguments that are no tensors.

    Attributes
    ----------
    places : list of Place
        Closure variables and globals, looked at before every call.
    attributes : list of Place
        Attributes of modules, looked at when some module has changed.
    contents : list of Contents
        Short lists and dicts, looked at before every call.
    """

    def __init__(self, function: Any, arguments: Iterable[Any] = ()):
        self.places: list[Place] = []
        self.attributes: list[Place] = []
        self.contents: list[Contents] = []
        self.changes, self.mode = changes[0], current_mode()
        self._seen: set[int] = set()
        self._before: list[Contents] = []
        self._follow(function, getattr(function, "__name__", "function"))
        for argument in arguments:
            self._follow(argument, type(argument).__name__)

    def _follow(self, found: Any, name: str, *, looked_at: bool = True) -> None:
        if id(found) in self._seen or isinstance(found, (*_SCALARS, Tensor, Optimizer, types.ModuleType)):
            return
        self._seen.add(id(found))
        if isinstance(found, types.MethodType):
            self._follow(found.__func__, name)
            self._follow(found.__self__, "self")
        elif isinstance(found, types.FunctionType):
            self._follow_function(found)
        elif isinstance(found, Module):
            self._follow_module(found, name)
        elif isinstance(found, list | tuple):
            self._remember(found, name, looked_at=looked_at)
            for position, part in enumerate(found):
                self._follow(part, f"{name}[{position}]", looked_at=looked_at)
        elif isinstance(found, dict):
            self._remember(found, name, looked_at=looked_at)
            for key, part in found.items():
                self._follow(part, f"{name}[{key!r}]", looked_at=looked_at)
        elif not isinstance(found, type) and hasattr(found, "__dict__") and not _is_own(type(found)):
            self._attributes_of(found, self.places, name)
            for key, part in list(vars(found).items()):
                if isinstance(part, Module | list | tuple | dict) or _is_of_user(type(part)):
                    self._follow(part, f"{name}.{key}")

    def _remember(self, found: Any, name: str, *, looked_at: bool = False) -> None:
        """Keep what is in something that can be changed until the function has been traced, or for every call."""
        if isinstance(found, list | dict):
            contents = Contents(found, found.copy(), name)
            self._before.append(contents)
            if looked_at and len(found) <= _SHORT:
                self.contents.append(contents)

    def _follow_function(self, function: types.FunctionType) -> None:
        if _is_own(function):
            return
        for cell, name in zip(function.__closure__ or (), function.__code__.co_freevars, strict=True):
            self._add(Place(cell, None, None, name), self.places)
        for name in set(_names(function.__code__)) & function.__globals__.keys():
            self._add(Place(function.__globals__, name, None, name), self.places)

    def _follow_module(self, module: Module, name: str) -> None:
        for part in module.modules():
            self._seen.add(id(part))
            self._attributes_of(part, self.attributes, name if part is module else type(part).__name__)
            if not _is_own(type(part)):
                self._follow(type(part).forward, "forward")
        for part in module.modules():
            for key, value in vars(part).items():
                self._follow(value, f"{name}.{key}", looked_at=key[0] != "_")

    def _attributes_of(self, found: Any, places: list[Place], owner: str) -> None:
        self._remember(vars(found), owner)
        for name, value in list(vars(found).items()):
            if isinstance(value, (*_SCALARS, Tensor, Module)) and not (name[0] == "_" and name != "_training"):
                places.append(Place(vars(found), name, value, f"{owner}.{name}", found))

    def _add(self, place: Place, places: list[Place]) -> None:
        place.value = place.now()
        if place.value is not _MISSING:
            places.append(place)
            self._follow(place.value, place.name)

    def undo(self) -> str:
        """Put back what was changed while the function was traced, and tell what that was, if anything.

        It would happen once instead of at each call, and leave tensors without elements behind.
        """
        changed = {}
        for contents in self._before:
            if _has_traced(contents.container) or (contents in self.contents and contents.counts()):
                changed[contents.name] = True
                contents.restore()
        self._before.clear()
        for contents in self.contents:  # what a function keeps for the next time
            contents.before = contents.container.copy()
        for place in (*self.places, *self.attributes):
            if not place.holds():
                changed[place.name] = True
                place.restore()
        return ", ".join(changed)

    def hold(self) -> bool:
        """Tell whether everything is as it was."""
        if current_mode() is not self.mode:
            return False
        for place in self.places:
            if place.now() is not place.value and not place.holds():
                return False
        if not all(contents.holds() for contents in self.contents):
            return False
        if changes[0] != self.changes:
            if not all(place.holds() for place in self.attributes):
                return False
            self.changes = changes[0]
        return True

    def names(self) -> dict[str, Any]:
        """Return what `condition` refers to."""
        found: dict[str, Any] = {"changes": changes, "current_mode": current_mode, "mode": self.mode}
        found["surroundings"] = self
        for position, place in enumerate(self.places):
            found[f"c{position}"], found[f"v{position}"] = place.container, place.value
        for position, contents in enumerate(self.contents):
            found[f"l{position}"], found[f"m{position}"] = contents.container, contents.before
        return {**found, "same": operator.is_}

    def condition(self) -> str:
        """Return an expression written out for these places: what every call works out instead of `hold`.

        If it is false, or raises KeyError or ValueError because something is gone, `hold` has to be asked.
        """
        tests = ["changes[0] == surroundings.changes", "current_mode() is mode"]
        for position, place in enumerate(self.places):
            now = f"c{position}.cell_contents" if place.key is None else f"c{position}[{place.key!r}]"
            tests.append(f"{now} is v{position}")
        for position, contents in enumerate(self.contents):
            now, before = f"l{position}", f"m{position}"
            tests.append(f"len({now}) == len({before}) and all(map(same, {now}, {before}))")
            if isinstance(contents.container, dict):
                tests.append(f"all(map(same, {now}.values(), {before}.values()))")
        return f"({' and '.join(tests)})"
