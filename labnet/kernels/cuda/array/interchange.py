"""Arrays of other libraries on the same GPU, shared without a copy."""

from typing import Any

import numpy as np

from labnet.errors import DTypeError
from labnet.kernels.cuda.array.array import DeviceArray, layout_at
from labnet.kernels.cuda.array.dlpack import unpacked
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import CASTS


class Borrowed:
    """Memory of another library, whose owner is kept alive."""

    __slots__ = ("address", "nbytes", "owner")

    def __init__(self, address: int, nbytes: int, owner: Any):
        self.address, self.nbytes, self.owner = address, nbytes, owner


def from_interface(owner: Any) -> DeviceArray:
    """Return the array that ``__cuda_array_interface__`` describes.

    Raises
    ------
    DTypeError
        If labnet has no such dtype.
    """
    told = owner.__cuda_array_interface__
    dtype = np.dtype(told["typestr"])
    if dtype not in CASTS and dtype.kind != "b":
        raise DTypeError(
            f"asarray: cannot make a tensor of dtype {dtype}: expected one of {', '.join(map(str, CASTS))}"
        )
    if told.get("mask") is not None:
        raise DTypeError("asarray: an array on the GPU with a mask cannot become a tensor")
    current_gpu().wait_for(told.get("stream"))
    address, read_only = told["data"]
    found = borrowed(address or 0, tuple(told["shape"]), told.get("strides"), dtype, owner)
    return found.copy() if read_only else found


def borrowed(address: int, shape: tuple[int, ...], strides: Any, dtype: Any, owner: Any) -> DeviceArray:
    """Return an array in the memory of another library; strides may spread it over more than its own bytes."""
    found = DeviceArray.__new__(DeviceArray)
    found.dtype, found.base, found.expression = dtype, None, None
    layout = layout_at(address, shape, dtype, None if strides is None else tuple(strides))
    first, end = np.lib.array_utils.byte_bounds(layout) if layout.size else (address, address)
    found.set_layout(layout)
    found.block = Borrowed(first, end - first, owner)  # type: ignore[assignment]
    return found


def from_dlpack(owner: Any) -> DeviceArray:
    """Return the array of an object with DLPack, by ``__cuda_array_interface__`` if it has that too."""
    if hasattr(owner, "__cuda_array_interface__"):
        return from_interface(owner)
    address, shape, strides, dtype, read_only, kept = unpacked(owner)
    found = borrowed(address, shape, strides, dtype, kept)
    return found.copy() if read_only else found
