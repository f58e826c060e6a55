"""Frames of CPython that run: the operands of an instruction, and the function that a frame belongs to.

Knows where CPython 3.11 to 3.14 keeps them; `check` finds out on a frame that is known, before anything relies on it.
Only memory of frames that are running is read, from a trace function of the same thread.
"""

import ctypes
import dis
import functools
import sys
import sysconfig
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from labnet.errors import TraceError

#: Bytes from the beginning of a frame object to the address of the interpreter's frame.
_FRAME = 24
#: Bytes from the beginning of the interpreter's frame to its function, and to its local variables, by version.
_OFFSETS = {(3, 11): (0, 72), (3, 12): (16, 72), (3, 13): (16, 72), (3, 14): (16, 80)}
#: The lowest bits of a word, where Python 3.14 says how a reference is counted.
_TAG = 3
_LEAVING = frozenset({"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "INTERPRETER_EXIT"})
_JUMPS = frozenset({"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP"})

#: Stands for an empty slot of the stack.
EMPTY: Any = object()

_word = ctypes.c_uint64.from_address


@dataclass(frozen=True)
class Instruction:
    """An instruction of a code object.

    Attributes
    ----------
    name : str
        As `dis` spells it.
    argument : object
        What `dis` calls ``argval``.
    number : int
        The argument as a number; 0 without one.
    depth : int
        Number of values on the stack before it runs.
    """

    name: str
    argument: Any
    number: int
    depth: int


#: Instructions by the identity of their code object, which is kept: its hash goes through all of it.
_known: dict[int, tuple[types.CodeType, dict[int, Instruction]]] = {}


def instructions(code: types.CodeType) -> dict[int, Instruction]:
    """Return the instructions of a code object that can be reached, by their offsets."""
    known = _known.get(id(code))
    if known is None:
        known = _known[id(code)] = (code, _instructions(code))
    return known[1]


def _instructions(code: types.CodeType) -> dict[int, Instruction]:
    listed = list(dis.get_instructions(code))
    at = {one.offset: position for position, one in enumerate(listed)}
    found: dict[int, Instruction] = {}
    handlers: Any = dis.Bytecode(code)
    pending = [(0, 0)] + [(e.target, e.depth + e.lasti + 1) for e in handlers.exception_entries]
    while pending:
        offset, depth = pending.pop()
        for one in listed[at[offset] :]:
            if one.offset in found:
                break
            found[one.offset] = Instruction(one.opname, one.argval, one.arg or 0, depth)
            argument = one.arg if one.opcode >= dis.HAVE_ARGUMENT else None
            if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs:
                pending.append((one.argval, depth + dis.stack_effect(one.opcode, argument, jump=True)))
            if one.opname in _LEAVING or one.opname in _JUMPS:
                break
            depth += dis.stack_effect(one.opcode, argument, jump=False)
            if one.opname == "RETURN_GENERATOR":  # a generator begins with a value that was sent to it
                depth = 1
    return found


def _local_count(code: types.CodeType) -> int:
    return len({*code.co_varnames, *code.co_cellvars}) + len(code.co_freevars)


def _object_at(address: int) -> Any:
    """Return the object that a word of memory refers to."""
    reference = _word(address).value & ~_TAG
    return ctypes.cast(reference, ctypes.py_object).value if reference else EMPTY


def _inner(frame: types.FrameType) -> int:
    return _word(id(frame) + _FRAME).value


def operands(frame: types.FrameType, depth: int, count: int) -> list[Any]:
    """Return the topmost values on the stack of a frame, the last one on top."""
    start = _inner(frame) + _offsets()[1] + 8 * _local_count(frame.f_code)
    return [_object_at(start + 8 * place) for place in range(depth - count, depth)]


def called(frame: types.FrameType, one: Instruction) -> tuple[Any, list[Any]]:
    """Return the callee of the next instruction and its arguments, keyword arguments included."""
    if one.name == "CALL_FUNCTION_EX":
        version, named = sys.version_info[:2], one.number & 1
        count = 4 if version > (3, 13) else 3 + named if version == (3, 13) else 2 + named
        callee, *packed = operands(frame, one.depth, count)
        by_position, *by_name = [x for x in packed if x is not EMPTY]
        return callee, [*by_position, *(x for one in by_name for x in one.values())]
    count = one.number + (3 if one.name == "CALL_KW" else 2)
    callee, *arguments = [x for x in operands(frame, one.depth, count) if x is not EMPTY]
    return callee, arguments


def function_of(frame: types.FrameType) -> types.FunctionType | None:
    """Return the function that a frame runs; None for a module or class body, which has none that stays."""
    found = _object_at(_inner(frame) + _offsets()[0])
    return found if isinstance(found, types.FunctionType) else None


@functools.cache
def _offsets() -> tuple[int, int]:
    version = sys.version_info[:2]
    if version not in _OFFSETS or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise TraceError(
            f"jit: cannot compile on Python {version[0]}.{version[1]}: expected CPython 3.11 to 3.14 with its lock; "
            "call the function itself"
        )
    return _OFFSETS[version]


@functools.cache
def check() -> None:
    """Check on a known frame that this interpreter lays frames out as expected.

    Raises
    ------
    TraceError
        If this Python keeps its frames differently.
    """
    marker = types.SimpleNamespace(attribute=object())
    found: list[bool] = []

    def probe(one: Any) -> Any:
        return (one, marker.attribute)

    def follow(frame: types.FrameType, event: str, _: Any) -> Any:
        frame.f_trace = follow
        frame.f_trace_opcodes = True
        if event == "opcode" and (one := instructions(frame.f_code).get(frame.f_lasti)) and one.name == "LOAD_ATTR":
            found.append(operands(frame, one.depth, 2) == [found, marker] and function_of(frame) is probe)
        return follow

    before = sys.gettrace()
    _offsets()
    sys.settrace(follow)
    try:
        probe(found)
    finally:
        sys.settrace(before)
    if found != [True]:
        raise TraceError(f"jit: this Python ({sys.version}) keeps its frames in another way than CPython does")


def nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code objects that are defined inside another one, directly or not."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from nested(constant)


class _Pause:
    """Context in which the instructions of a thread are not observed."""

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(None)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)


_NOT_PAUSED = nullcontext()


def pause() -> AbstractContextManager[None]:
    """Suspend observation while labnet computes."""
    return _NOT_PAUSED if sys.gettrace() is None else _Pause()


def pause_for(function: Any) -> AbstractContextManager[None]:
    """Suspend observation while a function of labnet runs."""
    return pause() if (getattr(function, "__module__", None) or "").startswith("labnet.") else _NOT_PAUSED
