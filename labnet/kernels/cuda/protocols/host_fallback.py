"""Functions without a kernel: their arrays go to the host, NumPy computes, and the results come back."""

from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray


def to_host(value: Any) -> Any:
    """Return a value with each array of the GPU replaced by a copy on the host."""
    if isinstance(value, DeviceArray):
        return value.host()
    if isinstance(value, tuple | list):
        return type(value)(map(to_host, value))
    return value


def to_device(value: Any) -> Any:
    """Return a value with each array of the host replaced by a copy on the GPU."""
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray.upload(np.asarray(value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(to_device, value))
    if isinstance(value, tuple | list):
        return type(value)(map(to_device, value))
    return value


def on_host(function: Any, args: Any, named: dict[str, Any]) -> Any:
    """Call a function of NumPy with copies on the host, and return its results on the GPU."""
    with np.errstate(all="ignore"):
        found = function(*map(to_host, args), **{name: to_host(value) for name, value in named.items()})
    return to_device(found)
