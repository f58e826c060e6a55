"""Inspection of dtypes and of the namespace, as in the array API standard."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet.device import CPU, check_device
from labnet.errors import DTypeError
from labnet.ops.core.dispatch import PYTHON
from labnet.tensor import DTYPES, DTypeLike, Tensor, as_array, as_dtype

DType = np.dtype[Any]

_KINDS = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "u",
    "integral": "iu",
    "real floating": "f",
    "complex floating": "",
    "numeric": "iuf",
}


@dataclass(frozen=True)
class FloatInfo:
    """The limits of a floating dtype."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True)
class IntegerInfo:
    """The limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: DType


def _dtype_of(value: Any) -> DType:
    return value.dtype if isinstance(value, Tensor) else as_dtype(value)


def in_floats(x: Any) -> Any:
    """Return an array, tensor or number with floating elements; integers get the dtype of NumPy's exponentials of them.

    Examples
    --------
    >>> in_floats(np.asarray([1, 2], "uint8")).dtype
    dtype('float16')
    """
    dtype = getattr(x, "dtype", None)
    return x if dtype is None or dtype.kind == "f" else x.astype(np.result_type(dtype, np.float16))


def finfo(type: DTypeLike | Tensor, /) -> FloatInfo:
    """Return the limits of a floating dtype.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.finfo(ln.float32).bits
    32
    """
    dtype = _dtype_of(type)
    if dtype.kind != "f":
        raise DTypeError(f"finfo: expected a floating dtype, got {dtype}; see iinfo")
    info = np.finfo(dtype)
    return FloatInfo(
        info.bits, float(info.eps), float(info.max), float(info.min), float(info.smallest_normal), DTYPES[dtype.name]
    )


def iinfo(type: DTypeLike | Tensor, /) -> IntegerInfo:
    """Return the limits of an integer dtype.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.iinfo(ln.int8).max
    127
    """
    dtype = _dtype_of(type)
    if dtype.kind not in "iu":
        raise DTypeError(f"iinfo: expected an integer dtype, got {dtype}; see finfo")
    info = np.iinfo(dtype)
    return IntegerInfo(info.bits, int(info.max), int(info.min), DTYPES[dtype.name])


def can_cast(from_: DTypeLike | Tensor, to: DTypeLike, /) -> bool:
    """Return whether the type promotion rules lead from one dtype to another.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.can_cast(ln.float32, ln.float64), ln.can_cast(ln.float64, ln.float32)
    (True, False)
    """
    return bool(np.can_cast(_dtype_of(from_), as_dtype(to)))


def isdtype(dtype: DTypeLike, kind: DTypeLike | tuple[DTypeLike, ...]) -> bool:
    """Return whether a dtype is of a kind, or of one of several kinds.

    Parameters
    ----------
    dtype : dtype
    kind : dtype, or "bool", "signed integer", "unsigned integer", "integral", "real floating",
        "complex floating", "numeric", or a tuple of these

    Examples
    --------
    >>> import labnet as ln
    >>> ln.isdtype(ln.int8, "integral"), ln.isdtype(ln.int8, ("bool", ln.int16))
    (True, False)
    """
    found = as_dtype(dtype)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return any(found.kind in _KINDS[k] if isinstance(k, str) and k in _KINDS else found == as_dtype(k) for k in kinds)


def result_type(*arrays_and_dtypes: Any) -> DType:
    """Return the result dtype of an op on these tensors, dtypes and Python numbers.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.result_type(ln.float32, ln.ones(1, dtype="float64"), 2.5)
    dtype('float64')
    """
    if arrays_and_dtypes and all(type(x) in PYTHON for x in arrays_and_dtypes):
        return as_dtype(as_array(list(arrays_and_dtypes)).dtype)
    found = np.result_type(*(x if isinstance(x, bool | int | float) else _dtype_of(x) for x in arrays_and_dtypes))
    return as_dtype(found)


class NamespaceInfo:
    """The standard's inspection functions for labnet.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.__array_namespace_info__().default_device()
    'cpu'
    """

    def capabilities(self) -> dict[str, Any]:
        """Return the supported optional behaviour."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """Return the default device of new tensors."""
        return CPU

    def default_dtypes(self, *, device: str | None = None) -> dict[str, DType]:
        """Return the default dtypes of new tensors."""
        check_device(device)
        return {"real floating": DTYPES["float32"], "integral": DTYPES["int64"], "indexing": DTYPES["int64"]}

    def devices(self) -> list[str]:
        """Return the known devices."""
        return [CPU]

    def dtypes(self, *, device: str | None = None, kind: str | tuple[str, ...] | None = None) -> dict[str, DType]:
        """Return the standard's dtypes by name, all or those of a kind; float16 is not one of them."""
        check_device(device)
        listed = {name: dtype for name, dtype in DTYPES.items() if name != "float16"}
        return {name: dtype for name, dtype in listed.items() if kind is None or isdtype(dtype, kind)}


def __array_namespace_info__() -> NamespaceInfo:  # noqa: N807
    """Return the standard's inspection functions for labnet.

    Examples
    --------
    >>> import labnet as ln
    >>> sorted(ln.__array_namespace_info__().dtypes(kind="real floating"))
    ['float32', 'float64']
    """
    return NamespaceInfo()
