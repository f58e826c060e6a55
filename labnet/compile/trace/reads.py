"""The reads of a traced run: variables, items and attributes that become guards.

`labnet.compile.trace.instructions` reports the instructions.
"""

import builtins
import itertools
import os
import threading
import types
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from labnet.compile.trace.environment import Environment
from labnet.compile.trace.locations import MISSING, Attribute, Cell, FunctionCode, Item, Method, MissingAttribute
from labnet.compile.trace.origins import MEMBERS, in_classes, instance_dict, is_library, is_of_labnet, module_of
from labnet.compile.trace.traced_tensor import Traced
from labnet.nn import Module
from labnet.optim import Optimizer
from labnet.tensor import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), range, tuple, slice, np.ndarray)
_FORWARDING = weakref.ProxyTypes
_BARE = (list, dict, set, frozenset)


class Reads:
    """Guards each value that a run reads outside of itself."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def read_global(self, namespace: dict[str, Any], name: str) -> None:
        """Guard a global variable, or its absence if the name is a builtin."""
        if name in namespace:
            self._environment.guard_value(Item(namespace, name, name, namespace[name]))
            return
        self._environment.guard(Item(namespace, name, name))
        found = vars(builtins).get(name)
        if not isinstance(found, type | types.BuiltinFunctionType | None):
            self._environment.guard_value(Item(vars(builtins), name, name, found))

    def read_variable(self, cell: types.CellType, name: str) -> None:
        """Guard a variable of an enclosing function."""
        if self._environment.has_cell(cell):
            location = Cell(cell, name)
            location.value = location.now()
            self._environment.guard_value(location)

    def read_item(self, container: Any, key: Any) -> None:
        """Guard an item of a namespace; other containers are compared as a whole."""
        if self._environment.is_namespace(container) and isinstance(key, str):
            self._environment.guard_value(Item(container, key, key, container.get(key, MISSING)))

    def read_attribute(self, owner: Any, name: str) -> None:
        """Guard an attribute before it is read."""
        if type(owner) in _PLAIN or isinstance(owner, Traced | np.generic | np.dtype):
            return
        if isinstance(owner, super):
            self._read_super(owner, name)
        elif self._environment.is_created(owner):
            if name not in instance_dict(owner):
                self._read_class(type(owner), name)
        elif isinstance(owner, Tensor):
            self._environment.tensors.setdefault(id(owner), owner)
        elif type(owner) in _FORWARDING or isinstance(owner, threading.local):
            self._environment.guard_attribute(owner, name, getattr(owner, name, MISSING))
        elif isinstance(owner, types.ModuleType):
            self._read_module(owner, name)
        elif isinstance(owner, type):
            self._read_class(owner, name)
        elif isinstance(owner, types.FunctionType | types.MethodType):
            self._read_function(owner, name)
        elif isinstance(owner, Module | Optimizer) or not (type(owner) in _BARE or is_of_labnet(type(owner))):
            self._read_instance(owner, name)

    def read_of_labnet(self, owner: Module, name: str) -> None:
        """Guard an attribute that a module of labnet reads; setting one counts as a change of the containers."""
        self._environment.mark_counted(instance_dict(owner).get(name))
        if name != "__dict__":
            self.read_attribute(owner, name)

    def read_all(self, owner: Any) -> None:
        """Guard the class and all attributes of an object, as a class pattern reads them."""
        self._environment.guard_class(owner)
        if self._environment.is_created(owner) or isinstance(owner, types.ModuleType | types.FunctionType | type):
            return
        self._environment.record(instance_dict(owner), self._environment.name_of(owner))

    def _read_function(self, owner: Any, name: str) -> None:
        own = instance_dict(owner)
        function = getattr(owner, "__func__", owner)
        if name == "__globals__":
            self._environment.record_namespace(function.__globals__)
        elif name in ("__defaults__", "__kwdefaults__", "__code__"):
            self._environment.guard(FunctionCode(function, function.__name__))
        elif name in own:
            self._environment.guard_attribute(owner, name, own[name])
        elif not hasattr(types.FunctionType, name):
            self._environment.guard(MissingAttribute(owner, name, f"{self._environment.name_of(owner)}.{name}"))

    def _read_module(self, owner: types.ModuleType, name: str) -> None:
        if owner is os and name == "environ":
            self._environment.record(os.environ, "os.environ")
        if not is_library(owner.__name__):
            value = instance_dict(owner).get(name, MISSING)
            self._environment.mark_external(owner)
            if value is not MISSING:
                self._environment.guard_attribute(owner, name, value)
            elif name == "__dict__":
                self._environment.record_namespace(instance_dict(owner))
            else:
                self._environment.guard(Item(instance_dict(owner), name, f"{owner.__name__}.{name}"))

    def _read_class(self, owner: type, name: str) -> None:
        """Guard an attribute of a class, and its absence in the classes before in the method resolution order."""
        if is_library(module_of(owner)):
            return
        if name == "__dict__":
            self._environment.record(vars(owner), owner.__name__)
        found, above = in_classes(owner, name), in_classes(type(owner), name)
        if found is None or (above is not None and hasattr(type(above[1]), "__set__")):
            self._read_class(type(owner), name)
            self._miss_in_classes(owner.__mro__ if found is None else (), name)
            return
        for one in owner.__mro__:
            if is_library(module_of(one)):
                continue
            if one is found[0]:
                self._environment.guard_value(Item(vars(one), name, f"{one.__name__}.{name}", found[1]))
                value = found[1]
                self._environment.record(getattr(value, "__func__", value), f"{one.__name__}.{name}")
                return
            self._environment.guard(Item(vars(one), name, f"{one.__name__}.{name}"))

    def _miss_in_classes(self, classes: Iterable[type], name: str) -> None:
        """Guard the absence of an attribute in classes of the user."""
        for one in classes:
            if not is_library(module_of(one)):
                self._environment.guard(Item(vars(one), name, f"{one.__name__}.{name}"))

    def _read_super(self, owner: Any, name: str) -> None:
        kind = owner.__self_class__
        found = in_classes(kind, name, owner.__thisclass__)
        after = kind.__mro__[kind.__mro__.index(owner.__thisclass__) + 1 :]
        self._miss_in_classes(itertools.takewhile(lambda one: found is None or one is not found[0], after), name)
        if found is not None and not is_library(module_of(found[0])):
            self._environment.guard_value(Item(vars(found[0]), name, f"{found[0].__name__}.{name}", found[1]))

    def _read_instance(self, owner: Any, name: str) -> None:
        found, own = in_classes(type(owner), name), instance_dict(owner)
        value = MISSING if found is None else found[1]
        if isinstance(value, MEMBERS):
            if name not in ("__dict__", "__class__", "__weakref__"):
                self._environment.guard_attribute(owner, name, Attribute(owner, name).now())
            elif name == "__dict__":
                self._environment.record(own, self._environment.name_of(owner))
            elif name == "__class__":
                self._environment.guard_class(owner)
                self._environment.record(type(owner), type(owner).__name__)
        elif hasattr(type(value), "__set__") or hasattr(type(value), "__delete__"):
            self._read_class(type(owner), name)
        elif name in own:
            self._environment.guard_attribute(owner, name, own[name])
        elif isinstance(value, types.FunctionType):
            self._read_method(owner, name, value)
        elif found is not None and hasattr(type(value), "__get__"):
            self._read_class(type(owner), name)
            self._environment.guard_at_end(
                Item(own, name, f"{self._environment.name_of(owner)}.{name}")
            )  # such as a cached property
        elif found is not None:
            if isinstance(owner, Module):  # only changes of instance attributes are counted
                self._read_class(type(owner), name)
            self._environment.guard_attribute(owner, name, value)
        else:
            self._environment.guard(MissingAttribute(owner, name, f"{self._environment.name_of(owner)}.{name}"))

    def _read_method(self, owner: Any, name: str, function: types.FunctionType) -> None:
        if isinstance(owner, Module | Optimizer):
            self._read_class(type(owner), name)  # changes of instance attributes are counted
            is_own = not is_library(module_of(in_classes(type(owner), name)[0]))  # type: ignore[index]
            if isinstance(owner, Module) and (is_own or name == "forward"):  # which hooks replace
                self._environment.guard(Method(owner, name, f"{self._environment.name_of(owner)}.{name}", function))
        elif not is_library(module_of(function)) or not is_library(module_of(type(owner))):
            self._environment.guard(Method(owner, name, f"{self._environment.name_of(owner)}.{name}", function))
            self._environment.record(function, name)
