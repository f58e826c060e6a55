"""The effects of calls in a traced run: what functions of Python and of libraries read and write.

Clocks, files and random numbers are refused.
"""

import os
import types
import weakref
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import numpy as np

from labnet.compile.trace.environment import Environment
from labnet.compile.trace.locations import MISSING, CallResult
from labnet.compile.trace.origins import (
    draws_outside,
    is_foreign,
    is_harmless,
    is_library,
    is_shared_stream,
    is_stream,
    module_of,
    reads_clock,
    reads_file,
)
from labnet.compile.trace.reads import Reads
from labnet.compile.trace.traced_tensor import refuse
from labnet.compile.trace.writes import Writes
from labnet.tensor import Tensor

_SETTERS = (setattr, delattr, object.__setattr__, object.__delattr__)


class CallEffects:
    """Guards the reads of each call, and records its writes."""

    def __init__(self, environment: Environment, reads: Reads, writes: Writes) -> None:
        self._environment, self._reads, self._writes = environment, reads, writes

    def observe(self, callee: Any, arguments: list[Any]) -> bool:
        """Guard the values that a call reads; return whether its result must be recorded."""
        for argument in arguments:
            if type(argument) is Tensor:
                self._environment.tensors.setdefault(id(argument), argument)
        if isinstance(callee, types.MethodType):
            arguments, callee = [callee.__self__, *arguments], callee.__func__
        bound = isinstance(callee, types.BuiltinFunctionType | types.MethodWrapperType)
        owner: Any = callee.__self__ if bound else arguments[0] if arguments else None
        if bound and callee.__name__ in ("__setattr__", "__delattr__"):
            self._writes.write_attribute(owner, arguments[0])
        if reads_file(callee):
            refuse("reading a file, which would happen once: read it outside, and pass what is in it")
        if callee is os.getenv:
            self._environment.record(os.environ, "os.environ")
        if draws_outside(callee) or self._draws(callee, owner, arguments):
            refuse("random numbers of Python or NumPy, which would be drawn once: draw them with ln.rand or ln.randn")
        if isinstance(callee, types.FunctionType):
            if is_foreign(callee):
                self._guard_arguments(arguments)
            return is_foreign(callee)
        if isinstance(callee, type):
            if callee is type and len(arguments) == 1:
                self._environment.guard_class(arguments[0])
                self._environment.record(type(arguments[0]), type(arguments[0]).__name__)
            return True
        if self._observe_builtin(callee, arguments):
            return False
        return self._observe_library(callee, owner, arguments)

    def _observe_builtin(self, callee: Any, arguments: list[Any]) -> bool:
        """Guard the reads and writes of a builtin with known effects; return whether it is one."""
        if callee is getattr or callee is hasattr or callee is object.__getattribute__:
            if isinstance(arguments[1], str):
                self._reads.read_attribute(arguments[0], arguments[1])
        elif any(callee is one for one in _SETTERS):
            self._writes.write_attribute(arguments[0], arguments[1])
        elif callee is isinstance:
            self._environment.guard_class(arguments[0])
        elif callee is vars and arguments:
            if isinstance(arguments[0], types.ModuleType):
                self._environment.record_namespace(vars(arguments[0]))
            elif isinstance(arguments[0], type):
                self._environment.record(vars(arguments[0]), arguments[0].__name__)
            else:
                self._reads.read_all(arguments[0])
        elif reads_clock(callee):
            refuse("reading the clock, which would happen once: pass the time as an argument")
        else:
            return False
        return True

    def _observe_library(self, callee: Any, owner: Any, arguments: list[Any]) -> bool:
        if isinstance(owner, ContextVar):
            self._read_context(owner)
        elif isinstance(callee, weakref.ReferenceType):
            self._environment.guard_value(CallResult(callee, "a weak reference", callee(), callee))
        elif self._environment.is_namespace(owner) and callee.__name__ in ("get", "__getitem__"):
            self._reads.read_item(owner, next(argument for argument in arguments if argument is not owner))
        else:
            if self._environment.has_seen(owner):
                self._writes.record_line(owner)
            if not is_harmless(callee):
                self._guard_arguments([owner, *arguments])
            return self._environment.has_seen(owner) or not is_harmless(callee)
        return False

    def _read_context(self, variable: "ContextVar[Any]") -> None:
        if variable.name.startswith("labnet_"):
            self._environment.needs_mode |= variable.name == "labnet_training"
        else:
            self._environment.guard_value(
                CallResult(lambda: variable.get(MISSING), variable.name, variable.get(MISSING), variable)
            )

    def _draws(self, callee: Any, owner: Any, arguments: list[Any]) -> bool:
        """Return whether a call draws from a random generator that existed before the run."""
        if callee is np.random.default_rng and not arguments:
            return True
        return is_stream(owner) and (is_shared_stream(owner) or self._environment.has_seen(owner))

    def _guard_arguments(self, arguments: Iterable[Any]) -> None:
        """Guard all attributes of external objects that are passed to unobserved code."""
        for argument in arguments:
            if self._environment.has_seen(argument) and not is_library(module_of(type(argument))):
                self._reads.read_all(argument)
