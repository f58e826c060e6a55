"""The environment of a traced run: the external objects that it has found, and the locations that guard them.

Values become guards: variables, items, attributes and functions one by one; containers, arrays and arguments of
unobserved code as a whole. Iterators are refused. Objects that the run creates are not guarded.
"""

import dataclasses
import functools
import os
import types
from collections import ChainMap, UserDict, UserList
from collections.abc import Iterable
from typing import Any

import numpy as np

from labnet.compile.trace.guards import Guards
from labnet.compile.trace.locations import (
    SCALARS,
    Attribute,
    Contents,
    Elements,
    FunctionCode,
    InstanceClass,
    Item,
    Location,
    is_container,
)
from labnet.compile.trace.origins import instance_dict, is_foreign, is_library, module_of
from labnet.compile.trace.traced_tensor import Traced, has_traced, refuse
from labnet.nn import Module
from labnet.tensor import Tensor

_ITERATOR_HOMES = ("builtins", "itertools")


class Environment:
    """The external objects of a run, and the locations that it has read or written.

    Attributes
    ----------
    needs_recording, needs_mode : bool
        Whether the run depends on the recording of operations, and on the mode of modules.
    tensors : dict
        External tensors, by identity.
    locations : dict
        Guarded locations, by their keys.
    written : dict
        {key: (location with its value before the run, line of the first write)}.
    """

    def __init__(self) -> None:
        self.needs_recording = self.needs_mode = False
        self.tensors: dict[int, Tensor] = {}
        self.locations: dict[Any, Location] = {}
        self.written: dict[Any, tuple[Location, str]] = {}
        self._doubtful: set[Any] = set()
        self._deferred: list[Item] = []
        self._seen: dict[int, Any] = {}
        self._names: dict[int, str] = {}
        self._created: dict[int, Any] = {}
        self._cells: dict[int, types.CellType] = {}
        self._namespaces: dict[int, Any] = {}
        self._counted: set[int] = set()
        self._arguments: list[Contents] = []

    def begin(self, function: Any, arguments: Iterable[Any]) -> None:
        """Guard the traced function and its arguments that are not tensors."""
        self.record(function, getattr(function, "__name__", "function"))
        for argument in arguments:
            self.record(argument, type(argument).__name__)

    def record_arguments(self, found: Any) -> None:
        """Record containers and data classes among the arguments, of which a run gets copies."""
        if isinstance(found, tuple):
            parts: Iterable[Any] = found
        elif is_container(found):
            self._arguments.append(Contents(found))
            parts = found.values() if isinstance(found, dict) else found
        elif dataclasses.is_dataclass(found) and not isinstance(found, type):
            self._arguments.append(Contents(instance_dict(found)))
            parts = instance_dict(found).values()
        else:
            return
        for part in parts:
            self.record_arguments(part)

    def has_changed_arguments(self) -> bool:
        """Return whether the run has changed a copied argument."""
        return not all(location.holds() for location in self._arguments)

    def has_seen(self, found: Any) -> bool:
        """Return whether an object is known to come from outside."""
        return id(found) in self._seen

    def is_created(self, found: Any) -> bool:
        """Return whether the run has made an object itself."""
        return id(found) in self._created

    def is_namespace(self, container: Any) -> bool:
        """Return whether a container is guarded item by item."""
        return id(container) in self._namespaces

    def has_cell(self, cell: types.CellType) -> bool:
        """Return whether a cell belongs to a function around an observed one."""
        return id(cell) in self._cells

    def create(self, found: Any, *, is_new: bool = True) -> None:
        """Record an object that the run has created, unless it may be referenced elsewhere."""
        if is_new and not self.has_seen(found) and not isinstance(found, type):
            self._created[id(found)] = found
        elif id(found) not in self._created:
            self.record(found, self._names.get(id(found), type(found).__name__))

    def record_result(self, found: Any) -> None:
        """Record the result of a call of code that is not observed."""
        if not isinstance(found, (*SCALARS, Traced, np.ndarray)) and not is_container(found):
            self.record(found, self._names.get(id(found), "what is returned"))

    # Functions

    def enter(self, function: types.FunctionType) -> None:
        """Guard the code and the default arguments of a called function."""
        name = function.__name__
        self.record(function, name)
        self.guard(FunctionCode(function, name))
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.record(default, f"a default of {name}")

    def record_cells(self, function: types.FunctionType) -> None:
        """Record the cells of a function's closure as external variables."""
        self._cells.update({id(cell): cell for cell in function.__closure__ or ()})

    def guard_special_method(self, first: Any, function: types.FunctionType) -> None:
        """Guard the class attribute through which Python calls a function implicitly, such as ``__call__``."""
        for one in type(first).__mro__:
            for attribute, found in vars(one).items():
                is_special = found is function and attribute.startswith("__")
                if is_special or (isinstance(found, property) and found.fget is function):
                    self.guard(Item(vars(one), attribute, f"{one.__name__}.{attribute}", found))
                    self.guard_class(first)
                    return

    # Objects

    def guard(self, location: Location) -> None:
        """Guard the value of a location, unless the run has written there."""
        key = location.key()
        if key in self.locations or key in self.written or isinstance(location.value, Traced):
            return
        self.locations[key] = location

    def guard_value(self, location: Location) -> None:
        """Guard a location and record its value."""
        self.guard(location)
        self.record(location.value, location.name)

    def record(self, value: Any, name: str) -> None:
        """Record an external object; guard its contents if no instruction reads them."""
        if id(value) in self._seen or isinstance(value, (*SCALARS, Traced)):
            return
        self._seen[id(value)] = value
        self._names.setdefault(id(value), name)
        if isinstance(value, Tensor):
            self.tensors[id(value)] = value
        elif isinstance(value, np.ndarray):
            self.guard(Elements(value, name))
        elif is_container(value):
            self._record_contents(value, name)
        elif isinstance(value, tuple | frozenset):
            for position, part in enumerate(value):
                self.record(part, f"{name}[{position}]")
        elif isinstance(value, functools.partial):
            self.record(value.func, name)
            self.record(value.args, name)
            self.record(value.keywords, name)
        elif isinstance(value, types.MethodType):
            self.record(value.__func__, name)
            self.record(value.__self__, name)
        else:
            self._record_object(value, name)

    def _record_contents(self, value: Any, name: str) -> None:
        if isinstance(value, dict) and "__builtins__" in value and "__name__" in value:
            self.record_namespace(value)
            return
        self.guard(Contents(value, name))
        parts = value.items() if isinstance(value, dict | types.MappingProxyType) else enumerate(value)
        for key, part in list(parts):
            self.record(key, f"a key of {name}")
            self.record(part, f"{name}[{key!r}]")

    def record_namespace(self, namespace: dict[str, Any]) -> None:
        """Record a namespace whose items are guarded one by one as they are read."""
        self._namespaces[id(namespace)] = namespace

    def _record_object(self, value: Any, name: str) -> None:
        kind = type(value)
        if isinstance(value, types.GeneratorType) or (hasattr(kind, "__next__") and module_of(kind) in _ITERATOR_HOMES):
            refuse(f"{name}, an iterator: each call would have to go on where the one before ended; use a list")
        elif value is os.environ:
            self.record(os.environ._data, name)
        elif isinstance(value, UserDict | UserList | ChainMap):
            self.record(value.maps if isinstance(value, ChainMap) else value.data, name)
        elif hasattr(kind, "__array__") and is_foreign(kind):
            self._record_foreign(value, name)

    def _record_foreign(self, value: Any, name: str) -> None:
        """Guard an object that converts to an array, such as a table of another library, by that array."""
        try:
            self.guard(Elements(value, name))
        except (TypeError, ValueError, RuntimeError) as error:
            refuse(f"{name}, a {type(value).__name__} whose elements cannot be compared ({error}): pass it as an array")

    def guard_attribute(self, owner: Any, name: str, value: Any) -> None:
        """Guard an attribute with its value, and record the value."""
        location = Attribute(owner, name, f"{self.name_of(owner)}.{name}", value)
        if id(owner) not in self._seen:
            self._doubtful.add(location.key())
        self.guard_value(location)

    def guard_class(self, owner: Any) -> None:
        """Guard the class of an external object."""
        if self.has_seen(owner) and not is_library(module_of(type(owner))):
            self.guard(InstanceClass(owner, f"the class of {self.name_of(owner)}", type(owner)))

    def name_of(self, owner: Any) -> str:
        """Return the name of an object in messages."""
        return self._names.get(id(owner)) or getattr(owner, "__name__", None) or type(owner).__name__

    # Guards

    def guard_at_end(self, item: Item) -> None:
        """Guard an item with the value that it has at the end of the run."""
        self._deferred.append(item)

    def mark_external(self, found: Any) -> None:
        """Record an object as external without guarding its contents."""
        self._seen.setdefault(id(found), found)

    def mark_counted(self, container: Any) -> None:
        """Record a container whose changes `labnet.nn.modules.changes` counts."""
        self._counted.add(id(container))

    def has_other_names(self, tensor: Tensor, location: Location) -> bool:
        """Return whether a tensor was found at another location too."""
        others = [one for key, one in self.locations.items() if key != location.key() and not self._is_counted(one)]
        counted = [one for key, one in self.locations.items() if key != location.key() and isinstance(one, Attribute)]
        return any(one.value is tensor or tensor_in(tensor, one.value) for one in (*others, *counted))

    def _is_counted(self, location: Location) -> bool:
        """Return whether `labnet.nn.modules.changes` counts the changes of a location."""
        if isinstance(location, Contents):
            return id(location.container) in self._counted
        return isinstance(location, Attribute) and isinstance(location.owner, Module)

    def guards(self) -> Guards:
        """Return the guards that must hold before each call."""
        for item in self._deferred:
            item.value = item.now()
            self.guard(item)
        found = [
            location
            for key, location in self.locations.items()
            if key not in self._doubtful or (location.holds() and not has_traced(location.value))
        ]
        counted = [location for location in found if self._is_counted(location)]
        ids = set(map(id, counted))
        locations = [location for location in found if id(location) not in ids]
        return Guards(locations, counted, needs_recording=self.needs_recording, needs_mode=self.needs_mode)


def tensor_in(tensor: Tensor, found: Any) -> bool:
    """Return whether a container holds a tensor, directly or in another container."""
    if isinstance(found, list | tuple):
        return any(part is tensor or tensor_in(tensor, part) for part in found)
    return False
