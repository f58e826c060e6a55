"""Dispatch by device: finds the device of an array, moves arrays, and runs the body of an op on the device.

Arrays of NumPy are in the memory of the host, those of `labnet.kernels.cuda` in that of a GPU. Nothing of CUDA is
imported before the first array is moved there.
"""

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from labnet.device import CPU, CUDA
from labnet.kernels.accelerator import AcceleratorArray, clocks
from labnet.stats.late import Listener

_ndarray = np.ndarray
_NOTHING = contextlib.nullcontext()


def is_on_gpu(value: Any) -> bool:
    """Return whether a value is an array on a GPU."""
    return isinstance(value, AcceleratorArray)


def device_of(array: Any) -> str:
    """Return the name of the device that holds an array.

    Examples
    --------
    >>> device_of(np.zeros(2))
    'cpu'
    """
    return CPU if type(array) is _ndarray or not isinstance(array, AcceleratorArray) else CUDA


def finished(value: Any, dtype: Any = None) -> Any:
    """Return a result as an array, of NumPy or of the GPU; the latter materialized, outside of `Deferred`."""
    if isinstance(value, AcceleratorArray):
        value = value if dtype is None else value.astype(dtype, copy=False)
        return value if _threads.is_deferred else value.materialize()
    return np.asarray(value, dtype)


class _Threads(threading.local):
    is_deferred = False


_threads = _Threads()


class Deferred:
    """A block whose results stay pending on a GPU until they are needed, so that several ops become one kernel.

    After the block, the caller materializes the results that it returns.

    Examples
    --------
    >>> with Deferred():
    ...     finished(1.0)
    array(1.)
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before, _threads.is_deferred = _threads.is_deferred, True

    def __exit__(self, *_: object) -> None:
        _threads.is_deferred = self._before


def moved(array: Any, device: str) -> Any:
    """Return an array on a device: the same array if it is there.

    Raises
    ------
    DeviceError
        If there is no GPU, or the packages that use one are not installed.
    """
    if device == CPU:
        return array.host() if isinstance(array, AcceleratorArray) else array
    if isinstance(array, AcceleratorArray):
        return array
    from labnet.kernels.cuda.array.array import DeviceArray

    return DeviceArray.upload(array)


def execute_body(body: Callable[..., Any], *arrays: Any, **static: Any) -> Any:
    """Return the result of the body of an op; on a GPU a cached plan is launched in its place.

    Examples
    --------
    >>> execute_body(np.add, np.ones(2), 1.0)
    array([2., 2.])
    """
    if not _threads.is_deferred:
        for array in arrays:
            if not isinstance(array, AcceleratorArray) or array.is_pending:
                break
        else:
            return _plan_cache()(body, arrays, static)
    return body(*arrays, **static)


@functools.cache
def _plan_cache() -> Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]:
    from labnet.kernels.cuda.array.plan_cache import execute

    return execute


def materialize(*values: Any) -> None:
    """Launch the pending work of arrays on a GPU."""
    for value in values:
        if isinstance(value, AcceleratorArray):
            value.materialize()


def timed(listener: Listener) -> contextlib.AbstractContextManager[None]:
    """Tell a listener the time of each launch of a block on the GPU, when it is known; no launch waits for that.

    Examples
    --------
    >>> from labnet.stats.operations import Later
    >>> with timed(Later("add", ())):  # launches nothing
    ...     pass
    """
    return clocks[0].telling(listener) if clocks else _NOTHING


def copied(array: Any) -> Any:
    """Return a copy of an array on its device."""
    return array.copy() if isinstance(array, AcceleratorArray) else np.array(array, copy=True)
