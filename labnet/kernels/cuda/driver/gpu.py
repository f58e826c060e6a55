"""The GPU of this process, or Numba's simulator where that was asked for.

It is opened for the first array, not before: that takes a second.
"""

import os
import threading
from importlib import import_module
from typing import Any

from labnet.errors import DeviceError
from labnet.kernels import accelerator
from labnet.kernels.cuda.driver.compiler import HINT
from labnet.kernels.cuda.driver.driver import Driver
from labnet.kernels.cuda.driver.simulator import Simulator

_lock = threading.Lock()
_found: Any = None


def wants_simulator() -> bool:
    """Return whether the environment asks for Numba's simulator."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def current_gpu() -> Any:
    """Return the `Driver`, or the `Simulator`.

    Raises
    ------
    DeviceError
        If neither is available.
    """
    global _found
    if _found is None:
        with _lock:
            if _found is None:
                _found = _open()
                accelerator.clocks.append(_found.clock)
    return _found


def _open() -> Any:
    if not wants_simulator():
        return Driver()
    try:
        config: Any = import_module("numba.core.config")
        if not config.ENABLE_CUDASIM:
            raise DeviceError(
                "device 'cuda' is not available: Numba was imported before NUMBA_ENABLE_CUDASIM was set; "
                "set it before Python starts"
            )
        return Simulator()
    except ImportError as error:
        raise DeviceError(f"{HINT} ({error})") from error
