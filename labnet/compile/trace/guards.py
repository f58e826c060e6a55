"""Guards: conditions on the values that a function read while it was traced, checked before each call."""

from collections.abc import Callable, Iterable
from typing import Any

from labnet.autograd import is_recording
from labnet.compile.trace.locations import Location, alike
from labnet.nn.modules import changes, current_mode


class Guards:
    """The external values that a compiled function depends on, with their locations.

    Parameters
    ----------
    places : iterable of Location
        Compared before every call.
    attributes : iterable of Location
        Attributes of modules, compared when an attribute of any module was set.
    needs_recording, needs_mode : bool
        Whether it matters if operations are recorded for a backward, and what `calling_mode` says.
    """

    def __init__(
        self, places: Iterable[Location], attributes: Iterable[Location], *, needs_recording: bool, needs_mode: bool
    ):
        self.places, self.attributes = list(places), list(attributes)
        self._changes = changes[0]
        self._settings: list[tuple[Callable[[], bool | None], bool | None]] = []
        self._settings += [(is_recording, is_recording())] if needs_recording else []
        self._settings += [(current_mode, current_mode())] if needs_mode else []
        self._scopes: list[tuple[dict[str, Any], dict[int, str]]] = []

    def hold(self) -> bool:
        """Return whether all guards hold; equal new objects replace the ones that are compared."""
        if not all(read() is value for read, value in self._settings):
            return False
        if not all(map(self._holds, self.places)):
            return False
        if changes[0] != self._changes:
            if not all(map(self._holds, self.attributes)):
                return False
            self._changes = changes[0]
            for scope, _ in self._scopes:
                scope["seen"] = self._changes
        return True

    def _holds(self, place: Location) -> bool:
        now = place.now()
        if now is place.value:
            return True
        if not place.holds():
            return False
        if alike(now, place.value):  # so that the next call finds the very same object
            for scope, names in self._scopes:
                if (name := names.get(id(place))) is not None:
                    scope[name] = now
            place.value = now
        return True

    def condition(self, scope: dict[str, Any]) -> str:
        """Return the source of a fast condition that generated code evaluates at each call, and fill its scope.

        If it is false, or raises because an object is gone, `hold` decides.
        """
        names: dict[int, str] = {}
        own: dict[int, str] = {}
        scope |= {"guards": self, "changes": changes, "seen": self._changes}

        def bind(value: Any) -> str:
            if isinstance(value, bool) or value is None:
                return str(value)
            name = names.setdefault(id(value), f"g{len(names)}")
            scope[name] = value
            kept.append(value)
            return name

        kept: list[Any] = []
        scope["kept"] = kept  # names go by identity
        tests = ["changes[0] == seen", *(f"{bind(read)}() is {value}" for read, value in self._settings)]
        for position, place in enumerate(self.places):
            tests.append(place.condition(bind))
            text = tests[-1]
            if text.endswith(f" is {names.get(id(place.value))}"):
                own[id(place)] = f"v{position}"
                scope[own[id(place)]] = place.value
                tests[-1] = f"{text.rpartition(' is ')[0]} is v{position}"
        self._scopes.append((scope, own))
        return f"({' and '.join(tests)})"

    def describe(self) -> list[str]:
        """Return a line for each guarded number or string."""
        found = [*self.places, *self.attributes]
        return [
            f"guarded: {place.name} = {place.value!r}"
            for place in found
            if isinstance(place.value, bool | int | float | str)
        ]
