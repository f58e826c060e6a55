"""The lock of a store's folder, and the POSIX file locks that it is made of: given up when their process ends."""

import contextlib
import errno
import os
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from labnet.errors import StoreError

#: What file systems answer that lock files and not folders.
_NO_FOLDERS = (errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOTSUP)


def posix_locks() -> ModuleType:
    """Return the module of POSIX file locks.

    Raises
    ------
    StoreError
        If this system has none.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        raise StoreError(
            "stores and state files need POSIX file locks, which this system does not have: leave out store= and state="
        ) from None
    return fcntl


def take(descriptor: int, *, unless: Collection[int] = ()) -> None:
    """Lock an open file or folder for this process, without waiting; do nothing where that fails with an errno.

    Raises
    ------
    BlockingIOError
        If it is locked already.
    OSError
        If it cannot be locked.
    StoreError
        As `posix_locks`.
    """
    fcntl = posix_locks()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in unless:
            raise


class Lock:
    """The right to write to a folder, for one process at a time; given back by `release`, or by the process's end.

    The folder itself is locked: a file in it could be removed and made again, and both files be locked. The file `lock`
    names the holder. It is locked too, for file systems whose locks of folders do not reach other machines.

    Raises
    ------
    StoreError
        If another one has it, or the system has no such locks.
    """

    def __init__(self, folder: Path):
        posix_locks()
        self._path, self._pid = folder, os.getpid()
        self._held = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        name = folder / "lock"
        try:
            take(self._held[0], unless=_NO_FOLDERS)
            self._held.append(os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            take(self._held[1])
        except BlockingIOError:
            self._close()
            raise StoreError(
                f"the store {folder} is in use by {_holder(name)}: stop that server, or use another folder"
            ) from None
        except OSError:  # a file system without locks
            self._close()
            raise
        with contextlib.suppress(OSError):  # a disk that is full: only the name of the holder is missing then
            os.ftruncate(self._held[1], 0)
            os.pwrite(self._held[1], f"{self._pid}\n".encode(), 0)

    def check(self) -> None:
        """Raise an `OSError` if the path no longer leads to the folder that is locked."""
        if not os.path.samestat(os.stat(self._path), os.fstat(self._held[0])):
            raise OSError(errno.ESTALE, f"{self._path} is another folder than the one that was opened", str(self._path))

    def release(self) -> None:
        """Give the right back; again does nothing, and in a forked child the parent keeps it."""
        if self._pid == os.getpid():  # closing is not enough while a process that was just forked has the files too
            fcntl = posix_locks()
            for descriptor in self._held:
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        self._close()

    def _close(self) -> None:
        while self._held:
            os.close(self._held.pop())


def _holder(name: Path) -> str:
    """Return who has a lock, as far as its file says so."""
    try:
        holder = name.read_text("ascii").strip()
    except (OSError, ValueError):  # it was removed
        holder = ""
    return "this process" if holder == str(os.getpid()) else f"process {holder}" if holder else "another process"
