"""The lock of a store's folder, made of POSIX file locks, which end with their process."""

import contextlib
import errno
import os
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from labnet.errors import StoreError

#: Errors of file systems that lock files but not folders.
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
    """Lock an open file or folder for this process without waiting; ignore the errors in `unless`.

    Raises
    ------
    BlockingIOError
        If another process has locked it.
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
    """The exclusive lock of a folder for one process, until `release` or the end of the process.

    The folder itself is locked, because a lock file could be removed and recreated while it is locked. The file `lock`
    names the holder. It is locked too, for file systems whose folder locks do not reach other machines.

    Raises
    ------
    StoreError
        If another process has the lock, or the system has no such locks.
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
        with contextlib.suppress(OSError):  # the disk is full: only the name of the holder is missing
            os.ftruncate(self._held[1], 0)
            os.pwrite(self._held[1], f"{self._pid}\n".encode(), 0)

    def check(self) -> None:
        """Raise `OSError` if the path no longer leads to the locked folder."""
        if not os.path.samestat(os.stat(self._path), os.fstat(self._held[0])):
            raise OSError(errno.ESTALE, f"{self._path} is another folder than the one that was opened", str(self._path))

    def release(self) -> None:
        """Release the lock; idempotent. In a forked child the parent keeps it."""
        if self._pid == os.getpid():  # closing is not enough while a process that was just forked shares the files
            fcntl = posix_locks()
            for descriptor in self._held:
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        self._close()

    def _close(self) -> None:
        while self._held:
            os.close(self._held.pop())


def _holder(name: Path) -> str:
    """Return the holder of a lock according to its file."""
    try:
        holder = name.read_text("ascii").strip()
    except (OSError, ValueError):  # the file was removed
        holder = ""
    return "this process" if holder == str(os.getpid()) else f"process {holder}" if holder else "another process"
