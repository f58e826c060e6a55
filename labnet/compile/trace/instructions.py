"""Observation of the bytecode of user functions while they are traced: each instruction before it runs.

Knows CPython's instructions and their operands; `Reads`, `Writes` and `CallEffects` decide what they mean.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

from labnet.compile.native import frames
from labnet.compile.native.frames import Instruction
from labnet.compile.native.ownership import references
from labnet.compile.trace.call_effects import CallEffects
from labnet.compile.trace.environment import Environment
from labnet.compile.trace.origins import HOME, is_library, is_observed, module_of
from labnet.compile.trace.reads import Reads
from labnet.compile.trace.writes import Writes
from labnet.errors import TraceError
from labnet.nn import Module

_KERNELS = HOME + "kernels/"
#: Observers of the instructions of a code object, by offset.
Steps = dict[int, tuple[Callable[..., None], Instruction]]


class Instructions:
    """Reports the instructions of a block, in the thread that runs it."""

    def __init__(self, environment: Environment, writes: Writes) -> None:
        frames.check()
        self._environment, self._writes = environment, writes
        self._reads = Reads(environment)
        self._effects = CallEffects(environment, self._reads, writes)
        self._calls: dict[types.FrameType, Any] = {}
        self._steps: dict[int, Steps] = {}
        self._kept: list[types.CodeType] = []
        self._inner: set[types.CodeType] = set()
        self._refusal: TraceError | None = None
        self._before: Any = None
        self._outside: types.FrameType | None = None

    def __enter__(self) -> None:
        self._before, self._outside = sys.gettrace(), sys._getframe(1)
        sys.settrace(self._begin)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        sys.settrace(self._before)
        self._calls.clear()
        self._outside = None
        if self._refusal is not None and kind is None:  # the function has caught it
            raise self._refusal

    def _begin(self, frame: types.FrameType, event: str, _: Any) -> Any:
        if event != "call" or not is_observed(frame) or self._is_of_device(frame):
            return None
        frame.f_trace = self._follow  # Python 3.12 needs it before `f_trace_opcodes`
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._look(self._enter, frame)
        return self._follow

    def _is_of_device(self, frame: types.FrameType) -> bool:
        """Return whether the kernels of labnet called a frame, such as a GPU driver of the user."""
        caller = frame.f_back
        while caller is not None and caller is not self._outside and caller.f_trace is None:
            if caller.f_code.co_filename.startswith(_KERNELS):
                return True
            caller = caller.f_back
        return False

    def _follow(self, frame: types.FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            if frame in self._calls and not self._is_calling(frame):
                self._returned(frame)
            code = frame.f_code
            found = (self._steps.get(id(code)) or self._steps_of(code)).get(frame.f_lasti)
            if found is not None:
                self._look(found[0], self, frame, found[1])
        return self._follow

    def _steps_of(self, code: types.CodeType) -> Steps:
        """Return the observed instructions and their observers."""
        found = frames.instructions(code).items()
        steps = {offset: (_HANDLERS[one.name], one) for offset, one in found if one.name in _HANDLERS}
        self._steps[id(code)] = steps  # by identity: hashing a code object reads all of it
        self._kept.append(code)
        return steps

    def _look(self, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except TraceError as error:
            self._refusal = self._refusal or error
            raise

    def _enter(self, frame: types.FrameType) -> None:
        """Report a called function, unless the run has created it."""
        function, code, environment = frames.function_of(frame), frame.f_code, self._environment
        if function is None:
            return
        is_inner = code in self._inner and not environment.has_seen(function)
        self._inner.update(frames.nested(code))
        if is_inner:
            return
        environment.record_cells(function)
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if code.co_name == "__init__" and not environment.has_seen(first):
            environment.create(first)
        if not code.co_filename.startswith(HOME):
            environment.guard_special_method(first, function)
            environment.enter(function)

    @staticmethod
    def _is_calling(frame: types.FrameType) -> bool:
        """Return whether a call is still to run: Python 3.11 has two instructions for one."""
        return sys.version_info < (3, 12) and frames.instructions(frame.f_code)[frame.f_lasti].name == "CALL"

    def _returned(self, frame: types.FrameType) -> None:
        """Report the result of a call."""
        callee = self._calls.pop(frame)
        one = frames.instructions(frame.f_code).get(frame.f_lasti)
        if one is None or not one.depth:
            return
        (found,) = frames.operands(frame, one.depth, 1)
        if isinstance(callee, type):
            self._environment.create(found, is_new=is_library(module_of(callee)) or references(found) <= _ON_THE_STACK)
        else:
            self._environment.record_result(found)

    # Instructions

    def _load_global(self, frame: types.FrameType, one: Instruction) -> None:
        if frame.f_code.co_filename.startswith(HOME) or self._is_local(frame, one):
            return
        self._reads.read_global(frame.f_globals, one.argument)

    @staticmethod
    def _is_local(frame: types.FrameType, one: Instruction) -> bool:
        """Return whether a name is local to the body of a class."""
        is_body = one.name.endswith("_NAME") and frame.f_locals is not frame.f_globals
        return is_body and (one.name != "LOAD_NAME" or one.argument in frame.f_locals)

    def _load_variable(self, frame: types.FrameType, one: Instruction) -> None:
        cell = self._cell(frame, one.argument)
        if cell is not None:
            self._reads.read_variable(cell, one.argument)

    @staticmethod
    def _cell(frame: types.FrameType, name: str) -> types.CellType | None:
        """Return the cell of a variable of an enclosing function."""
        function, free = frames.function_of(frame), frame.f_code.co_freevars
        if function is None or name not in free or not function.__closure__:
            return None
        return function.__closure__[free.index(name)]

    def _load_attribute(self, frame: types.FrameType, one: Instruction) -> None:
        (owner,) = frames.operands(frame, one.depth, 1)
        if not frame.f_code.co_filename.startswith(HOME):
            self._reads.read_attribute(owner, one.argument)
        elif isinstance(owner, Module):
            self._reads.read_of_labnet(owner, one.argument)

    def _match(self, frame: types.FrameType, one: Instruction) -> None:
        subject, _, _ = frames.operands(frame, one.depth, 3)
        self._reads.read_all(subject)

    def _load_super(self, frame: types.FrameType, one: Instruction) -> None:
        _, kind, owner = frames.operands(frame, one.depth, 3)
        self._reads.read_attribute(super(kind, owner), one.argument)

    def _load_item(self, frame: types.FrameType, one: Instruction) -> None:
        self._reads.read_item(*frames.operands(frame, one.depth, 2))

    def _operate(self, frame: types.FrameType, one: Instruction) -> None:
        if one.number == _SUBSCRIPT:
            self._load_item(frame, one)

    def _call(self, frame: types.FrameType, one: Instruction) -> None:
        callee, arguments = frames.called(frame, one)
        if callee is globals:
            self._environment.record_namespace(frame.f_globals)
        elif self._effects.observe(callee, arguments):
            self._calls[frame] = callee

    def _store_global(self, frame: types.FrameType, one: Instruction) -> None:
        if not self._is_local(frame, one):
            self._writes.write_global(frame.f_globals, one.argument)

    def _store_variable(self, frame: types.FrameType, one: Instruction) -> None:
        cell = self._cell(frame, one.argument)
        if cell is not None:
            self._writes.write_variable(cell, one.argument)

    def _store_attribute(self, frame: types.FrameType, one: Instruction) -> None:
        self._writes.write_attribute(frames.operands(frame, one.depth, 1)[0], one.argument)

    def _store_item(self, frame: types.FrameType, one: Instruction) -> None:
        self._writes.write_item(*frames.operands(frame, one.depth, 2))


#: References to an object that a call has just made and returned: that of the stack of the frame.
_ON_THE_STACK = 1
#: The argument of Python 3.14's BINARY_OP for reading an item.
_SUBSCRIPT = 26
_CALLS = ("PRECALL" if sys.version_info < (3, 12) else "CALL", "CALL_KW", "CALL_FUNCTION_EX")
_HANDLERS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("LOAD_GLOBAL", "LOAD_NAME"), Instructions._load_global),
    **dict.fromkeys(("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"), Instructions._load_variable),
    **dict.fromkeys(("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"), Instructions._load_attribute),
    "MATCH_CLASS": Instructions._match,
    "LOAD_SUPER_ATTR": Instructions._load_super,
    "BINARY_SUBSCR": Instructions._load_item,
    **({"BINARY_OP": Instructions._operate} if sys.version_info >= (3, 14) else {}),
    **dict.fromkeys(_CALLS, Instructions._call),
    **dict.fromkeys(("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_NAME", "DELETE_NAME"), Instructions._store_global),
    **dict.fromkeys(("STORE_DEREF", "DELETE_DEREF"), Instructions._store_variable),
    **dict.fromkeys(("STORE_ATTR", "DELETE_ATTR"), Instructions._store_attribute),
    **dict.fromkeys(("STORE_SUBSCR", "DELETE_SUBSCR"), Instructions._store_item),
}
