"""Atomic replacement of files: a reader or a restart finds either the old file or the new one."""

import os
from pathlib import Path


def replace_file(path: Path, content: bytes, *, mode: int = 0o666, flush: bool = True) -> None:
    """Replace a file atomically: write a temporary file beside it and rename that.

    Parameters
    ----------
    mode : int
        Permissions of the file, before the umask.
    flush : bool
        Whether the content is synced to disk first, so that it survives a power failure.

    Raises
    ------
    OSError
        If that fails; the previous file is kept.
    """
    beside = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def flush_directory(folder: Path) -> None:
    """Sync a directory to disk, so that a rename survives a power failure.

    Raises
    ------
    OSError
        If that fails, or the system cannot open directories.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
