"""Kernels by which the threads of a team share the parts of a call without Python's lock; see `labnet.kernels.threads`.

A board, an array of int64, tells the threads what there is to do. The higher half of its ticket is the number of the
call, the lower half has a bit for each part that no thread has taken. A thread takes a part by clearing its bit, which
fails if another thread or another call was faster. Each thread begins with parts of its own, those that it had in the
last call too, since their memory is in its cache, and then takes those of others.
"""

# mypy: ignore-errors
# Numba finds the types.

import llvmlite.binding as llvm
from llvmlite import ir
from numba import int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from labnet.kernels.board import DONE, FAILED, FIRST_STATE, LENGTH, MOST_PARTS, PARTS, STATE, STOP, TASKS, TICKET
from labnet.kernels.cpu.arrays import INSIDE, OPTIONS, item, length, word
from labnet.kernels.machine_code.array_layout import DATA

_WORD = ir.IntType(64)
_ORDER = "seq_cst"
#: States of a helper: it looks at the ticket, or sleeps in Python until it is woken.
_AWAKE, _ASLEEP = 0, 1
_HALF, _PARTS = 32, (1 << MOST_PARTS) - 1
#: The hint of ARM processors that a thread waits.
_YIELD = 1


def _pointer(builder, address):
    return builder.inttoptr(address, _WORD.as_pointer())


@intrinsic
def _load(context, address):
    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_pointer(builder, arguments[0]), _ORDER, 8)

    return int64(int64), generate


@intrinsic
def _store(context, address, value):
    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), _ORDER, 8)
        return context.get_dummy_value()

    return types.none(int64, int64), generate


@intrinsic
def _add(context, address, value):
    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _pointer(builder, arguments[0]), arguments[1], _ORDER)

    return int64(int64, int64), generate


@intrinsic
def _replace(context, address, old, new):
    """Store a word if another one is there, and return whether it was."""

    def generate(context, builder, signature, arguments):
        address, old, new = arguments
        found = builder.cmpxchg(_pointer(builder, address), old, new, _ORDER, _ORDER)
        return builder.zext(builder.extract_value(found, 1), _WORD)

    return int64(int64, int64, int64), generate


@intrinsic
def _lowest(context, mask):
    """Return the position of the lowest bit that is set."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return int64(int64), generate


@intrinsic
def _call(context, function, words):
    """Call the function at an address, which computes a part."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_WORD, [_WORD])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])

    return int64(int64, int64), generate


@intrinsic
def _pause(context):
    """Let the processor wait a moment, as in every loop that waits for a word to change."""
    triple, whole = llvm.get_process_triple(), ir.IntType(32)

    def generate(context, builder, signature, arguments):
        if triple.startswith(("x86", "i386", "i686")):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        elif triple.startswith(("aarch64", "arm64")):
            kind = ir.FunctionType(ir.VoidType(), [whole])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint"), [whole(_YIELD)])
        return context.get_dummy_value()

    return types.none(), generate


@njit(**INSIDE)
def _board(arrays):
    return word(item(arrays, 0) + DATA)


@njit(**INSIDE)
def _is_left(board):
    """Return whether a part is left to take."""
    return _load(board + TICKET) & _PARTS != 0


@njit(**INSIDE)
def _compute(board, thread, threads):
    """Take parts and compute them until none is left, for one of some threads."""
    while True:
        ticket = _load(board + TICKET)
        left = ticket & _PARTS
        if left == 0:
            return
        first = thread * _load(board + PARTS) // threads
        own = (left >> first) << first
        part = _lowest(own if own != 0 else left)
        if _replace(board + TICKET, ticket, ticket & ~(1 << part)):
            words = _load(board + TASKS) + part * _load(board + LENGTH)
            if _call(word(words), words + 8) == 0:
                _store(board + FAILED, 1)
            _add(board + DONE, 1)


@njit(**OPTIONS)
def team_publish(arrays, parts, helpers):
    """Offer parts to the helpers, and return which of them have to be woken, a bit for each.

    Arrays: board, and a row of words for each part: the address of its function, and what that is called with.
    """
    board, tasks = _board(arrays), item(arrays, 1)
    _store(board + PARTS, parts)
    _store(board + TASKS, word(tasks + DATA))
    _store(board + LENGTH, 8 * length(tasks, 1))
    _store(board + DONE, 0)
    _store(board + FAILED, 0)
    number = (_load(board + TICKET) >> _HALF) + 1
    _store(board + TICKET, (number << _HALF) | ((1 << parts) - 1))
    missing = parts - 1
    for i in range(helpers):
        if _load(board + FIRST_STATE + STATE * i) == _AWAKE:
            missing -= 1
    chosen = 0
    for i in range(helpers):
        if missing > 0 and _replace(board + FIRST_STATE + STATE * i, _ASLEEP, _AWAKE):
            chosen |= 1 << i
            missing -= 1
    return chosen


@njit(**OPTIONS)
def team_share(arrays, helpers, tries):
    """Compute parts, then wait for those that the helpers compute; array: board.

    Return 0 if helpers still compute after some tries, 1 if every part is computed, 2 if a kernel refused one.
    """
    board = _board(arrays)
    _compute(board, 0, helpers + 1)
    for _ in range(tries):
        if _load(board + DONE) == _load(board + PARTS):
            return 1 + _load(board + FAILED)
        _pause()
    return 0


@njit(**OPTIONS)
def team_help(arrays, helper, helpers, tries):
    """Compute parts of calls until there was none for some tries; array: board.

    Return 0 if the helper has to sleep until it is woken, 1 if it ends.
    """
    board = _board(arrays)
    while True:
        _compute(board, helper + 1, helpers + 1)
        if _load(board + STOP):
            return 1
        for _ in range(tries):
            if _is_left(board) or _load(board + STOP):
                break
            _pause()
        else:
            _store(board + FIRST_STATE + STATE * helper, _ASLEEP)
            if not (_is_left(board) or _load(board + STOP)):
                return 0
            if not _replace(board + FIRST_STATE + STATE * helper, _ASLEEP, _AWAKE):
                return 0  # it is being woken
