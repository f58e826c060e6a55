"""The folder of a store: one checkpoint and the journal of later updates.

A new pair replaces the old one only after it is on disk. After any crash, the newest complete checkpoint is there with
its journal.
"""

import contextlib
import functools
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from labnet import io
from labnet.atomic_files import flush_directory, replace_file
from labnet.errors import StoreError, WireError
from labnet.io.files import pack
from labnet.store import journal
from labnet.tensor import on_host

#: Marker file: the store is closed and everything is on disk.
CLEAN = "clean"
#: Marker file after a repair, until the store is opened: answered updates may have been cut off.
CUT = "cut"
_WAY_OUT = "put a copy of the folder in its place, or begin anew"
_CHECKSUM = "checksum"
_CHECKPOINT = re.compile(r"checkpoint-(\d{12})\.safetensors")
_JOURNAL = re.compile(r"journal-\d{12}")
_HALF_WRITTEN = re.compile(r"\.(checkpoint-\d{12}\.safetensors|journal-\d{12}|metrics\.jsonl)\.[0-9a-f]+\.tmp")


def checkpoint_path(folder: Path, version: int) -> Path:
    """Return the path of the checkpoint of a version."""
    return folder / f"checkpoint-{version:012d}.safetensors"


def journal_path(folder: Path, version: int) -> Path:
    """Return the path of the journal after a version."""
    return folder / f"journal-{version:012d}"


def newest(folder: Path) -> int | None:
    """Return the version of the newest checkpoint, or None."""
    names = os.listdir(folder) if folder.is_dir() else []
    versions = [int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name))]
    return max(versions, default=None)


def write_pair(folder: Path, version: int, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> journal.Journal:
    """Write a checkpoint with an empty journal and delete earlier pairs.

    The journal is on disk before the checkpoint, so no crash leaves a checkpoint without its journal.
    The checkpoint is valid as soon as it exists, so later failures are not raised: the journal is then `broken`, and
    the earlier pair is kept.

    Raises
    ------
    OSError
        If that fails; the earlier pair is still there and valid.
    """
    path, place = journal_path(folder, version), checkpoint_path(folder, version)
    metadata = {**metadata, _CHECKSUM: f"{_checksum(tensors, metadata):08x}"}
    if place.exists():  # same version: its journal has no update and nothing that is not written now
        _write_checkpoint(place, tensors, metadata)
        begun = journal.Journal(path, end=0)
    else:
        begun = journal.Journal(path, end=0)
        try:
            flush_directory(folder)
            _write_checkpoint(place, tensors, metadata)
        except BaseException:
            begun.close()
            path.unlink(missing_ok=True)
            raise
    try:
        flush_directory(folder)
    except OSError as error:
        begun.broken = error
        return begun
    drop_others(folder, version)
    return begun


def _write_checkpoint(place: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write a checkpoint that only its owner can read, like the journal."""
    replace_file(place, pack(tensors, metadata), mode=0o600)


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the tensors and the text of a checkpoint.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    try:
        tensors, metadata = io.load(path), io.read_metadata(path)
    except WireError as error:
        raise StoreError(f"{path} is damaged: {error}; {_WAY_OUT}") from error
    if metadata.pop(_CHECKSUM, None) != f"{_checksum(tensors, metadata):08x}":
        raise StoreError(f"{path} is damaged: it does not have its checksum; {_WAY_OUT}")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> int:
    """Return the CRC-32 of a checkpoint's contents in the order of names."""
    checksum = zlib.crc32(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        array = np.ascontiguousarray(on_host(tensor))
        checksum = zlib.crc32(repr((name, array.dtype.name, np.shape(tensor))).encode(), checksum)
        checksum = zlib.crc32(array.reshape(-1).view(np.uint8).data, checksum) if array.size else checksum
    return checksum


def drop_others(folder: Path, version: int) -> None:
    """Delete checkpoints and journals of other versions and incomplete files, as far as possible.

    Remaining files do no harm: only the newest checkpoint is read.
    """
    keep = {checkpoint_path(folder, version).name, journal_path(folder, version).name}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            ours = any(known.fullmatch(name) for known in (_CHECKPOINT, _JOURNAL, _HALF_WRITTEN))
            if ours and name not in keep:
                with contextlib.suppress(OSError):
                    (folder / name).unlink()


def refuse_orphans(folder: Path) -> None:
    """Raise `StoreError` if a journal with updates has no checkpoint, so that it is not overwritten.

    A crash does not cause this: the first journal is empty until there is a checkpoint.
    """
    for name in sorted(os.listdir(folder)):
        if _JOURNAL.fullmatch(name) and (folder / name).stat().st_size > len(journal.MAGIC):
            raise StoreError(f"{folder} is damaged: {name} has no checkpoint beside it; {_WAY_OUT}")


def boot() -> str:
    """Return the boot id of the operating system; empty if unavailable."""
    try:
        return _boot()
    except OSError:
        return ""


@functools.cache
def _boot() -> str:
    """Read the boot id once: it does not change in this process, and reading may fail later."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
