"""Capture of the models' output and log on a worker, by thread."""

import io
import logging
import sys
import threading
from collections import deque
from typing import Any, TextIO

_LINES, _CHARACTERS = 10_000, 4096


class Capture:
    r"""The last lines of output of each part that this process serves.

    Examples
    --------
    >>> capture = Capture()
    >>> with capture.of_this_thread("encoder/0"):
    ...     capture.write("a line\n")
    >>> capture.lines("encoder/0")
    ['a line']
    """

    def __init__(self) -> None:
        self._parts: dict[int, str] = {}
        self._lines: dict[str, deque[str]] = {}
        self._begun: dict[int, str] = {}
        self._handler = _Handler(self)
        self._tees: list[_Tee] = []

    def install(self) -> None:
        """Start capturing output and log of this process."""
        logging.getLogger().addHandler(self._handler)
        sys.stdout = _Tee(self, sys.stdout)
        sys.stderr = _Tee(self, sys.stderr)
        self._tees = [sys.stdout, sys.stderr]

    def remove(self) -> None:
        """Stop capturing; leave streams that others have replaced meanwhile."""
        logging.getLogger().removeHandler(self._handler)
        for name, tee in zip(("stdout", "stderr"), self._tees, strict=False):
            if getattr(sys, name) is tee:
                setattr(sys, name, tee.behind)

    def of_this_thread(self, part: str) -> "_Speaking":
        """Return a context in which output of this thread belongs to a part."""
        return _Speaking(self, part)

    def belongs(self, thread: int | None, part: str | None) -> None:
        """Assign the output of a thread to a part, or to none."""
        if thread is not None and part is not None:
            self._parts[thread] = part
            self._lines.setdefault(part, deque(maxlen=_LINES))
        elif thread is not None:
            self._parts.pop(thread, None)
            self._begun.pop(thread, None)

    def write(self, text: str) -> None:
        """Capture output of this thread if it belongs to a part."""
        thread = threading.get_ident()
        part = self._parts.get(thread)
        if part is None:
            return
        *lines, rest = (self._begun.pop(thread, "") + text).split("\n")
        self._lines[part].extend(line[:_CHARACTERS] for line in lines)
        if rest:
            self._begun[thread] = rest[-_CHARACTERS:]

    def lines(self, part: str) -> list[str]:
        """Return the output of a part, oldest line first."""
        return list(self._lines.get(part, ()))


class _Speaking:
    def __init__(self, capture: Capture, part: str):
        self._capture, self._part = capture, part

    def __enter__(self) -> None:
        self._capture.belongs(threading.get_ident(), self._part)

    def __exit__(self, *exception: object) -> None:
        self._capture.belongs(threading.get_ident(), None)


class _Tee(io.TextIOBase):
    """A stream that forwards and captures what is written to it."""

    def __init__(self, capture: Capture, behind: TextIO):
        self.behind = behind
        self._capture = capture

    def write(self, text: str) -> int:
        self._capture.write(text)
        return self.behind.write(text)

    def flush(self) -> None:
        self.behind.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


class _Handler(logging.Handler):
    def __init__(self, capture: Capture):
        super().__init__()
        self._capture = capture
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._capture.write(self.format(record) + "\n")
