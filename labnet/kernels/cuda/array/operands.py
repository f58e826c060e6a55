"""Operands of expressions: arrays of the GPU, numbers, and the error for arrays of the host among them."""

from typing import Any

import numpy as np

from labnet.errors import DeviceError
from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.codegen.expressions import Node
from labnet.kernels.cuda.codegen.scalars import BOOL
from labnet.kernels.cuda.driver.kernel import Dtype

_NUMBERS = (int, float)


def constant(value: Any, dtype: Dtype) -> Node:
    """Return a number as an expression."""
    return Node("constant", dtype, payload=value)


def as_operand(value: Any, shape: tuple[int, ...]) -> Node:
    """Return an array or a number as a part of an expression of a shape.

    Raises
    ------
    DeviceError
        If it is an array of the host with more than one element.
    """
    if isinstance(value, DeviceArray):
        return value.operand(shape)
    if isinstance(value, bool):
        return constant(value, BOOL)
    if isinstance(value, int):
        return constant(value, np.dtype("int64"))
    if isinstance(value, float):
        return constant(value, np.dtype("float64"))
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim):
        return constant(value.item(), value.dtype)
    raise mixed(value)


def mixed(value: Any) -> DeviceError:
    """Return the error for an array of the host among those of the GPU."""
    shape = getattr(value, "shape", None)
    return DeviceError(
        f"expected all tensors on 'cuda', got one of shape {shape} on 'cpu': move it with .to('cuda'), "
        "or the others with .to('cpu')"
    )


def promotion_type(value: Any) -> Any:
    """Return the type or dtype by which NumPy promotes an operand."""
    kind = type(value)
    return BOOL if kind is bool else kind if kind in _NUMBERS else value.dtype
