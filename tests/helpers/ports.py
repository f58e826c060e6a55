"""Ports for servers that a test starts later, or again."""

import contextlib
import itertools
import os
import secrets
import socket

#: Below the ports that the system gives to outgoing connections and to servers that ask for any port.
_FIRST, _EACH, _PROCESSES = 16_000, 2_000, 8
_drawn = itertools.count(secrets.randbelow(_EACH))


def free_port():
    """Return a port that is free and stays so: each process of pytest-xdist has ports of its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker % _PROCESSES * _EACH
    while True:
        port = first + next(_drawn) % _EACH
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
