"""A persistent client: its id and its request numbers, in a file.

Numbers are reserved in the file before they are used, so that after a crash no number is used again for another
gradient. The file contains its own inode number: a copy of the file is another client, because the original may have
used numbers that the copy does not know.
"""

import json
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from labnet.errors import StoreError
from labnet.network.protocol.keys import Identity
from labnet.store.lock import posix_locks, take

log = logging.getLogger("labnet.network")

#: How many numbers are reserved at once.
_BLOCK = 1000


class StateFile:
    """The file of one client, for one process at a time.

    Raises
    ------
    StoreError
        If another process uses it, it is damaged, or the system has no POSIX file locks.
    OSError
        If it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]):
        posix_locks()  # before creating a file that could not be used
        self.path = Path(path).absolute()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            take(self._file)
        except OSError as error:
            os.close(self._file)
            if not isinstance(error, BlockingIOError):  # a file system without locks
                raise
            raise StoreError(f"the state file {self.path} is in use: two clients would be taken for one") from None
        try:
            self.client, self._next = self._read()
            self._given, self._pid = self._next, os.getpid()
        except BaseException:
            os.close(self._file)
            raise

    def _read(self) -> tuple[str, int]:
        text, fresh = os.pread(self._file, 4096, 0), (secrets.token_hex(16), 1)
        if not text:
            return fresh
        try:
            document = json.loads(text)
            client, following, inode = document["client"], document["next"], document["inode"]
            if not (isinstance(client, str) and len(client) == 32 and type(following) is int and following > 0):
                raise ValueError("unexpected values")
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"the state file {self.path} is damaged ({error}): delete it to go on as a new client"
            ) from error
        if inode != self._inode:
            log.warning("the state file %s is a copy: it goes on as a new client", self.path)
            return fresh
        return client, following

    @property
    def _inode(self) -> int:
        return os.fstat(self._file).st_ino

    def numbers(self) -> Iterator[int]:
        """Yield numbers that were never used before, each reserved in the file first.

        If the file cannot be written, an `OSError` is raised, and the next attempt may succeed.
        """
        return iter(self._take, 0)  # not a generator, which an error would end

    def _take(self) -> int:
        if self._pid != os.getpid():
            raise StoreError(
                f"the state file {self.path} is used by the process that this one was forked from: "
                "make the remote model in this process, with a file of its own"
            )
        if self._given == self._next:
            self._next += _BLOCK
            try:
                self._write()
            except OSError:
                self._given = self._next  # the content of the file is unknown
                raise
        self._given += 1
        return self._given - 1

    def _write(self) -> None:
        """Overwrite the file in place: it is locked and shorter than a disk sector."""
        text = json.dumps({"client": self.client, "next": self._next, "inode": self._inode}).encode()
        os.pwrite(self._file, text.ljust(128), 0)
        os.fsync(self._file)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            try:
                os.close(self._file)
            except OSError:  # already closed by a failed constructor
                return


_known: dict[Path, tuple[int, StateFile, Identity]] = {}


def identity_of(path: str | os.PathLike[str]) -> Identity:
    """Return the client of a state file; one object per file and process.

    Raises
    ------
    StoreError, OSError
        As `StateFile`.
    """
    key = Path(path).absolute()
    known = _known.get(key)
    if known is None or known[0] != os.getpid():
        file = StateFile(key)
        known = _known[key] = (os.getpid(), file, Identity(file.client, file.numbers()))
    return known[2]
