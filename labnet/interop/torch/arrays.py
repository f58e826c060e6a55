"""Arrays of NumPy as tensors of torch, and back, without a copy where the layout allows."""

from typing import Any

import numpy as np
import torch

from labnet.errors import DTypeError

Array = np.ndarray[Any, Any]


class _Memory:
    """The memory of an array that may not be written through NumPy, for torch, which has no such tensors."""

    def __init__(self, array: Array):
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self._owner = array


def from_host(array: Array, device: Any = "cpu") -> torch.Tensor:
    """Return an array as a tensor; on the CPU it shares the memory, which must not be written.

    Examples
    --------
    >>> from_host(np.ones(2, "float32")).tolist()
    [1.0, 1.0]
    """
    if any(stride < 0 for stride in array.strides):  # torch has no negative strides
        array = np.ascontiguousarray(array)
    if not array.flags.writeable:
        array = np.asarray(_Memory(array))
    found: torch.Tensor = torch.from_numpy(array)
    return found if str(device) == "cpu" else found.to(device)


def to_host(tensor: torch.Tensor) -> Array:
    """Return a tensor as an array, which shares its memory on the CPU; bfloat16 becomes float32.

    Raises
    ------
    DTypeError
        If labnet has no such dtype, such as complex numbers.

    Examples
    --------
    >>> to_host(torch.ones(2, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    tensor = tensor.data  # a detached tensor would keep the graph for as long as the array lives
    if tensor.is_complex() or tensor.is_quantized or tensor.layout not in (torch.strided, torch.sparse_coo):
        raise DTypeError(f"a torch tensor of dtype {tensor.dtype} and layout {tensor.layout} is no tensor of labnet")
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.to_dense()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    found: Array = tensor.cpu().resolve_neg().numpy()
    return found
