"""Kernels of scalar programs: one pass over memory, in blocks that stay in the cache.

A block goes through stages: a loop of arithmetic, which LLVM vectorizes, then calls of NumPy's own loops for the
functions that have no instruction, such as exp. Blocks of intermediate values lie on the stack.
"""

# mypy: ignore-errors
# Numba finds the types.

import numpy as np
from llvmlite import ir
from numba import int32, int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from labnet.kernels.cpu.arrays import INSIDE, OPTIONS, has, item, length, word
from labnet.kernels.cpu.instructions import IS_X86, TYPES, compute, convert, is_instruction, use_wide_vectors
from labnet.kernels.cpu.ufunc_calls import call_loop
from labnet.kernels.machine_code.array_layout import DATA, FLAGS, ITEMS, NDIM

#: Bytes of a block: some of them fit into the cache of the first level together.
_BLOCK = 4096
_ALIGNED, _WRITEABLE, _CONTIGUOUS = 0x100, 0x400, 0x3
_WORD, _BYTE = ir.IntType(64), ir.IntType(8)
_MEMORY = {**TYPES, "?": _BYTE, "e": ir.HalfType()}
_DESCRIBED = {"?": b"b?|", "e": b"fe=", "f": b"ff=", "d": b"fd="}
#: C's functions for the floating-point exceptions of a thread, and the bits of those of which NumPy warns: an invalid
#: operand, division by zero, and overflow.
_clear_exceptions = types.ExternalFunction("feclearexcept", int32(int32))
_test_exceptions = types.ExternalFunction("fetestexcept", int32(int32))
_EXCEPTIONS = (1 | 4 | 8) if IS_X86 else (1 | 2 | 4)
#: What takes long enough to be stored rather than computed again in another stage.
_SLOW = {"divide", "sqrt", "reciprocal"}


class _Stages:
    """Which steps of a program are calls, and after how many calls in a row the operands of a step are known."""

    def __init__(self, steps):
        self.steps = steps
        self.level = []
        for step in steps:
            parts = () if step[0] in ("input", "number") else step[2]
            known = max((self.level[part] for part in parts), default=0)
            self.level.append(known + self.is_call(step))
        self.stored = self._stored()

    def is_call(self, step):
        """Return whether a step is a call of a loop of NumPy."""
        kind, _, parts = step
        return kind not in ("input", "number") and not is_instruction(kind, {self.steps[part][1] for part in parts})

    def _stored(self):
        """Return the steps whose values lie in blocks of their own: calls, their operands, and what takes long."""
        stored = {i for i, step in enumerate(self.steps) if self.is_call(step)}
        for i, step in enumerate(self.steps):
            if i in stored:
                stored.update(part for part in step[2] if self.steps[part][0] != "input")
            elif step[0] not in ("input", "number"):
                late = [p for p in step[2] if self.level[p] < self.level[i] and self.steps[p][0] in _SLOW]
                stored.update(late)
        return stored


class _Writer:
    """Writes the loops and calls of a program for blocks of elements.

    Attributes
    ----------
    block : int
        Elements per block.
    """

    def __init__(self, builder, steps, data, numbers):
        self._builder, self._steps, self._data = builder, steps, data
        self._numbers = numbers
        self._plan = _Stages(steps)
        self._last = len(steps) - 1
        self.block = _BLOCK // max(np.dtype(step[1]).itemsize for step in steps)
        self._scratch = {}
        for i in sorted(self._plan.stored - {self._last}):
            self._scratch[i] = cgutils.alloca_once(builder, ir.ArrayType(_MEMORY[steps[i][1]], self.block))
            self._scratch[i].align = 64
        self._scopes = self._alias_scopes()

    def _alias_scopes(self):
        """Return a scope for each place that is written, none of which overlaps another or an input."""
        module = self._builder.module
        domain = module.add_metadata([ir.MetaDataString(module, "labnet")])
        return {
            i: module.add_metadata([ir.MetaDataString(module, f"step {i}"), domain])
            for i in (*self._scratch, self._last)
        }

    def _mark(self, access, step):
        """Say that an access to the place of a step overlaps no other place."""
        module = self._builder.module
        if step in self._scopes:
            access.set_metadata("alias.scope", module.add_metadata([self._scopes[step]]))
        others = [scope for other, scope in self._scopes.items() if other != step]
        if others:
            access.set_metadata("noalias", module.add_metadata(others))

    def _place(self, step, start, index):
        """Return a pointer to an element of the block of a step."""
        builder, (kind, _, parts) = self._builder, self._steps[step]
        if step == self._last or kind == "input":
            return builder.gep(self._data[-1 if step == self._last else parts[0]], [builder.add(start, index)])
        return builder.gep(self._scratch[step], [_WORD(0), index])

    def fill(self):
        """Fill the blocks of numbers, which stay the same."""
        chosen = [i for i in self._scratch if self._steps[i][0] == "number"]
        if chosen:
            self._loop(0, _WORD(self.block), chosen, _WORD(0))

    def write(self, start, count):
        """Write what computes a block."""
        plan, steps = self._plan, self._steps
        calls = {i for i, step in enumerate(steps) if plan.is_call(step)}
        computed = [i for i in sorted(plan.stored | {self._last}) if i not in calls and steps[i][0] != "number"]
        for stage in range(max(plan.level) + 1):
            if chosen := [i for i in computed if plan.level[i] == stage]:
                self._loop(stage, count, chosen, start)
            for i in sorted(calls):
                if plan.level[i] == stage + 1:
                    kind, dtype, parts = steps[i]
                    dtypes = "".join([*(steps[part][1] for part in parts), dtype])
                    places = [self._place(part, start, _WORD(0)) for part in (*parts, i)]
                    call_loop(self._builder, kind, dtypes, places, count)

    def _loop(self, stage, count, chosen, start):
        """Write a loop over a block that computes some steps."""
        builder = self._builder
        with cgutils.for_range(builder, count) as loop:
            known = {}
            for i in chosen:
                value, dtype = self._value(i, stage, loop.index, start, known, chosen), self._steps[i][1]
                if dtype == "?":
                    value = builder.zext(value, _BYTE)
                elif dtype == "e":
                    value = builder.fptrunc(value, ir.HalfType())
                self._mark(builder.store(value, self._place(i, start, loop.index)), i)

    def _value(self, i, stage, index, start, known, chosen):
        """Return the value of a step for one element."""
        if i in known:
            return known[i]
        builder, plan, (kind, dtype, parts) = self._builder, self._plan, self._steps[i]
        is_stored = i in self._scratch and i not in chosen and (plan.is_call(self._steps[i]) or plan.level[i] < stage)
        if kind == "number":
            value = self._numbers[i]
        elif kind == "input" or is_stored:
            value = builder.load(self._place(i, start, index))
            self._mark(value, i)
            if dtype == "?":
                value = builder.icmp_unsigned("!=", value, _BYTE(0))
            elif dtype == "e":
                value = builder.fpext(value, ir.FloatType())
        else:
            given = [self._value(part, stage, index, start, known, chosen) for part in parts]
            value = compute(builder, self._steps, i, given)
            if dtype == "e":
                value = builder.fpext(builder.fptrunc(value, ir.HalfType()), ir.FloatType())
        known[i] = value
        return value


@njit(**INSIDE)
def _common_size(arrays, described):
    """Return the number of elements of the arrays, -1 unless they have these dtypes, one shape and one order."""
    first, shared, size = item(arrays, 0), _CONTIGUOUS, 1
    for position in range(len(described)):
        array = item(arrays, position)
        if not has(array, _ALIGNED | (_WRITEABLE if position == len(described) - 1 else 0), described[position]):
            return -1
        shared &= word(array + FLAGS)
        if (word(array + NDIM) ^ word(first + NDIM)) & 0xFFFFFFFF:
            return -1
    if not shared:
        return -1
    for axis in range(word(first + NDIM) & 0xFFFFFFFF):
        size *= length(first, axis)
        for position in range(1, len(described)):
            if length(item(arrays, position), axis) != length(first, axis):
                return -1
    return size


def kernel_of(steps):
    """Return the kernel of a program and its types. Arrays: inputs, result, and the numbers in float64.

    Parameters
    ----------
    steps : tuple of (str, str, tuple of int)
        See `labnet.kernels.scalar_program.Step`.
    """
    inputs = [step for step in steps if step[0] == "input"]
    described = tuple(int.from_bytes(_DESCRIBED[step[1]], "little") for step in (*inputs, steps[-1]))
    kinds = [_MEMORY[step[1]].as_pointer() for step in (*inputs, steps[-1])]

    @intrinsic
    def run(typing, arrays, size):
        def generate(context, builder, signature, arguments):
            tuple_address, size = arguments
            use_wide_vectors(builder)
            words = [_read(builder, tuple_address, ITEMS + 8 * i) for i in range(len(kinds) + 1)]
            addresses = [_read(builder, one, DATA) for one in words]
            data = [builder.inttoptr(one, kind) for one, kind in zip(addresses[:-1], kinds, strict=True)]
            doubles = builder.inttoptr(addresses[-1], ir.DoubleType().as_pointer())
            numbers = {}
            for i, (kind, dtype, parts) in enumerate(steps):
                if kind == "number":
                    value = builder.load(builder.gep(doubles, [_WORD(parts[0])]))
                    numbers[i] = convert(builder, value, "f" if dtype == "e" else dtype)
            writer = _Writer(builder, steps, data, numbers)
            writer.fill()
            with cgutils.for_range_slice(builder, _WORD(0), size, _WORD(writer.block)) as (start, _):
                left = builder.sub(size, start)
                block = _WORD(writer.block)
                writer.write(start, builder.select(builder.icmp_signed("<", left, block), left, block))
            return context.get_dummy_value()

        return types.none(int64, int64), generate

    @njit(**OPTIONS)
    def kernel(arrays):
        size = _common_size(arrays, described)
        if size < 0:
            return 0
        run(arrays, size)
        return 1

    @njit(**OPTIONS)
    def noticing_kernel(arrays):
        """Refuse operands for which NumPy warns, so that it computes them again, and warns."""
        size = _common_size(arrays, described)
        if size < 0:
            return 0
        _clear_exceptions(_EXCEPTIONS)
        run(arrays, size)
        return 0 if _test_exceptions(_EXCEPTIONS) else 1

    is_single = sum(step[0] not in ("input", "number", "cast") for step in steps) == 1
    return noticing_kernel if is_single else kernel, int64(int64)


def _read(builder, address, add):
    return builder.load(builder.inttoptr(builder.add(address, _WORD(add)), _WORD.as_pointer()))
