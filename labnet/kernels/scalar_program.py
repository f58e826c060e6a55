"""Scalar programs: what an elementwise function computes per element, found by running it on stand-ins for arrays.

A `Symbol` records the universal functions of NumPy that it passes through, with the dtypes that NumPy computes in. So a
program has the operations of the function in its order, and its kernel the same bits. Numbers are arguments of the
program, so functions that differ in them have one kernel.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from labnet.kernels.accelerator import AcceleratorArray
from labnet.kernels.array_operators import Operators

BOOL, HALF = np.dtype("bool"), np.dtype("float16")
#: Dtypes that kernels compute in.
_DTYPES = frozenset(map(np.dtype, ("bool", "float16", "float32", "float64")))
_NUMBERS = (bool, int, float)
#: NumPy's results depend on where an element lies, or on the value of the exponent.
_UNSTEADY = frozenset((np.fmax, np.fmin, np.power))


class NotElementwise(TypeError):
    """A function does something else than apply universal functions to elements and numbers."""


class Step(NamedTuple):
    """An operation of a program.

    Attributes
    ----------
    kind : str
        Name of a universal function, ``"cast"``, ``"where"``, ``"power_of_two"``, ``"exponent"``, ``"input"`` or
        ``"number"``.
    dtype : str
        Character of the dtype of the result.
    parts : tuple of int
        The steps that are its operands; the position of an input or a number.
    """

    kind: str
    dtype: str
    parts: tuple[int, ...]


class Program(NamedTuple):
    """Steps in order, of which the last is the result.

    Attributes
    ----------
    steps : tuple of Step
    numbers : tuple of float
    inputs : tuple of int
        Which operands of the function the inputs are.
    """

    steps: tuple[Step, ...]
    numbers: tuple[float, ...]
    inputs: tuple[int, ...]

    @property
    def passes(self) -> int:
        """How many passes over memory NumPy takes."""
        return sum(step.kind not in ("input", "number") for step in self.steps)


class _Recorder:
    """The steps of a program, each once."""

    def __init__(self) -> None:
        self.steps: dict[Any, int] = {}
        self.numbers: list[float] = []
        self.inputs: list[int] = []

    def add(self, kind: str, dtype: np.dtype[Any], *parts: int) -> "Symbol":
        if dtype not in _DTYPES:
            raise NotElementwise(f"no kernel computes {kind} in {dtype}")
        step = Step(kind, dtype.char, parts)
        return Symbol(self, self.steps.setdefault(step, len(self.steps)), dtype)

    def number(self, value: Any, dtype: np.dtype[Any]) -> "Symbol":
        exact = float(np.asarray(value).astype(dtype))
        if exact != exact:
            raise NotElementwise("no kernel takes NaN as a number")
        known = next((i for i, other in enumerate(self.numbers) if repr(other) == repr(exact)), None)
        if known is None:
            known = len(self.numbers)
            self.numbers.append(exact)
        return self.add("number", dtype, known)

    def operand(self, value: Any, dtype: np.dtype[Any]) -> "Symbol":
        """Return an operand in the dtype of an operation."""
        if type(value) is Symbol:
            return value.astype(dtype)
        if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim):
            value = value.item()
        if type(value) not in _NUMBERS:
            raise NotElementwise(f"{type(value).__name__} is neither an operand nor a number")
        return self.number(value, dtype)


@functools.lru_cache(4096)
def _loop(ufunc: np.ufunc, given: tuple[Any, ...]) -> tuple[np.dtype[Any], ...]:
    """Return the dtypes of the operands and of the result, as NumPy promotes them."""
    if ufunc.nout != 1 or ufunc.signature is not None or ufunc in _UNSTEADY:
        raise NotElementwise(ufunc.__name__)
    return ufunc.resolve_dtypes((*given, None))


def _promoted(value: Any) -> Any:
    """Return the type or dtype by which NumPy promotes an operand."""
    kind = type(value)
    return BOOL if kind is bool else kind if kind in _NUMBERS else getattr(value, "dtype", None)


class Symbol(Operators, AcceleratorArray):
    """A stand-in for an array, whose elements are not known."""

    __slots__ = ("_recorder", "dtype", "position")
    __hash__ = object.__hash__
    #: Every array of an elementwise function has this shape, which nothing can compute with.
    shape: Any = ("elementwise",)
    is_pending = True

    def __init__(self, recorder: _Recorder, position: int, dtype: np.dtype[Any]):
        self._recorder, self.position, self.dtype = recorder, position, dtype

    def materialize(self) -> "Symbol":
        """Return this array, whose elements are never computed."""
        return self

    def astype(self, dtype: Any, *, copy: bool = True) -> "Symbol":
        """Return the elements in another dtype."""
        wanted = np.dtype(dtype)
        if wanted == self.dtype:
            return self
        if self.dtype == np.float64 and wanted == HALF:
            raise NotElementwise("no processor rounds float64 to float16")
        return self._recorder.add("cast", wanted, self.position)

    def __bool__(self) -> bool:
        raise NotElementwise("a choice by the value of an element is not elementwise")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **named: Any) -> "Symbol":
        if method != "__call__" or any(value is not None for value in named.values()):
            raise NotElementwise(f"{ufunc.__name__}.{method}")
        *dtypes, result = _loop(ufunc, tuple(map(_promoted, inputs)))
        parts = [self._recorder.operand(value, dtype) for value, dtype in zip(inputs, dtypes, strict=True)]
        return self._recorder.add(ufunc.__name__, result, *[part.position for part in parts])

    def __array_function__(self, function: Any, types: Any, args: tuple[Any, ...], named: dict[str, Any]) -> "Symbol":
        if function is np.round and len(args) == 1 and not named:
            return self.__array_ufunc__(np.rint, "__call__", *args)
        if function is not np.where or len(args) != 3:
            raise NotElementwise(function.__name__)
        condition, *chosen = args
        dtype = np.result_type(*[x.dtype if type(x) is Symbol else x for x in chosen])
        parts = [self._recorder.operand(value, dtype) for value in chosen]
        test = self._recorder.operand(condition, BOOL)
        return self._recorder.add("where", dtype, test.position, *[part.position for part in parts])


#: Integers of the width of floats, how many of their bits are the fraction, and the bias of exponents.
_BITS = {"f": (np.int32, 23, 127), "d": (np.int64, 52, 1023)}


def power_of_two(x: Any) -> Any:
    """Return the numbers whose exponents, with their bias, are the lowest bits of others, of float32 or float64.

    Examples
    --------
    >>> power_of_two(np.array([128.0], "float32") + 2.0**23)
    array([2.], dtype=float32)
    """
    whole, fraction, _ = _bits("power_of_two", x.dtype)
    if type(x) is Symbol:
        return x._recorder.add("power_of_two", x.dtype, x.position)
    return (x.view(whole) << fraction).view(x.dtype)


def exponent(x: Any) -> Any:
    """Return the exponents of positive numbers of float32 or float64: n of 2**n <= x < 2**(n + 1).

    That of 0 and numbers below the normal ones is one less than that of the least normal number, that of infinity one
    more than that of the greatest; other results mean nothing.

    Examples
    --------
    >>> exponent(np.array([0.75, 8.0], "float32"))
    array([-1.,  3.], dtype=float32)
    """
    whole, fraction, bias = _bits("exponent", x.dtype)
    if type(x) is Symbol:
        return x._recorder.add("exponent", x.dtype, x.position)
    return ((x.view(whole) >> fraction) - bias).astype(x.dtype)


def _bits(kind: str, dtype: np.dtype[Any]) -> tuple[type, int, int]:
    """Return the integer of the width of a dtype, the bits of its fraction, and the bias of its exponents."""
    if dtype.char not in _BITS:
        raise NotElementwise(f"no kernel computes {kind} in {dtype}")
    return _BITS[dtype.char]


def record(function: Callable[..., Any], operands: Sequence[Any], static: dict[str, Any]) -> Program:
    """Return the program of a function, which is called with a symbol for each array among its operands.

    Parameters
    ----------
    function : callable
    operands : sequence of dtype, number or None
        The dtype of an array.
    static : dict of str to Any
        Other arguments.

    Raises
    ------
    NotElementwise
        If it is not elementwise, or computes in dtypes without a kernel. Another error may come from the function.

    Examples
    --------
    >>> [step.kind for step in record(lambda x: np.exp(-x), [np.dtype("float32")], {}).steps]
    ['input', 'negative', 'exp']
    """
    recorder = _Recorder()
    given = [
        recorder.add("input", x, position) if isinstance(x, np.dtype) else x for position, x in enumerate(operands)
    ]
    found = function(*given, **static)
    if type(found) is not Symbol:
        raise NotElementwise(f"the result is {type(found).__name__}")
    steps = list(recorder.steps)
    needed = {found.position}
    for position in range(found.position, -1, -1):
        if position in needed and steps[position].kind not in ("input", "number"):
            needed.update(steps[position].parts)
    order = sorted(needed)
    places = {old: new for new, old in enumerate(order)}
    inputs = [steps[old].parts[0] for old in order if steps[old].kind == "input"]
    numbers = sorted({steps[old].parts[0] for old in order if steps[old].kind == "number"})

    def moved(step: Step) -> Step:
        if step.kind == "input":
            return step._replace(parts=(inputs.index(step.parts[0]),))
        if step.kind == "number":
            return step._replace(parts=(numbers.index(step.parts[0]),))
        return step._replace(parts=tuple([places[part] for part in step.parts]))

    chosen = operator.itemgetter(*order)(steps) if len(order) > 1 else (steps[order[0]],)
    return Program(tuple(map(moved, chosen)), tuple([recorder.numbers[i] for i in numbers]), tuple(inputs))
