"""The folder of a store: one checkpoint, the journal of what came after it, and the lock of who writes them.

A new pair replaces the old one only once it is on the disk; whatever a crash leaves, the newest checkpoint that was
completed is there with its journal.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labnet import io
from labnet.errors import StoreError, WireError
from labnet.store import journal

#: There while nobody has the store open, and everything is on the disk.
CLEAN = "clean"
_CHECKPOINT = re.compile(r"checkpoint-(\d{12})\.safetensors")


def checkpoint_path(folder: Path, version: int) -> Path:
    """Return where the checkpoint of a version is."""
    return folder / f"checkpoint-{version:012d}.safetensors"


def journal_path(folder: Path, version: int) -> Path:
    """Return where the journal of what came after a version is."""
    return folder / f"journal-{version:012d}"


def newest(folder: Path) -> int | None:
    """Return the version of the newest checkpoint, None if there is none."""
    names = os.listdir(folder) if folder.is_dir() else []
    versions = [int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name))]
    return max(versions, default=None)


class Lock:
    """The right to write to a folder, for one process at a time; given back by `release`, or by the process's end.

    Raises
    ------
    StoreError
        If another one has it.
    """

    def __init__(self, folder: Path):
        self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            who = "this process" if holder == str(os.getpid()) else f"process {holder}" if holder else "another process"
            raise StoreError(
                f"the store {folder} is in use by {who}: stop that server, or use another folder"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the right back."""
        os.close(self._file)


def write_pair(folder: Path, version: int, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> journal.Journal:
    """Write a checkpoint with an empty journal, and drop those before.

    Raises
    ------
    OSError
        If that is not possible; what was there before is still there, and counts.
    """
    path = journal_path(folder, version)
    begun = journal.Journal(path, end=0)  # first: from the moment a checkpoint is there, its journal counts
    try:
        io.save(checkpoint_path(folder, version), tensors, metadata)
    except BaseException:
        begun.close()
        path.unlink(missing_ok=True)
        raise
    drop_others(folder, version)
    return begun


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors and the text of a checkpoint.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    try:
        return io.load(path), io.read_metadata(path)
    except WireError as error:
        raise StoreError(f"{path} is damaged: {error}; put a copy of the folder in its place, or begin anew") from error


def drop_others(folder: Path, version: int) -> None:
    """Delete checkpoints and journals of other versions, and what a crash left half-written."""
    keep = {checkpoint_path(folder, version).name, journal_path(folder, version).name}
    for name in os.listdir(folder):
        ours = name.startswith(("checkpoint-", "journal-", ".checkpoint-"))
        if ours and name not in keep:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()


def boot() -> str:
    """Return what tells one run of the operating system from the next; empty where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def flush(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
