"""The command line in processes that start in milliseconds: forked from one that has imported everything.

``python -m tests.helpers.command_fork SOCKET`` waits on a Unix socket. A connection sends a line of JSON, and the files
that become standard input, output and error of a forked process; that carries the command out as ``python -m labnet``
does, and answers with its exit status.
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
import threading
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Forge:
    """A process that forks commands."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._path = str(Path(self._folder.name) / "socket")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.command_fork", self._path],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout.readline(), "it did not start"

    def run(self, *arguments, given=b"", seconds, **environment):
        """Carry a command out; returns what `subprocess.run` does, in bytes."""
        order = {
            "arguments": list(map(str, arguments)),
            "environment": {**os.environ, **{name: str(value) for name, value in environment.items()}},
        }
        with (
            tempfile.TemporaryFile() as source,
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as errors,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            source.write(given)
            source.seek(0)
            connection.settimeout(seconds)
            connection.connect(self._path)
            files = [source.fileno(), output.fileno(), errors.fileno()]
            socket.send_fds(connection, [b"files"], files)
            connection.sendall(json.dumps(order).encode() + b"\n")
            with connection.makefile() as answers:
                status = answers.readline()
            assert status, "it died"
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(arguments, int(status), output.read(), errors.read())

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()


@functools.cache
def forge():
    """Return the one of this process, which ends with it."""
    made = Forge()
    atexit.register(made.close)
    return made


def carry_out(arguments):
    """Do what Python does with ``-m labnet``, and return the exit status."""
    from labnet.cli import main

    sys.argv = ["labnet", *arguments]
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return int(status or 0)


def serve(path):
    import labnet
    import labnet.cli
    import labnet.network

    assert labnet
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
            status = 1
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                _, files, _, _ = socket.recv_fds(connection, len(b"files"), 3)
                with connection.makefile() as lines:
                    order = json.loads(lines.readline())
                for number, file in enumerate(files):
                    os.dup2(file, number)
                    os.close(file)
                os.environ.clear()
                os.environ.update(order["environment"])
                sys.stdin, sys.stdout, sys.stderr = (
                    os.fdopen(number, mode, closefd=False) for number, mode in enumerate(["r", "w", "w"])
                )
                status = carry_out(order["arguments"])
            finally:
                with contextlib.suppress(OSError):  # whoever asked has given up
                    connection.sendall(f"{status}\n".encode())
                os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
