"""Access to Python's tuples and NumPy's arrays from machine code, and the options of all kernels."""

# mypy: ignore-errors
# Numba finds the types.

from typing import Any

from llvmlite import ir
from numba import float32, int64, njit, types
from numba.extending import intrinsic

from labnet.kernels.machine_code.array_layout import DATA, DTYPE, FLAGS, HEAD, ITEMS, NDIM, READ, SHAPE

#: A kernel divides by zero as NumPy does. The functions that it calls lie inside of it.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}
INSIDE = {**OPTIONS, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
#: Functions that are compiled once for all of their callers.
APART = {**INSIDE, "forceinline": False}
#: Flags of an array that is writeable too.
WRITE = READ | 0x400

Pointer = types.CPointer(float32)
allocate = types.ExternalFunction("malloc", int64(int64))
free = types.ExternalFunction("free", types.void(int64))


@intrinsic
def word(context: Any, address: Any) -> Any:
    """Read eight bytes as an integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))

    return int64(int64), generate


@intrinsic
def floats(context: Any, address: Any) -> Any:
    """Return an address as a pointer to float32 numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return Pointer(int64), generate


@intrinsic
def integers(context: Any, address: Any) -> Any:
    """Return an address as a pointer to int64 numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())

    return types.CPointer(int64)(int64), generate


@njit(**INSIDE)
def item(arrays, index):
    """Return the address of an item of a tuple."""
    return word(arrays + ITEMS + 8 * index)


@njit(**INSIDE)
def count_of(arrays):
    """Return the number of items of a tuple."""
    return word(arrays + HEAD)


@njit(**INSIDE)
def data_of(array):
    """Return the pointer to the elements of an array."""
    return floats(word(array + DATA))


@njit(**INSIDE)
def length(array, axis):
    """Return the length of a dimension."""
    return word(word(array + SHAPE) + 8 * axis)


@njit(**INSIDE)
def has(array, flags, dtype):
    """Return whether an array has this dtype and these flags."""
    described = word(word(array + DTYPE) + HEAD + 8)
    return (described & 0xFFFFFF) == dtype and (word(array + FLAGS) & flags) == flags


@njit(**INSIDE)
def wanted(item, like):
    """Return whether an item has the type of `like`, an array, rather than being None."""
    return word(item + HEAD - 8) == word(like + HEAD - 8)


@njit(**INSIDE)
def suits(array, ndim, flags, dtype):
    """Return whether an array has this number of dimensions, these flags and this dtype."""
    return (word(array + NDIM) & 0xFFFFFFFF) == ndim and has(array, flags, dtype)


@njit(**INSIDE)
def flat_size(array, flags, dtype):
    """Return the number of elements of an array of any shape, -1 if it does not fit."""
    if not has(array, flags, dtype):
        return -1
    size = 1
    for axis in range(word(array + NDIM) & 0xFFFFFFFF):
        size *= length(array, axis)
    return size
