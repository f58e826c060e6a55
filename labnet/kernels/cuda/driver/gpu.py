"""The GPU of this process, or Numba's simulator where that was asked for.

It is opened for the first array, not before: that takes a second.
"""

import os
import threading
from importlib import import_module
from typing import Any

from labnet.errors import DeviceError
from labnet.kernels import accelerator

_lock = threading.Lock()
_found: Any = None


def wants_simulator() -> bool:
    """Tell whether Numba's simulator was asked for."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def machine() -> Any:
    """Return the `Driver`, or the `Simulator`.

    Raises
    ------
    DeviceError
        If neither is possible.
    """
    global _found
    if _found is None:
        with _lock:
            if _found is None:
                _found = _take()
                accelerator.clocks.append(_found.clock)
    return _found


def _take() -> Any:
    from labnet.kernels.cuda.driver.compiler import HINT

    if wants_simulator():
        try:
            config: Any = import_module("numba.core.config")
            from labnet.kernels.cuda.driver.simulator import Simulator
        except ImportError as error:
            raise DeviceError(f"{HINT} ({error})") from error
        if not config.ENABLE_CUDASIM:
            raise DeviceError(
                "device 'cuda' is not available: Numba was imported before NUMBA_ENABLE_CUDASIM was set; "
                "set it before Python starts"
            )
        try:
            return Simulator()
        except ImportError as error:
            raise DeviceError(f"{HINT} ({error})") from error
    from labnet.kernels.cuda.driver.driver import Driver

    return Driver()
