"""The interface of arrays in the memory of an accelerator, as far as device dispatch uses it.

It stands apart from `labnet.kernels.cuda`, so that an array can be recognised before anything of CUDA is imported.
"""

import contextlib
from typing import Any, Protocol, Self

import numpy as np

from labnet.stats.late import Listener


class AcceleratorArray:
    """An array in the memory of an accelerator, whose values may be pending.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    """

    __slots__ = ()
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def is_pending(self) -> bool:
        """Whether the values are still to be computed."""
        raise NotImplementedError

    def materialize(self) -> Self:
        """Compute pending values, and return this array."""
        raise NotImplementedError

    def astype(self, dtype: Any, *, copy: bool = True) -> Self:
        """Return the elements in another dtype."""
        raise NotImplementedError

    def copy(self) -> Self:
        """Return the elements in memory of their own."""
        raise NotImplementedError

    def host(self) -> np.ndarray[Any, Any]:
        """Return a copy in the memory of the host."""
        raise NotImplementedError


class Clock(Protocol):
    """Times the launches of the threads that have asked for it.

    Attributes
    ----------
    asked : int
        Number of blocks under way that ask for times; each launch reads it first.
    """

    asked: int

    def telling(self, listener: Listener) -> contextlib.AbstractContextManager[None]:
        """Time the launches of a block, in this thread, and tell a listener the seconds of each."""

    def arrive(self, *, wait: bool = False) -> None:
        """Tell the times that are known by now; with `wait`, those of all launches so far."""


#: The clocks of the accelerators that this process has opened.
clocks: list[Clock] = []
