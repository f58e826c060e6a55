"""Reads and writes of a traced run outside of the traced function.

A value that is read becomes a guard: variables, items, attributes and functions one by one; containers, arrays and
arguments of code that is not observed as a whole. Clocks, random numbers and iterators are refused. Objects that the
run makes itself are not guarded. `labnet.compile.trace.instructions` reports the instructions.
"""

import builtins
import dataclasses
import functools
import itertools
import os
import threading
import types
import weakref
from collections import ChainMap, UserDict, UserList
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, NoReturn

import numpy as np

from labnet.compile.trace.guards import Guards
from labnet.compile.trace.locations import (
    MISSING,
    SCALARS,
    Attribute,
    CallResult,
    Cell,
    Contents,
    Elements,
    FunctionCode,
    InstanceClass,
    Item,
    Location,
    Method,
    MissingAttribute,
    ModuleAttribute,
    ReplacedAttribute,
    is_container,
)
from labnet.compile.trace.origins import (
    draws_outside,
    in_classes,
    instance_dict,
    is_foreign,
    is_harmless,
    is_library,
    is_of_labnet,
    is_shared_stream,
    is_stream,
    module_of,
    reads_clock,
    reads_file,
)
from labnet.compile.trace.traced_tensor import Traced, has_traced, refuse, user_line
from labnet.nn import Module
from labnet.optim import Optimizer
from labnet.tensor import Tensor

_MEMBERS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), range, tuple, slice, np.ndarray)
_FORWARDING = weakref.ProxyTypes
_SETTERS = (setattr, delattr, object.__setattr__, object.__delattr__)
_BARE = (list, dict, set, frozenset)
_ITERATOR_HOMES = ("builtins", "itertools")


class Reads:
    """The values that a run has read and written outside of itself.

    Attributes
    ----------
    needs_recording : bool
        Set where it mattered whether operations are recorded.
    tensors : dict
        Tensors from outside that were found, by identity.
    """

    def __init__(self) -> None:
        self.needs_recording = self._needs_mode = False
        self.tensors: dict[int, Tensor] = {}
        self._guards: dict[Any, Location] = {}
        self._doubtful: set[Any] = set()
        self._late: list[Item] = []
        self._seen: dict[int, Any] = {}
        self._names: dict[int, str] = {}
        self._created: dict[int, Any] = {}
        self._cells: dict[int, types.CellType] = {}
        self._namespaces: dict[int, Any] = {}
        self._written: dict[Any, tuple[Location, str]] = {}
        self._lines: dict[int, str] = {}
        self._modules: set[int] = set()
        self._arguments: list[Contents] = []

    def begin(self, function: Any, arguments: Iterable[Any]) -> None:
        """Guard the function, and arguments that are no tensors."""
        self._take(function, getattr(function, "__name__", "function"))
        for argument in arguments:
            self._take(argument, type(argument).__name__)

    def take_arguments(self, found: Any) -> None:
        """Record containers and data classes among the arguments: a run gets copies of them."""
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
            self.take_arguments(part)

    def has_changed_arguments(self) -> bool:
        """Return whether the run has changed such a copy."""
        return not all(place.holds() for place in self._arguments)

    def has_seen(self, found: Any) -> bool:
        """Return whether an object is known to come from outside."""
        return id(found) in self._seen

    def create(self, found: Any, *, is_new: bool = True) -> None:
        """Record an object that the run has made itself, unless it may be referenced elsewhere."""
        if is_new and not self.has_seen(found) and not isinstance(found, type):
            self._created[id(found)] = found
        elif id(found) not in self._created:
            self._take(found, self._names.get(id(found), type(found).__name__))

    def took_from_library(self, found: Any) -> None:
        """Record a result of code that is not observed."""
        if not isinstance(found, (*SCALARS, Traced, np.ndarray)) and not is_container(found):
            self._take(found, self._names.get(id(found), "what is returned"))

    # Functions

    def enter(self, function: types.FunctionType) -> None:
        """Guard a function that is called, with what its parameters are if they are left out."""
        name = function.__name__
        self._take(function, name)
        self._add(FunctionCode(function, name))
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._take(default, f"a default of {name}")

    def enter_cells(self, function: types.FunctionType) -> None:
        """Take the variables that a function finds in the functions around it for some from outside."""
        self._cells.update({id(cell): cell for cell in function.__closure__ or ()})

    def reach_through_class(self, first: Any, function: types.FunctionType) -> None:
        """Guard the attribute of a class through which Python calls a function by itself, such as ``__call__``."""
        for one in type(first).__mro__:
            for attribute, found in vars(one).items():
                is_special = found is function and attribute.startswith("__")
                if is_special or (isinstance(found, property) and found.fget is function):
                    self._add(Item(vars(one), attribute, f"{one.__name__}.{attribute}", found))
                    self._read_kind(first)
                    return

    # Guards

    def _add(self, place: Location) -> None:
        key = place.key()
        if key in self._guards or key in self._written or isinstance(place.value, Traced):
            return
        self._guards[key] = place

    def _found(self, place: Location) -> None:
        """Guard a place, and take what is there."""
        self._add(place)
        self._take(place.value, place.name)

    def _take(self, value: Any, name: str) -> None:
        """Record an object from outside; guard its content where no instruction reads it."""
        if id(value) in self._seen or isinstance(value, (*SCALARS, Traced)):
            return
        self._seen[id(value)] = value
        self._names.setdefault(id(value), name)
        if isinstance(value, Tensor):
            self.tensors[id(value)] = value
        elif isinstance(value, np.ndarray):
            self._add(Elements(value, name))
        elif is_container(value):
            self._take_contents(value, name)
        elif isinstance(value, tuple | frozenset):
            for position, part in enumerate(value):
                self._take(part, f"{name}[{position}]")
        elif isinstance(value, functools.partial):
            self._take(value.func, name)
            self._take(value.args, name)
            self._take(value.keywords, name)
        elif isinstance(value, types.MethodType):
            self._take(value.__func__, name)
            self._take(value.__self__, name)
        else:
            self._take_object(value, name)

    def _take_contents(self, value: Any, name: str) -> None:
        if isinstance(value, dict) and "__builtins__" in value and "__name__" in value:
            self.take_namespace(value)
            return
        self._add(Contents(value, name))
        parts = value.items() if isinstance(value, dict | types.MappingProxyType) else enumerate(value)
        for key, part in list(parts):
            self._take(key, f"a key of {name}")
            self._take(part, f"{name}[{key!r}]")

    def take_namespace(self, namespace: dict[str, Any]) -> None:
        """Guard a whole namespace item by item, as the items are read."""
        self._namespaces[id(namespace)] = namespace

    def _take_object(self, value: Any, name: str) -> None:
        kind = type(value)
        if isinstance(value, types.GeneratorType) or (hasattr(kind, "__next__") and module_of(kind) in _ITERATOR_HOMES):
            refuse(f"{name}, an iterator: each call would have to go on where the one before ended; use a list")
        elif value is os.environ:
            self._take(os.environ._data, name)
        elif isinstance(value, UserDict | UserList | ChainMap):
            self._take(value.maps if isinstance(value, ChainMap) else value.data, name)
        elif hasattr(kind, "__array__") and is_foreign(kind):
            self._take_foreign(value, name)

    def _take_foreign(self, value: Any, name: str) -> None:
        """Compare what makes an array of itself, such as a table of another library, by that array."""
        try:
            self._add(Elements(value, name))
        except (TypeError, ValueError, RuntimeError) as error:
            refuse(f"{name}, a {type(value).__name__} whose elements cannot be compared ({error}): pass it as an array")

    # Reads

    def read_global(self, namespace: dict[str, Any], name: str) -> None:
        """Guard a global variable, or that there is none where a name of Python's is meant."""
        if name in namespace:
            self._found(Item(namespace, name, name, namespace[name]))
            return
        self._add(Item(namespace, name, name))
        found = vars(builtins).get(name)
        if not isinstance(found, type | types.BuiltinFunctionType | None):
            self._found(Item(vars(builtins), name, name, found))

    def read_variable(self, cell: types.CellType, name: str) -> None:
        """Guard a variable of an enclosing function."""
        if id(cell) in self._cells:
            place = Cell(cell, name)
            place.value = place.now()
            self._found(place)

    def read_item(self, container: Any, key: Any) -> None:
        """Guard an item of a whole namespace; containers are compared as a whole."""
        if id(container) in self._namespaces and isinstance(key, str):
            self._found(Item(container, key, key, container.get(key, MISSING)))

    def read_attribute(self, owner: Any, name: str) -> None:
        """Guard an attribute that is about to be read."""
        if type(owner) in _PLAIN or isinstance(owner, Traced | np.generic | np.dtype):
            return
        if isinstance(owner, super):
            self._read_super(owner, name)
        elif id(owner) in self._created:
            if name not in instance_dict(owner):
                self._read_class(type(owner), name)
        elif isinstance(owner, Tensor):
            self.tensors.setdefault(id(owner), owner)
        elif type(owner) in _FORWARDING or isinstance(owner, threading.local):
            self._record_value(owner, name, getattr(owner, name, MISSING))
        elif isinstance(owner, types.ModuleType):
            self._read_module(owner, name)
        elif isinstance(owner, type):
            self._read_class(owner, name)
        elif isinstance(owner, types.FunctionType | types.MethodType):
            self._read_function(owner, name)
        elif isinstance(owner, Module | Optimizer) or not (type(owner) in _BARE or is_of_labnet(type(owner))):
            self._read_instance(owner, name)

    def read_of_labnet(self, owner: Module, name: str) -> None:
        """Guard what a module of labnet reads of itself; what that holds changes where an attribute is set."""
        self._modules.add(id(instance_dict(owner).get(name)))
        if name != "__dict__":
            self.read_attribute(owner, name)

    def _record_value(self, owner: Any, name: str, value: Any) -> None:
        place = Attribute(owner, name, f"{self._name_of(owner)}.{name}", value)
        if id(owner) not in self._seen:
            self._doubtful.add(place.key())
        self._found(place)

    def _read_kind(self, owner: Any) -> None:
        if self.has_seen(owner) and not is_library(module_of(type(owner))):
            self._add(InstanceClass(owner, f"the class of {self._name_of(owner)}", type(owner)))

    def _name_of(self, owner: Any) -> str:
        return self._names.get(id(owner)) or getattr(owner, "__name__", None) or type(owner).__name__

    def _read_function(self, owner: Any, name: str) -> None:
        own = instance_dict(owner)
        function = getattr(owner, "__func__", owner)
        if name == "__globals__":
            self.take_namespace(function.__globals__)
        elif name in ("__defaults__", "__kwdefaults__", "__code__"):
            self._add(FunctionCode(function, function.__name__))
        elif name in own:
            self._record_value(owner, name, own[name])
        elif not hasattr(types.FunctionType, name):
            self._add(MissingAttribute(owner, name, f"{self._name_of(owner)}.{name}"))

    def _read_module(self, owner: types.ModuleType, name: str) -> None:
        if owner is os and name == "environ":
            self._take(os.environ, "os.environ")
        if not is_library(owner.__name__):
            value = instance_dict(owner).get(name, MISSING)
            self._seen.setdefault(id(owner), owner)
            if value is not MISSING:
                self._record_value(owner, name, value)
            elif name == "__dict__":
                self.take_namespace(instance_dict(owner))
            else:
                self._add(Item(instance_dict(owner), name, f"{owner.__name__}.{name}"))

    def _read_class(self, owner: type, name: str) -> None:
        """Guard an attribute of a class, and that no class before it in the order of inheritance has one."""
        if is_library(module_of(owner)):
            return
        if name == "__dict__":
            self._take(vars(owner), owner.__name__)
        found, above = in_classes(owner, name), in_classes(type(owner), name)
        if found is None or (above is not None and hasattr(type(above[1]), "__set__")):
            self._read_class(type(owner), name)
            self._miss_in_classes(owner.__mro__ if found is None else (), name)
            return
        for one in owner.__mro__:
            if is_library(module_of(one)):
                continue
            if one is found[0]:
                self._found(Item(vars(one), name, f"{one.__name__}.{name}", found[1]))
                value = found[1]
                self._take(getattr(value, "__func__", value), f"{one.__name__}.{name}")
                return
            self._add(Item(vars(one), name, f"{one.__name__}.{name}"))

    def _miss_in_classes(self, classes: Iterable[type], name: str) -> None:
        """Guard that classes of users lack an attribute."""
        for one in classes:
            if not is_library(module_of(one)):
                self._add(Item(vars(one), name, f"{one.__name__}.{name}"))

    def _read_super(self, owner: Any, name: str) -> None:
        kind = owner.__self_class__
        found = in_classes(kind, name, owner.__thisclass__)
        after = kind.__mro__[kind.__mro__.index(owner.__thisclass__) + 1 :]
        self._miss_in_classes(itertools.takewhile(lambda one: found is None or one is not found[0], after), name)
        if found is not None and not is_library(module_of(found[0])):
            self._found(Item(vars(found[0]), name, f"{found[0].__name__}.{name}", found[1]))

    def _read_instance(self, owner: Any, name: str) -> None:
        found, own = in_classes(type(owner), name), instance_dict(owner)
        value = MISSING if found is None else found[1]
        if isinstance(value, _MEMBERS):
            if name not in ("__dict__", "__class__", "__weakref__"):
                self._record_value(owner, name, Attribute(owner, name).now())
            elif name == "__dict__":
                self._take(own, self._name_of(owner))
            elif name == "__class__":
                self._read_kind(owner)
                self._take(type(owner), type(owner).__name__)
        elif hasattr(type(value), "__set__") or hasattr(type(value), "__delete__"):
            self._read_class(type(owner), name)
        elif name in own:
            self._record_value(owner, name, own[name])
        elif isinstance(value, types.FunctionType):
            self._read_method(owner, name, value)
        elif found is not None and hasattr(type(value), "__get__"):
            self._read_class(type(owner), name)
            self._late.append(Item(own, name, f"{self._name_of(owner)}.{name}"))  # such as a cached property
        elif found is not None:
            if isinstance(owner, Module):  # only what is set on an instance is counted
                self._read_class(type(owner), name)
            self._record_value(owner, name, value)
        else:
            self._add(MissingAttribute(owner, name, f"{self._name_of(owner)}.{name}"))

    def _read_method(self, owner: Any, name: str, function: types.FunctionType) -> None:
        if isinstance(owner, Module | Optimizer):
            self._read_class(type(owner), name)  # what is set on an instance is counted
            if isinstance(owner, Module) and not is_library(module_of(in_classes(type(owner), name)[0])):  # type: ignore[index]
                self._add(Method(owner, name, f"{self._name_of(owner)}.{name}", function))
        elif not is_library(module_of(function)) or not is_library(module_of(type(owner))):
            self._add(Method(owner, name, f"{self._name_of(owner)}.{name}", function))
            self._take(function, name)

    # Calls

    def call(self, callee: Any, arguments: list[Any]) -> bool:
        """Guard what a call reads; return whether what it returns has to be looked at."""
        for argument in arguments:
            if type(argument) is Tensor:
                self.tensors.setdefault(id(argument), argument)
        if isinstance(callee, types.MethodType):
            arguments, callee = [callee.__self__, *arguments], callee.__func__
        bound = isinstance(callee, types.BuiltinFunctionType | types.MethodWrapperType)
        owner: Any = callee.__self__ if bound else arguments[0] if arguments else None
        if bound and callee.__name__ in ("__setattr__", "__delattr__"):
            self.write_attribute(owner, arguments[0])
        if reads_file(callee):
            refuse("reading a file, which would happen once: read it outside, and pass what is in it")
        if callee is os.getenv:
            self._take(os.environ, "os.environ")
        if draws_outside(callee) or self._draws(callee, owner, arguments):
            refuse("random numbers of Python or NumPy, which would be drawn once: draw them with ln.rand or ln.randn")
        if isinstance(callee, types.FunctionType):
            if is_foreign(callee):
                self._hand_over(arguments)
            return is_foreign(callee)
        if isinstance(callee, type):
            if callee is type and len(arguments) == 1:
                self._read_kind(arguments[0])
                self._take(type(arguments[0]), type(arguments[0]).__name__)
            return True
        if self._call_of_python(callee, arguments):
            return False
        return self._call_of_library(callee, owner, arguments)

    def _call_of_python(self, callee: Any, arguments: list[Any]) -> bool:
        """Guard what functions of Python read and write whose effect is known; return whether it is one."""
        if callee is getattr or callee is hasattr or callee is object.__getattribute__:
            if isinstance(arguments[1], str):
                self.read_attribute(arguments[0], arguments[1])
        elif any(callee is one for one in _SETTERS):
            self.write_attribute(arguments[0], arguments[1])
        elif callee is isinstance:
            self._read_kind(arguments[0])
        elif callee is vars and arguments:
            if isinstance(arguments[0], types.ModuleType):
                self.take_namespace(vars(arguments[0]))
            elif isinstance(arguments[0], type):
                self._take(vars(arguments[0]), arguments[0].__name__)
            else:
                self.read_all(arguments[0])
        elif reads_clock(callee):
            refuse("reading the clock, which would happen once: pass the time as an argument")
        else:
            return False
        return True

    def _call_of_library(self, callee: Any, owner: Any, arguments: list[Any]) -> bool:
        if isinstance(owner, ContextVar):
            self._read_context(owner)
        elif isinstance(callee, weakref.ReferenceType):
            self._found(CallResult(callee, "a weak reference", callee(), callee))
        elif id(owner) in self._namespaces and callee.__name__ in ("get", "__getitem__"):
            self.read_item(owner, next(argument for argument in arguments if argument is not owner))
        else:
            if self.has_seen(owner):
                self._lines[id(owner)] = user_line()
            if not is_harmless(callee):
                self._hand_over([owner, *arguments])
            return self.has_seen(owner) or not is_harmless(callee)
        return False

    def _read_context(self, variable: "ContextVar[Any]") -> None:
        if variable.name.startswith("labnet_"):
            self._needs_mode |= variable.name == "labnet_training"
        else:
            self._found(CallResult(lambda: variable.get(MISSING), variable.name, variable.get(MISSING), variable))

    def _draws(self, callee: Any, owner: Any, arguments: list[Any]) -> bool:
        """Return whether a function draws from a stream of random numbers that was there before the run."""
        if callee is np.random.default_rng and not arguments:
            return True
        return is_stream(owner) and (is_shared_stream(owner) or self.has_seen(owner))

    def _hand_over(self, arguments: Iterable[Any]) -> None:
        """Guard all attributes of objects that are handed to code which is not looked at."""
        for argument in arguments:
            if id(argument) in self._seen and not is_library(module_of(type(argument))):
                self.read_all(argument)

    def read_all(self, owner: Any) -> None:
        """Guard the class and all attributes of an object, as where a pattern is matched."""
        self._read_kind(owner)
        if id(owner) in self._created or isinstance(owner, types.ModuleType | types.FunctionType | type):
            return
        self._take(instance_dict(owner), self._name_of(owner))

    # Writes

    def write_global(self, namespace: Any, name: str) -> None:
        """Note that a global variable is about to be set or deleted."""
        self._write(Item(namespace, name, name))

    def write_variable(self, cell: types.CellType, name: str) -> None:
        """Note that a variable of an enclosing function is about to be set or deleted."""
        if id(cell) in self._cells:
            self._write(Cell(cell, name))

    def write_attribute(self, owner: Any, name: str) -> None:
        """Note that an attribute is about to be set or deleted."""
        if isinstance(owner, Tensor) or id(owner) in self._created or not self.has_seen(owner):
            return
        found = in_classes(type(owner), name)
        if found is None or isinstance(found[1], _MEMBERS) or not hasattr(type(found[1]), "__set__"):
            own = instance_dict(owner)
            kind = ModuleAttribute if isinstance(owner, Module) else Attribute
            place = kind(owner, name, f"{self._name_of(owner)}.{name}")
            place.value = own.get(name, MISSING) if own or found is None else place.now()
            self._write(place)

    def write_item(self, container: Any, key: Any) -> None:
        """Note that an item is about to be set or deleted."""
        if id(container) in self._namespaces:
            self._write(Item(container, key, str(key)))
        elif self.has_seen(container):
            self._lines.setdefault(id(container), user_line())

    def _write(self, place: Location) -> None:
        key = place.key()
        if key not in self._written:
            if not isinstance(place, Attribute):
                place.value = place.now()
            self._written[key] = (place, user_line())

    # The end

    def changed(self) -> list[tuple[Location, Any, str]]:
        """Return the places that the run has left with another value: the place, that value, and the line."""
        rebound = {id(place) for place, _ in self.rebound()}
        written = [pair for pair in self._written.values() if id(pair[0]) not in rebound]
        found = [(place, place.now(), line) for place, line in written if not place.holds()]
        for place in self._guards.values():
            if isinstance(place, Contents | Elements) and not place.holds():
                line = self._lines.get(id(getattr(place, "container", None)), "")
                found.append((place, place.now(), line))
        return found

    def undo(self) -> None:
        """Put back what the run has changed."""
        for place in self._guards.values():  # which can have been seen after a write
            if isinstance(place, Contents | Elements) and not place.holds():
                place.put(place.value)
        for place, _ in reversed(self._written.values()):
            if not place.holds():
                place.put(place.value)

    def rebound(self) -> list[tuple[Attribute, Tensor]]:
        """Return the attributes of modules that the run has left with a new tensor, or with one of each other's."""
        found: list[tuple[Attribute, Tensor]] = []
        given: list[tuple[Attribute, Tensor]] = []
        for place, line in self._written.values():
            now = place.now()
            if isinstance(place, Attribute) and isinstance(place.owner, Module) and isinstance(now, Tensor):
                if isinstance(now, Traced) and now.requires_grad:
                    refuse(f"setting {place.name} to a tensor whose graph ends with the call: set its detach()", line)
                (found if isinstance(now, Traced) else given).append((place, now))
        values = [place.value for place, _ in found]
        return found + [pair for pair in given if any(pair[1] is value for value in values)]

    def has_other_names(self, tensor: Tensor, place: Location) -> bool:
        """Return whether a tensor was also found at another place than this one."""
        others = [one for key, one in self._guards.items() if key != place.key() and not self._is_counted(one)]
        counted = [one for key, one in self._guards.items() if key != place.key() and isinstance(one, Attribute)]
        return any(one.value is tensor or tensor_in(tensor, one.value) for one in (*others, *counted))

    def carry(self, place: ReplacedAttribute) -> None:
        """Leave a place to each call; where a tensor was there that is nowhere else, any one of its kind will do."""
        key = place.key()
        del self._written[key]
        if key in self._guards and place.holds() and place.is_alone:
            self._guards[key] = place

    def effects(self) -> list[tuple[Location, Any]]:
        """Return what the run has written to places outside, whether or not that was there before."""
        return [(place, place.now()) for place, _ in self._written.values()]

    def settings_of(self, owner: Any) -> dict[str, Any]:
        """Return the attributes of an object that the run has written so far."""
        return {
            place.attribute: place.now()
            for place, _ in self._written.values()
            if isinstance(place, Attribute) and place.owner is owner
        }

    def _is_counted(self, place: Location) -> bool:
        """Return whether a change of a place is counted by `labnet.nn.modules.changes`."""
        if isinstance(place, Contents):
            return id(place.container) in self._modules
        return isinstance(place, Attribute) and isinstance(place.owner, Module)

    def guards(self) -> Guards:
        """Return what has to hold before each call."""
        for item in self._late:
            item.value = item.now()
            self._add(item)
        found = [
            place
            for key, place in self._guards.items()
            if key not in self._doubtful or (place.holds() and not has_traced(place.value))
        ]
        counted = [place for place in found if self._is_counted(place)]
        ids = set(map(id, counted))
        places = [place for place in found if id(place) not in ids]
        return Guards(places, counted, needs_recording=self.needs_recording, needs_mode=self._needs_mode)


def tensor_in(tensor: Tensor, found: Any) -> bool:
    """Return whether a tensor is among the elements that a container was found with."""
    if isinstance(found, list | tuple):
        return any(part is tensor or tensor_in(tensor, part) for part in found)
    return False


def refuse_changes(changes: Iterable[tuple[Location, Any, str]]) -> NoReturn:
    """Refuse what a run has changed outside of itself."""
    found = list(changes)
    names = ", ".join(dict.fromkeys(place.name for place, _, _ in found))
    refuse(
        f"a change of {names}: it would happen once, while the function is traced, and not at each call; return "
        "what is new, and keep it outside",
        next((line for _, _, line in found if line), ""),
    )
