"""Python's operators on arrays, each by the universal function of NumPy."""

from typing import Any

import numpy as np

#: Priority among operands; that of NumPy's arrays is 0.
_PRIORITY = 500.0


class Operators:
    """Arithmetic, comparisons and bits, with the operands swapped and in place."""

    __slots__ = ()
    __array_priority__ = _PRIORITY
    __add__: Any
    __floordiv__: Any
    __ge__: Any
    __lt__: Any
    __mod__: Any
    __mul__: Any
    __rmul__: Any
    __rsub__: Any
    __sub__: Any
    __truediv__: Any

    def __neg__(self: Any) -> Any:
        return np.negative(self)

    def __pos__(self: Any) -> Any:
        return np.positive(self)

    def __abs__(self: Any) -> Any:
        return np.abs(self)

    def __invert__(self: Any) -> Any:
        return np.invert(self)


def _defers_to(other: Any) -> bool:
    """Return whether the other operand has the higher priority, as a tensor has; NumPy's arrays ask the same."""
    return not isinstance(other, Operators) and getattr(other, "__array_priority__", 0.0) > _PRIORITY


def _define(ufunc: Any, name: str) -> None:
    """Give the class an operator, its form with the operands swapped, and the one that writes into the first."""

    def operator(self: Operators, other: Any) -> Any:
        return NotImplemented if _defers_to(other) else ufunc(self, other)

    def swapped(self: Operators, other: Any) -> Any:
        return NotImplemented if _defers_to(other) else ufunc(other, self)

    def in_place(self: Operators, other: Any) -> Any:
        return ufunc(self, other, out=(self,))

    setattr(Operators, f"__{name}__", operator)
    if ufunc not in _COMPARISONS:
        setattr(Operators, f"__r{name}__", swapped)
        setattr(Operators, f"__i{name}__", in_place)


_COMPARISONS = {np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal}
for _name, _function in {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "pow": np.power,
    "matmul": np.matmul,
    "lshift": np.left_shift,
    "rshift": np.right_shift,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}.items():
    _define(_function, _name)
