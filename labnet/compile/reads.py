"""Reads and writes of a traced run: what the function finds outside of itself, and what it leaves there.

Every instruction of the user's code is looked at before it runs. A variable, attribute, item or function that comes
from outside becomes a guard; what is handed to code that is not looked at is compared as a whole; clocks, random
numbers and iterators are refused. Objects that the run makes itself are left alone.
"""

import builtins
import functools
import os
import random
import sys
import sysconfig
import time
import types
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from labnet.compile import frames
from labnet.compile.frames import Instruction
from labnet.compile.guards import Guards
from labnet.compile.places import (
    MISSING,
    SCALARS,
    Absence,
    Attribute,
    Cell,
    Code,
    Contents,
    Elements,
    Item,
    Method,
    Place,
    Plain,
    Reading,
    is_container,
)
from labnet.compile.traced import Traced, refuse, user_line
from labnet.errors import TraceError
from labnet.nn import Module
from labnet.optim import Optimizer
from labnet.tensor import Tensor

_HOME = str(Path(__file__).parent.parent) + "/"
#: Modules of labnet that read what users set: looked at like code of users.
_OBSERVED = tuple(_HOME + name for name in ("nn/", "loss.py"))
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_CLOCKS = {
    getattr(time, name)
    for name in dir(time)
    if name.removesuffix("_ns") in ("time", "perf_counter", "monotonic", "process_time", "thread_time")
}
#: What NumPy's functions of random numbers draw from.
_NUMPY_STREAM = np.random.random.__self__  # type: ignore[attr-defined]
_MEMBERS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_ITERATOR_HOMES = ("builtins", "itertools")
#: Functions of Python that read their arguments by instructions or methods that are looked at themselves.
_HARMLESS = {x for x in vars(builtins).values() if isinstance(x, type | types.BuiltinFunctionType)} - {
    *(getattr, setattr, delattr, hasattr, vars, dir)
}


def is_observed(frame: types.FrameType) -> bool:
    """Return whether a frame runs code of the user, or reads what users set, rather than code of a library."""
    name = frame.f_code.co_filename
    if name.startswith(_HOME):
        return name.startswith(_OBSERVED) and frame.f_code.co_name not in ("__setattr__", "__delattr__")
    if name == "<string>" or is_library_file(name):  # code that was generated belongs to the module whose names it uses
        return not is_library(str(frame.f_globals.get("__name__", "__main__")))
    return True


def is_library_file(name: str) -> bool:
    """Return whether a file belongs to Python or to an installed package."""
    installed = "site-packages" in name or "dist-packages" in name
    return installed or name.startswith(("<frozen", *_LIBRARIES))


@functools.cache
def is_library(module: str) -> bool:
    """Return whether a module, by its name, is part of labnet, of Python, or of an installed package."""
    root = module.partition(".")[0]
    if root == "__main__":
        return False
    if root == "labnet" or root in sys.builtin_module_names or root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and is_library_file(file) and not _uses_labnet(root)


def _uses_labnet(package: str) -> bool:
    """Return whether an installed package is written with labnet, so that its state matters as a user's does."""
    names = [name for name in sys.modules if name.partition(".")[0] == package]
    return any(
        module_of(value).partition(".")[0] == "labnet" or getattr(value, "__name__", None) == "labnet"
        for name in names
        for value in list(vars(sys.modules[name]).values())
        if isinstance(value, type | types.FunctionType | types.ModuleType)
    )


def module_of(found: Any) -> str:
    """Return the name of the module that a class or function was defined in."""
    return str(getattr(found, "__module__", None) or "builtins")


def instance_dict(found: Any) -> dict[str, Any]:
    """Return the attributes of an instance without running any code of a user."""
    try:
        attributes: dict[str, Any] = object.__getattribute__(found, "__dict__")
    except AttributeError:
        return {}
    return attributes


def in_classes(kind: type, name: str, after: type | None = None) -> tuple[type, Any] | None:
    """Return the class that defines a name, among those that a class inherits from, and what it is there."""
    order = kind.__mro__ if after is None else kind.__mro__[kind.__mro__.index(after) + 1 :]
    return next(((one, vars(one)[name]) for one in order if name in vars(one)), None)


def has_traced(found: Any, depth: int = 4) -> bool:
    """Return whether stand-ins are in a list, tuple or dict, or in those in it."""
    if isinstance(found, Traced) or not depth:
        return isinstance(found, Traced)
    parts = found.values() if isinstance(found, dict) else found if isinstance(found, list | tuple) else ()
    return any(has_traced(part, depth - 1) for part in parts)


class _Pause:
    """A block in which a thread is not traced."""

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(None)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)


_NOT_PAUSED = nullcontext()
#: What looks at the instructions of a code object, by offset.
Steps = dict[int, tuple[Callable[..., None], Instruction]]


class Reads:
    """Follows a run of a function: as a context manager, with `pause` for what is not the function's own code.

    Attributes
    ----------
    needs_recording : bool
        Set where it mattered whether operations are recorded.
    """

    def __init__(self) -> None:
        frames.check()
        self.needs_recording = self._needs_mode = False
        self.tensors: dict[int, Tensor] = {}
        self._guards: dict[Any, Place] = {}
        self._doubtful: set[Any] = set()
        self._seen: dict[int, Any] = {}
        self._names: dict[int, str] = {}
        self._created: dict[int, Any] = {}
        self._cells: dict[int, str] = {}
        self._namespaces: dict[int, Any] = {}
        self._written: dict[Any, tuple[Place, str]] = {}
        self._lines: dict[int, str] = {}
        self._calls: dict[types.FrameType, Any] = {}
        self._modules: set[int] = set()
        self._steps: dict[int, Steps] = {}
        self._codes_kept: list[types.CodeType] = []
        self._codes: set[types.CodeType] = set()
        self._refusal: TraceError | None = None
        self._before: Any = None

    # Following

    def __enter__(self) -> "Reads":
        self._before = sys.gettrace()
        sys.settrace(self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
        self._calls.clear()

    def pause(self) -> AbstractContextManager[None]:
        """Look away while labnet computes."""
        return _NOT_PAUSED if sys.gettrace() is None else _Pause()

    def pause_for(self, function: Any) -> AbstractContextManager[None]:
        """Look away while a function runs, if it is one of labnet."""
        return self.pause() if module_of(function).startswith("labnet.") else _NOT_PAUSED

    def _begin(self, frame: types.FrameType, event: str, _: Any) -> Any:
        if event != "call" or not is_observed(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._guarded(self._enter, frame)
        return self._follow

    def _follow(self, frame: types.FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            if frame in self._calls and not self._is_calling(frame):
                self._returned(frame)
            code = frame.f_code
            found = (self._steps.get(id(code)) or self._steps_of(code)).get(frame.f_lasti)
            if found is not None:
                self._guarded(found[0], self, frame, found[1])
        return self._follow

    def _steps_of(self, code: types.CodeType) -> Steps:
        """Return the instructions that are looked at, with what does so."""
        found = frames.instructions(code).items()
        steps = {offset: (_HANDLERS[one.name], one) for offset, one in found if one.name in _HANDLERS}
        self._steps[id(code)] = steps  # by identity: the hash of a code object goes through all of it
        self._codes_kept.append(code)
        return steps

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except TraceError as error:
            self._refusal = self._refusal or error
            raise

    def raise_refusal(self) -> None:
        """Raise what was refused, also where the function has caught it."""
        if self._refusal is not None:
            raise self._refusal

    def _enter(self, frame: types.FrameType) -> None:
        """Guard the function that is called, and find out how it was reached."""
        function, code = frames.function_of(frame), frame.f_code
        if function is None:
            return
        inner = code in self._codes and id(function) not in self._seen
        self._codes.update(frames.nested(code))
        for cell, variable in zip(function.__closure__ or (), code.co_freevars, strict=True):
            if not inner:
                self._cells.setdefault(id(cell), variable)
        if inner or code.co_filename.startswith(_HOME):
            return
        if id(function) not in self._seen and code.co_argcount:
            self._reached_through_class(frame.f_locals.get(code.co_varnames[0]), function)
        self._take(function, code.co_name)
        self._add(Code(function, code.co_name))
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._take(default, f"a default of {code.co_name}")

    def _reached_through_class(self, first: Any, function: types.FunctionType) -> None:
        """Guard the attribute of a class through which Python calls a function by itself, such as ``__call__``."""
        name = function.__code__.co_name
        if name == "__init__":
            self._created[id(first)] = first
        for one in type(first).__mro__:
            for attribute, found in vars(one).items():
                if found is function or getattr(found, "fget", None) is function:
                    self._add(Item(vars(one), attribute, f"{one.__name__}.{attribute}", found))
                    return

    @staticmethod
    def _is_calling(frame: types.FrameType) -> bool:
        """Return whether a call is still to run: Python 3.11 has two instructions for one."""
        return sys.version_info < (3, 12) and frames.instructions(frame.f_code)[frame.f_lasti].name == "CALL"

    def _returned(self, frame: types.FrameType) -> None:
        """Note what a call has returned: an object of its own, or one that comes from elsewhere."""
        callee = self._calls.pop(frame)
        one = frames.instructions(frame.f_code).get(frame.f_lasti)
        if one is None or not one.depth:
            return
        (found,) = frames.operands(frame, one.depth, 1)
        if isinstance(callee, type):
            self._created[id(found)] = found
        elif not isinstance(found, (*SCALARS, Traced, np.ndarray)) and not is_container(found):
            self._take(found, self._names.get(id(found), "what is returned"))

    # Guards

    def _add(self, place: Place) -> None:
        key = place.key()
        if key in self._guards or key in self._written or isinstance(place.value, Traced):
            return
        self._guards[key] = place

    def _found(self, place: Place) -> None:
        """Guard a place, and take what is there."""
        self._add(place)
        self._take(place.value, place.name)

    def _take(self, value: Any, name: str) -> None:
        """Note an object that comes from outside; guard what it holds where that is not read by instructions."""
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
            self._namespaces[id(value)] = value  # item by item
            return
        self._add(Contents(value, name))
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in list(parts):
            self._take(part, f"{name}[{key!r}]")

    def _take_object(self, value: Any, name: str) -> None:
        kind = type(value)
        if isinstance(value, types.GeneratorType) or (hasattr(kind, "__next__") and module_of(kind) in _ITERATOR_HOMES):
            refuse(f"{name}, an iterator: each call would have to go on where the one before ended; use a list")
        elif value is os.environ:
            self._take(os.environ._data, name)
        elif hasattr(kind, "__array__") and _is_foreign(kind):
            self._take_foreign(value, name)

    def _take_foreign(self, value: Any, name: str) -> None:
        """Compare what makes an array of itself, such as a table of another library, by that array."""
        try:
            self._add(Elements(value, name))
        except (TypeError, ValueError, RuntimeError) as error:
            refuse(f"{name}, a {type(value).__name__} whose elements cannot be compared ({error}): pass it as an array")

    # Instructions

    def _global(self, frame: types.FrameType, one: Instruction) -> None:
        namespace, name = frame.f_globals, one.argument
        if frame.f_code.co_filename.startswith(_HOME):
            return
        if one.name == "LOAD_NAME" and name in frame.f_locals and frame.f_locals is not namespace:
            return
        if name in namespace:
            self._found(Item(namespace, name, name, namespace[name]))
            return
        self._add(Item(namespace, name, name))
        found = vars(builtins).get(name)
        if not isinstance(found, type | types.BuiltinFunctionType | None):
            self._found(Item(vars(builtins), name, name, found))

    def _variable(self, frame: types.FrameType, one: Instruction) -> None:
        cell = self._cell(frame, one.argument)
        if cell is not None and id(cell) in self._cells:
            place = Cell(cell, one.argument)
            place.value = place.now()
            self._found(place)

    @staticmethod
    def _cell(frame: types.FrameType, name: str) -> types.CellType | None:
        """Return the cell of a variable of an enclosing function."""
        function, free = frames.function_of(frame), frame.f_code.co_freevars
        if function is None or name not in free or not function.__closure__:
            return None
        return function.__closure__[free.index(name)]

    def _attribute(self, frame: types.FrameType, one: Instruction) -> None:
        (owner,) = frames.operands(frame, one.depth, 1)
        is_own = frame.f_code.co_filename.startswith(_HOME)
        if is_own and isinstance(owner, Module):  # what a module of labnet holds changes where an attribute is set
            self._modules.add(id(instance_dict(owner).get(one.argument)))
        if one.argument != "__dict__" or not is_own:
            self.read_attribute(owner, one.argument)

    def read_attribute(self, owner: Any, name: str) -> None:
        """Guard an attribute that is about to be read."""
        if id(owner) in self._created or isinstance(owner, (*SCALARS, Traced, np.ndarray, tuple)):
            return
        if isinstance(owner, Tensor):
            self.tensors.setdefault(id(owner), owner)
        elif isinstance(owner, super):
            self._read_super(owner, name)
        elif isinstance(owner, types.ModuleType):
            self._read_module(owner, name)
        elif isinstance(owner, type):
            self._read_class(owner, name)
        elif isinstance(owner, types.FunctionType | types.MethodType):
            if name in instance_dict(owner):
                self._read_plainly(owner, name, instance_dict(owner)[name])
        elif type(owner) not in (list, dict, set, frozenset) and not self._is_foreign(owner):
            self._read_instance(owner, name)

    def _is_foreign(self, owner: Any) -> bool:
        """Return whether an object is of a class of labnet that has no settings."""
        return module_of(type(owner)).partition(".")[0] == "labnet" and not isinstance(owner, Module | Optimizer)

    def _read_plainly(self, owner: Any, name: str, value: Any) -> None:
        place = Attribute(owner, name, f"{self._name_of(owner)}.{name}", value)
        if id(owner) not in self._seen:
            self._doubtful.add(place.key())
        self._found(place)

    def _name_of(self, owner: Any) -> str:
        return self._names.get(id(owner)) or getattr(owner, "__name__", None) or type(owner).__name__

    def _read_module(self, owner: types.ModuleType, name: str) -> None:
        if owner is os and name == "environ":
            self._take(os.environ, "os.environ")
        if not is_library(owner.__name__):
            value = instance_dict(owner).get(name, MISSING)
            if value is not MISSING:
                self._seen.setdefault(id(owner), owner)
                self._read_plainly(owner, name, value)

    def _read_class(self, owner: type, name: str) -> None:
        """Guard an attribute of a class, and that no class before it in the order of inheritance has one."""
        if is_library(module_of(owner)):
            return
        found, above = in_classes(owner, name), in_classes(type(owner), name)
        if found is None or (above is not None and hasattr(type(above[1]), "__set__")):
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

    def _read_super(self, owner: Any, name: str) -> None:
        kind = owner.__self_class__
        found = in_classes(kind, name, owner.__thisclass__)
        if found is not None and not is_library(module_of(found[0])):
            self._found(Item(vars(found[0]), name, f"{found[0].__name__}.{name}", found[1]))

    def _read_instance(self, owner: Any, name: str) -> None:
        found, own = in_classes(type(owner), name), instance_dict(owner)
        value = MISSING if found is None else found[1]
        if isinstance(value, _MEMBERS):
            if name not in ("__dict__", "__class__", "__weakref__"):
                self._read_plainly(owner, name, Attribute(owner, name).now())
            elif name == "__dict__":
                self._take(own, self._name_of(owner))
        elif hasattr(type(value), "__set__") or hasattr(type(value), "__delete__"):
            self._read_class(type(owner), name)
        elif name in own:
            self._read_plainly(owner, name, own[name])
        elif isinstance(value, types.FunctionType):
            self._read_method(owner, name, value)
        elif found is not None and hasattr(type(value), "__get__"):
            self._read_class(type(owner), name)
        elif found is not None:
            if isinstance(owner, Module):  # only what is set on an instance is counted
                self._read_class(type(owner), name)
            self._read_plainly(owner, name, value)
        else:
            self._add(Absence(owner, name, f"{self._name_of(owner)}.{name}"))

    def _read_method(self, owner: Any, name: str, function: types.FunctionType) -> None:
        if isinstance(owner, Module | Optimizer):
            self._read_class(type(owner), name)  # what is set on an instance is counted
            if isinstance(owner, Module) and not is_library(module_of(in_classes(type(owner), name)[0])):  # type: ignore[index]
                self._add(Method(owner, name, f"{self._name_of(owner)}.{name}", function))
        elif not is_library(module_of(function)) or not is_library(module_of(type(owner))):
            self._add(Method(owner, name, f"{self._name_of(owner)}.{name}", function))
            self._take(function, name)

    def _item(self, frame: types.FrameType, one: Instruction) -> None:
        container, key = frames.operands(frame, one.depth, 2)
        if id(container) in self._namespaces and isinstance(key, str):
            self._found(Item(container, key, key, container.get(key, MISSING)))

    # Calls

    def _call(self, frame: types.FrameType, one: Instruction) -> None:
        callee, arguments = frames.called(frame, one)
        for argument in arguments:
            if type(argument) is Tensor:
                self.tensors.setdefault(id(argument), argument)
        self._called(frame, callee, arguments)

    def _called(self, frame: types.FrameType, callee: Any, arguments: list[Any]) -> None:
        if isinstance(callee, types.MethodType):
            arguments, callee = [callee.__self__, *arguments], callee.__func__
        if isinstance(arguments[0] if arguments else callee, random.Random) or isinstance(
            getattr(callee, "__self__", None), random.Random
        ):
            refuse("random numbers of Python, which would be drawn once: draw them with ln.rand or ln.randn")
        if isinstance(callee, types.FunctionType):
            if _is_foreign(callee):
                self._hand_over(arguments)
                self._calls[frame] = callee
        elif isinstance(callee, type):
            self._calls[frame] = callee
        elif callee in (getattr, hasattr) and isinstance(arguments[1], str):
            self.read_attribute(arguments[0], arguments[1])
        elif callee in (setattr, object.__setattr__):
            self._write_attribute(arguments[0], arguments[1], arguments[2])
        elif callee in (delattr, object.__delattr__):
            self._write_attribute(arguments[0], arguments[1], MISSING)
        elif callee is vars and arguments:
            self._take_all(arguments[0])
        elif callee is globals:
            self._namespaces[id(frame.f_globals)] = frame.f_globals
        elif _reads_clock(callee):
            refuse("reading the clock, which would happen once: pass the time as an argument")
        else:
            self._call_of_library(frame, callee, arguments)

    def _call_of_library(self, frame: types.FrameType, callee: Any, arguments: list[Any]) -> None:
        owner: Any = getattr(callee, "__self__", arguments[0] if arguments else None)
        if self._draws(callee, owner, arguments):
            refuse("random numbers of Python or NumPy, which would be drawn once: draw them with ln.rand or ln.randn")
        if isinstance(owner, ContextVar):
            if owner.name.startswith("labnet_"):
                self._needs_mode |= owner.name == "labnet_training"
                return
            self._found(Reading(lambda: owner.get(MISSING), owner.name, owner.get(MISSING), owner))
        elif isinstance(callee, weakref.ReferenceType):
            self._found(Reading(callee, "a weak reference", callee(), callee))
        elif id(owner) in self._namespaces and callee.__name__ in ("get", "__getitem__"):
            key = next(argument for argument in arguments if argument is not owner)
            self._found(Item(owner, key, str(key), owner.get(key, MISSING)))
        else:
            is_known, is_harmless = id(owner) in self._seen, _is_harmless(callee)
            if is_known:
                self._lines[id(owner)] = user_line()
            if not is_harmless:
                self._hand_over([owner, *arguments])
            if is_known or not is_harmless:
                self._calls[frame] = callee

    def _draws(self, callee: Any, owner: Any, arguments: list[Any]) -> bool:
        """Return whether a function draws from a stream of random numbers that was there before the run."""
        if callee is np.random.default_rng and not arguments:
            return True
        known = owner is _NUMPY_STREAM or id(owner) in self._seen
        return known and isinstance(owner, np.random.Generator | np.random.RandomState)

    def _hand_over(self, arguments: Iterable[Any]) -> None:
        """Guard all attributes of objects that are handed to code which is not looked at."""
        for argument in arguments:
            if id(argument) in self._seen and not is_library(module_of(type(argument))):
                self._take_all(argument)

    def _take_all(self, owner: Any) -> None:
        if id(owner) in self._created or isinstance(owner, types.ModuleType | types.FunctionType | type):
            return
        self._take(instance_dict(owner), self._name_of(owner))

    # Writes

    def _store_global(self, frame: types.FrameType, one: Instruction) -> None:
        namespace = frame.f_globals
        if one.name.endswith("_NAME") and frame.f_locals is not namespace:
            return
        self._write(Item(namespace, one.argument, one.argument))

    def _store_variable(self, frame: types.FrameType, one: Instruction) -> None:
        cell = self._cell(frame, one.argument)
        if cell is not None and id(cell) in self._cells:
            self._write(Cell(cell, one.argument))

    def _store_attribute(self, frame: types.FrameType, one: Instruction) -> None:
        value, owner = MISSING, frames.operands(frame, one.depth, 1)[0]
        if one.name == "STORE_ATTR":
            value = frames.operands(frame, one.depth, 2)[0]
        self._write_attribute(owner, one.argument, value)

    def _write_attribute(self, owner: Any, name: str, value: Any) -> None:
        if isinstance(owner, Tensor) or id(owner) in self._created or id(owner) not in self._seen:
            return
        found = in_classes(type(owner), name)
        if found is None or isinstance(found[1], _MEMBERS) or not hasattr(type(found[1]), "__set__"):
            own = instance_dict(owner)
            place = Attribute(owner, name, f"{self._name_of(owner)}.{name}")
            place.value = own.get(name, MISSING) if own or found is None else place.now()
            self._write(place)

    def _write(self, place: Place) -> None:
        key = place.key()
        if key not in self._written:
            if not isinstance(place, Attribute):
                place.value = place.now()
            self._written[key] = (place, user_line())

    def _store_item(self, frame: types.FrameType, one: Instruction) -> None:
        container, key = frames.operands(frame, one.depth, 2)
        if id(container) in self._namespaces:
            self._write(Item(container, key, str(key)))
        elif id(container) in self._seen:
            self._lines.setdefault(id(container), user_line())

    # The end

    def changed(self) -> list[tuple[Place, Any, str]]:
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
        for place, _ in reversed(self._written.values()):
            if not place.holds():
                place.put(place.value)
        for place in self._guards.values():
            if isinstance(place, Contents | Elements) and not place.holds():
                place.put(place.value)

    def rebound(self) -> list[tuple[Attribute, Traced]]:
        """Return the attributes of modules that the run has left with a stand-in without a history."""
        found = []
        for place, line in self._written.values():
            now = place.now()
            if isinstance(place, Attribute) and isinstance(place.owner, Module) and isinstance(now, Traced):
                if now.requires_grad:
                    refuse(f"setting {place.name} to what has a history, which ends with the call: set detach()", line)
                found.append((place, now))
        return found

    def carry(self, place: Plain) -> None:
        """Leave a place to each call; where a tensor was there, any one will do whose shape and dtype are the same."""
        key = place.key()
        del self._written[key]
        if key in self._guards and place.holds():
            self._guards[key] = place

    def effects(self) -> list[tuple[Place, Any]]:
        """Return what the run has written to places outside, whether or not that was there before."""
        return [(place, place.now()) for place, _ in self._written.values()]

    def settings_of(self, owner: Any) -> dict[str, Any]:
        """Return the attributes of an object that the run has written so far."""
        return {
            place.attribute: place.now()
            for place, _ in self._written.values()
            if isinstance(place, Attribute) and place.owner is owner
        }

    def begin(self, function: Any, arguments: Iterable[Any]) -> None:
        """Take the function, and arguments that are no tensors, for things from outside."""
        self._take(function, getattr(function, "__name__", "function"))
        for argument in arguments:
            self._take(argument, type(argument).__name__)

    def _is_counted(self, place: Place) -> bool:
        """Return whether a change of a place is counted by `labnet.nn.modules.changes`."""
        if isinstance(place, Contents):
            return id(place.container) in self._modules
        return isinstance(place, Attribute) and isinstance(place.owner, Module)

    def guards(self) -> Guards:
        """Return what has to hold before each call."""
        found = [
            place
            for key, place in self._guards.items()
            if key not in self._doubtful or (place.holds() and not has_traced(place.value))
        ]
        counted = [place for place in found if self._is_counted(place)]
        ids = set(map(id, counted))
        places = [place for place in found if id(place) not in ids]
        return Guards(places, counted, needs_recording=self.needs_recording, needs_mode=self._needs_mode)


def _reads_clock(callee: Any) -> bool:
    if getattr(callee, "__qualname__", "") in ("datetime.now", "datetime.utcnow", "datetime.today", "date.today"):
        return True
    return isinstance(callee, types.BuiltinFunctionType) and callee in _CLOCKS


def _is_harmless(callee: Any) -> bool:
    try:
        return callee in _HARMLESS or module_of(callee).partition(".")[0] in ("builtins", "labnet", "numpy", "math")
    except TypeError:  # what cannot be hashed is no function of Python
        return False


def _is_foreign(kind: Any) -> bool:
    """Return whether a class or function is of Python, or of an installed package other than labnet."""
    return is_library(module_of(kind)) and module_of(kind).partition(".")[0] != "labnet"


_HANDLERS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("LOAD_GLOBAL", "LOAD_NAME"), Reads._global),
    **dict.fromkeys(("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"), Reads._variable),
    **dict.fromkeys(("LOAD_ATTR", "LOAD_METHOD"), Reads._attribute),
    **dict.fromkeys(("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_NAME", "DELETE_NAME"), Reads._store_global),
    **dict.fromkeys(("STORE_DEREF", "DELETE_DEREF"), Reads._store_variable),
    **dict.fromkeys(("STORE_ATTR", "DELETE_ATTR"), Reads._store_attribute),
    **dict.fromkeys(("STORE_SUBSCR", "DELETE_SUBSCR"), Reads._store_item),
    "BINARY_SUBSCR": Reads._item,
    **dict.fromkeys(("PRECALL" if sys.version_info < (3, 12) else "CALL", "CALL_KW", "CALL_FUNCTION_EX"), Reads._call),
}


def refuse_changes(changes: Iterable[tuple[Place, Any, str]]) -> NoReturn:
    """Refuse what a run has changed outside of itself."""
    found = list(changes)
    names = ", ".join(dict.fromkeys(place.name for place, _, _ in found))
    refuse(
        f"a change of {names}: it would happen once, while the function is traced, and not at each call; return "
        "what is new, and keep it outside",
        next((line for _, _, line in found if line), ""),
    )
