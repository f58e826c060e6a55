"""Servers that start in milliseconds: forked from a process that has imported everything they need.

``python -m tests.helpers.network.fork_server SOCKET`` waits on a Unix socket. A connection sends the name of a program,
such as `tests.helpers.network.store_server`, and its arguments, as a line of JSON. It becomes input and output of a
forked process that runs the program.
"""

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tests.helpers.constants import ROOT


class ForkServer:
    """A process that forks servers; `prefix` is a command that it is run by, such as one that enters a namespace."""

    def __init__(self, prefix=(), **environment):
        self._folder = tempfile.TemporaryDirectory()
        self._path = str(Path(self._folder.name) / "socket")
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.helpers.network.fork_server", self._path],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if "CHAOS_LOUD" in os.environ else subprocess.DEVNULL,  # servers say what fails, many times
            text=True,
        )
        assert self._process.stdout.readline(), "the fork server did not start"

    def start(self, *arguments, program="store_server", before=lambda pid: None, **environment):
        """Start a server, and do something with its process before it opens its store."""
        here = {name: value for name, value in os.environ.items() if name == "LABNET_TRANSPORT"}
        order = {"program": program, "arguments": list(map(str, arguments)), "environment": here | environment}
        return ForkedServer(self._path, order, before)

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class ForkedServer:
    """A server that was forked.

    Attributes
    ----------
    said : dict or None
        What it says of itself; None if it died before that.
    """

    def __init__(self, path, order, before):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._file = self._socket.makefile("r")
        self._send(order)
        self.pid = int(self._file.readline())
        self._alive = os.pidfd_open(self.pid)
        before(self.pid)
        with contextlib.suppress(OSError):
            self._send("go")
        self.said = None
        with contextlib.suppress(OSError):
            lines = (line for line in self._file if line.startswith("{"))  # a server that is open to others says so
            self.said = json.loads(next(lines, "null"))

    def _send(self, value):
        self._socket.sendall(json.dumps(value).encode() + b"\n")

    @property
    def is_alive(self):
        return self._alive is not None and not select.select([self._alive], [], [], 0)[0]

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def rest(self):
        """Return what it says until it ends."""
        with contextlib.suppress(OSError):  # killed, and something was not read
            return self._file.read()
        return ""

    def wait(self):
        """Wait until it has ended, and everything that it held is free."""
        if self._alive is None:
            return
        select.select([self._alive], [], [])
        os.close(self._alive)
        self._alive = None
        self._file.close()
        self._socket.close()

    def end(self):
        """Stop it in an orderly way; returns what it says meanwhile."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        said = self.rest() if self._alive is not None else ""
        self.wait()
        return said

    def kill(self):
        self.signal(signal.SIGKILL)
        self.wait()


@functools.cache
def fork_server():
    """Return the fork server of this process, which ends with it."""
    made = ForkServer()
    atexit.register(made.close)
    return made


@contextlib.contextmanager
def forked_server(*arguments, program):
    """Run a program of the fork server; gives what it says about its server."""
    server = fork_server().start(*arguments, program=program)
    try:
        yield server.said
    finally:
        server.end()


def main(path):
    from tests.helpers.network import example_servers, replica_server, store_server, trainers

    programs = {
        module.__name__.rpartition(".")[2]: module
        for module in (example_servers, replica_server, store_server, trainers)
    }

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in readable:
                return
            connection, _ = listener.accept()
            if os.fork():
                connection.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            os.dup2(connection.fileno(), 0)
            os.dup2(connection.fileno(), 1)
            connection.close()
            order = json.loads(sys.stdin.readline())
            os.environ.update(order["environment"])
            print(os.getpid(), flush=True)
            sys.stdin.readline()
            try:
                programs[order["program"]].main(*order["arguments"])
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
            os._exit(0)  # and nothing of what could not be said is said after all


if __name__ == "__main__":
    main(*sys.argv[1:])
