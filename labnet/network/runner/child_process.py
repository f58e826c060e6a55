"""The child processes of a runner, one per model file."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Most log lines per model, and most characters per line.
LINES = 10_000
_CHARACTERS = 4096

_STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Order:
    """The model that a child serves.

    Attributes
    ----------
    path : str
        The model file.
    name : str
        Name of the server.
    model, optimizer, lr
        As for `ModelFile.load` and `ModelFile.optimizer`.
    host : str
        Address to bind.
    """

    path: str
    name: str
    model: str | None
    optimizer: str | None
    lr: float | None
    host: str


class Child:
    """A process that serves one model file.

    Attributes
    ----------
    name : str
        Name of the model.
    folder : Path
        Folder with its file, and its working directory.
    port, token : int, str
        Port and token of its server, available after `wait_ready`.
    """

    def __init__(self, order: Order):
        self.name = order.name
        self.port = 0
        self.token = ""
        self._lines: deque[str] = deque(maxlen=LINES)
        self._answer: dict[str, Any] | None = None
        self._answered = threading.Event()
        self._mark = f"labnet-{secrets.token_hex(16)} "
        self.folder = Path(order.path).parent
        self._process = subprocess.Popen(
            # -P: a model file may have the name of a standard library module
            [sys.executable, "-P", "-u", "-m", "labnet.network.runner.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": _search_path(), "PYTHONIOENCODING": "utf-8"},
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=read, name=f"labnet-child-{order.name}", daemon=True)
            for read in (self._read_answer, self._read_logs)
        ]
        for reader in self._readers:
            reader.start()
        self._send({**vars(order), "mark": self._mark})

    @property
    def returncode(self) -> int | None:
        """Exit status of the process; None while it runs."""
        return self._process.poll()

    def wait_ready(self, timeout: float) -> str | None:
        """Wait until the model is served; return an error message, or None."""
        if not self._answered.wait(timeout):
            return f"the model was not served within {timeout:g} s"
        answer = self._answer
        if answer is None:
            return f"the process ended with status {self._process.wait()} before it served the model"
        if "error" in answer:
            return str(answer["error"])
        self.port, self.token = answer["port"], answer["token"]
        return None

    def logs(self) -> list[str]:
        """Return the lines that the process has written."""
        return list(self._lines)

    def stop(self) -> None:
        """Stop the process: let it finish running requests, then kill it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the process has ended without reading the order
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(_STOP_SECONDS)

    def _send(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the process has ended: its output says why
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def _read_answer(self) -> None:
        """Read the answer; skip output of Python's startup."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                before, mark, answer = line.partition(self._mark)
                if text := before.rstrip("\n"):
                    self._lines.append(text)
                if mark:
                    self._answer = json.loads(answer)
                    self._answered.set()
        self._answered.set()

    def _read_logs(self) -> None:
        """Collect the output of the model."""
        assert self._process.stderr is not None
        with self._process.stderr as output:
            for line in iter(lambda: output.readline(_CHARACTERS), ""):
                self._lines.append(line.rstrip("\n"))
        self._lines.append(f"the process ended with status {self._process.wait()}")


def _search_path() -> str:
    """Return the module search path of this process, for a child in another working directory."""
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    return os.pathsep.join([str(Path(__file__).parents[2]), *map(os.path.abspath, places)])
