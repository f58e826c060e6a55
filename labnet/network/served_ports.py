"""The servers of this process, by port."""

import contextlib
import os
import threading
from collections.abc import Iterator

from labnet.network import blas_threads
from labnet.network.server.port import Owner, Port
from labnet.network.threads import runs_handlers

_lock = threading.RLock()  # held while `ports` is looked at or changed
_turn = threading.RLock()  # held by the thread that serves or stops, which may wait for handlers
#: What is bound.
ports: dict[int, Port] = {}


@contextlib.contextmanager
def turn() -> Iterator[bool]:
    """Let one thread serve or stop at a time; yield whether it is the caller's turn.

    Every thread waits for that, except those of handlers: whoever has the turn may be waiting for the handler.
    """
    lock = _turn  # a child that is forked meanwhile has another one
    mine = lock.acquire(blocking=not runs_handlers())
    try:
        yield mine
    finally:
        if mine:
            lock.release()


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


def owners() -> dict[int, Owner]:
    """Return what serves on the ports of this process."""
    with _lock:
        return {number: port.owner for number, port in ports.items() if port.owner is not None}


def _forget() -> None:
    """Leave the servers to the parent in a forked child."""
    global _lock, _turn
    _lock, _turn = threading.RLock(), threading.RLock()
    for port in ports.values():
        port.abandon()
    ports.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
