"""The servers of this process, by port."""

import contextlib
import os
import threading
from collections.abc import Iterator

from labnet.network import blas_threads
from labnet.network.server.port import Owner, Port
from labnet.network.threads import runs_handlers

_lock = threading.RLock()  # held while `ports` is read or changed
_turn = threading.RLock()  # held by the thread that serves or stops, which may wait for handlers to finish
#: The bound ports.
ports: dict[int, Port] = {}


@contextlib.contextmanager
def turn() -> Iterator[bool]:
    """Lock serving and stopping to one thread; yield whether the caller has the lock.

    Every thread waits for the lock except handler threads, because its owner may be waiting for a handler.
    """
    lock = _turn  # a child that was forked meanwhile has a new lock
    mine = lock.acquire(blocking=not runs_handlers())
    try:
        yield mine
    finally:
        if mine:
            lock.release()


def add(port: Port) -> None:
    """Register a port."""
    with _lock:
        blas_threads.limit()
        ports[port.port] = port


def remove(number: int) -> bool:
    """Remove a port; return whether it was registered."""
    with _lock:
        known = ports.pop(number, None) is not None
        if not ports:
            blas_threads.restore()
        return known


def owners() -> dict[int, Owner]:
    """Return the owners of this process's ports."""
    with _lock:
        return {number: port.owner for number, port in ports.items() if port.owner is not None}


def _forget() -> None:
    """Leave the servers to the parent process, in a forked child."""
    global _lock, _turn
    _lock, _turn = threading.RLock(), threading.RLock()
    for port in ports.values():
        port.abandon()
    ports.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
