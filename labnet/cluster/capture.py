"""What models write on a worker: lines of output and of the log, by the thread that wrote them."""

import io
import logging
import sys
import threading
from collections import deque
from typing import Any, TextIO

_LINES, _CHARACTERS = 10_000, 4096


class Capture:
    r"""Keeps the last lines of each part of a model that this process serves.

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
        """Listen to output and log of this process."""
        logging.getLogger().addHandler(self._handler)
        sys.stdout = _Tee(self, sys.stdout)
        sys.stderr = _Tee(self, sys.stderr)
        self._tees = [sys.stdout, sys.stderr]

    def remove(self) -> None:
        """Listen no more; what others have put in front stays."""
        logging.getLogger().removeHandler(self._handler)
        for name, tee in zip(("stdout", "stderr"), self._tees, strict=False):
            if getattr(sys, name) is tee:
                setattr(sys, name, tee.behind)

    def of_this_thread(self, part: str) -> "_Speaking":
        """Return a context in which what this thread writes belongs to a part."""
        return _Speaking(self, part)

    def belongs(self, thread: int | None, part: str | None) -> None:
        """Take what a thread writes for a part's, or for nobody's."""
        if thread is not None and part is not None:
            self._parts[thread] = part
            self._lines.setdefault(part, deque(maxlen=_LINES))
        elif thread is not None:
            self._parts.pop(thread, None)
            self._begun.pop(thread, None)

    def write(self, text: str) -> None:
        """Take what this thread writes, if it belongs to a part."""
        thread = threading.get_ident()
        part = self._parts.get(thread)
        if part is None:
            return
        *lines, rest = (self._begun.pop(thread, "") + text).split("\n")
        self._lines[part].extend(line[:_CHARACTERS] for line in lines)
        if rest:
            self._begun[thread] = rest[-_CHARACTERS:]

    def lines(self, part: str) -> list[str]:
        """Return what a part has written, oldest first."""
        return list(self._lines.get(part, ()))


class _Speaking:
    def __init__(self, capture: Capture, part: str):
        self._capture, self._part = capture, part

    def __enter__(self) -> None:
        self._capture.belongs(threading.get_ident(), self._part)

    def __exit__(self, *exception: object) -> None:
        self._capture.belongs(threading.get_ident(), None)


class _Tee(io.TextIOBase):
    """A stream that hands on what is written to it, and has it noted."""

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
