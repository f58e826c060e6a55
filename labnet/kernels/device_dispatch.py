"""Where arrays lie: NumPy's in the memory of the host, those of `labnet.kernels.cuda` in that of a GPU.

Nothing of CUDA is imported before the first array goes there.
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


def is_elsewhere(value: Any) -> bool:
    """Tell whether something is an array on a GPU."""
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
    """Return what a computation gave as an array: of the host, or of the GPU with nothing pending, see `Together`."""
    if isinstance(value, AcceleratorArray):
        value = value if dtype is None else value.astype(dtype, copy=False)
        return value if _threads.together else value.settle()
    return np.asarray(value, dtype)


class _Threads(threading.local):
    together = False


_threads = _Threads()


class Together:
    """A block whose results stay pending on a GPU until somebody needs them: several ops become one kernel.

    Who leaves the block settles what is handed out.

    Examples
    --------
    >>> with Together():
    ...     finished(1.0)
    array(1.)
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before, _threads.together = _threads.together, True

    def __exit__(self, *_: object) -> None:
        _threads.together = self._before


def moved(array: Any, device: str) -> Any:
    """Return an array on a device: the same one where it is there.

    Raises
    ------
    DeviceError
        If there is no GPU, or what it takes to use one is not installed.
    """
    if device == CPU:
        return array.host() if isinstance(array, AcceleratorArray) else array
    if isinstance(array, AcceleratorArray):
        return array
    from labnet.kernels.cuda.array.array import DeviceArray

    return DeviceArray.upload(array)


def carried_out(body: Callable[..., Any], *arrays: Any, **static: Any) -> Any:
    """Return what the body of an op gives; on a GPU its kernel is launched at once where it is known.

    Examples
    --------
    >>> carried_out(np.add, np.ones(2), 1.0)
    array([2., 2.])
    """
    if not _threads.together:
        for array in arrays:
            if not isinstance(array, AcceleratorArray) or array.is_pending:
                break
        else:
            return _repeating()(body, arrays, static)
    return body(*arrays, **static)


@functools.cache
def _repeating() -> Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]:
    from labnet.kernels.cuda.array.plan_cache import carried_out as again

    return again


def settle(*values: Any) -> None:
    """Have what is pending of arrays on a GPU launched, so that it is part of what is being counted."""
    for value in values:
        if isinstance(value, AcceleratorArray):
            value.settle()


def timed(listener: Listener) -> contextlib.AbstractContextManager[None]:
    """Have a listener told, once it is known, how long each launch of a block takes on the GPU; nothing waits for it.

    Examples
    --------
    >>> from labnet.stats.operations import Later
    >>> with timed(Later("add", ())):  # launches nothing
    ...     pass
    """
    return clocks[0].telling(listener) if clocks else _NOTHING


def copied(array: Any) -> Any:
    """Return a copy of an array, where it lies."""
    return array.copy() if isinstance(array, AcceleratorArray) else np.array(array, copy=True)
