"""The servers of this process, by port."""

import atexit
import os
import threading
from typing import TYPE_CHECKING, cast

from labnet.network import blas_threads
from labnet.network.port import Port

if TYPE_CHECKING:
    from labnet.network.server import Server

_lock = threading.RLock()
#: What is bound.
ports: dict[int, Port] = {}


def lock() -> threading.RLock:
    """Return what keeps two threads from serving at once; a forked child has its own."""
    return _lock


def add(port: Port) -> None:
    """Take note that a port serves."""
    with _lock:
        blas_threads.limit()
        ports[port.port] = port


def remove(number: int) -> bool:
    """Forget a port, and tell whether it was there."""
    with _lock:
        known = ports.pop(number, None) is not None
        if not ports:
            blas_threads.restore()
        return known


def servers() -> "dict[int, Server]":
    """Return the running servers of this process by port."""
    with _lock:
        return {number: cast("Server", port.owner) for number, port in ports.items() if port.owner is not None}


def _forget() -> None:
    """Leave the servers to the parent in a forked child."""
    global _lock
    _lock = threading.RLock()
    for port in ports.values():
        port.abandon()
    ports.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@atexit.register
def _stop_all() -> None:
    for server in list(servers().values()):
        server.stop()
