"""Offline tools for stores: list the contents, verify, compact and repair."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from labnet import optim
from labnet.atomic_files import flush_directory
from labnet.errors import StoreError
from labnet.nn import Module
from labnet.store import folder as folders
from labnet.store import journal
from labnet.store.lock import Lock
from labnet.store.records import Record, Update, decode
from labnet.store.training import FORMAT, Durability, Store, stored_outcomes
from labnet.tensor import Tensor

_WEIGHT = "weight/"


@dataclass(frozen=True)
class Contents:
    """The contents of a store.

    Attributes
    ----------
    version, updates : int
        Number of updates of the weights, and of updates in the journal.
    torn : int
        Bytes of an update that a crash interrupted; it was never answered.
    weights : dict
        Shape and dtype of each weight, by name.
    replies, nbytes : int
        Number of stored replies, and bytes of all files.
    """

    path: Path
    version: int
    updates: int
    torn: int
    optimizer: str
    durability: Durability
    lineage: str
    weights: dict[str, tuple[tuple[int, ...], str]]
    replies: int
    nbytes: int


def contents(path: Path) -> Contents:
    """Read and verify a store without changing it; the store may be in use.

    Raises
    ------
    StoreError
        If there is no store, or it is damaged.
    """
    found = _found(path)
    if found.error is not None:
        raise found.error
    tensors, metadata = found.tensors, found.metadata
    weights = {name.removeprefix(_WEIGHT): t for name, t in tensors.items() if name.startswith(_WEIGHT)}
    return Contents(
        path,
        found.version,
        found.updates,
        found.torn,
        metadata["optimizer"],
        cast(Durability, metadata["durability"]),
        metadata["lineage"],
        {name: (tensor.shape, tensor.dtype.name) for name, tensor in weights.items()},
        sum(outcome.reply is not None for outcome in stored_outcomes(tensors, metadata)) + found.replies,
        sum(map(_size, path.iterdir())),
    )


def _size(path: Path) -> int:
    """Return the size of a file in bytes; 0 if a server has deleted it meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _found(path: Path) -> "_Found":
    """Read a store; start over if a server replaces the checkpoint meanwhile."""
    begun = folders.newest(path)
    try:
        found = _Found(path)
    except FileNotFoundError:
        if folders.newest(path) == begun:
            raise
        return _found(path)
    return found if found.error is None or folders.newest(path) == begun else _found(path)


class _Found:
    """A checkpoint and the valid part of the journal after it.

    Attributes
    ----------
    version, updates, replies : int
        Version at the last valid record, and the updates and replies in the journal up to it.
    end, torn : int
        Offset of its end, and bytes of a torn record after it.
    error : StoreError or None
        The error after it.
    """

    def __init__(self, path: Path):
        self.version, self.tensors, self.metadata = _checkpoint(path)
        self.journal = folders.journal_path(path, self.version)
        self.updates = self.replies = 0
        self.error: StoreError | None = None
        records = journal.Reader(self.journal)
        try:
            for payload in records:
                before = records.end - len(payload) - journal.HEAD
                try:
                    self._take(decode(payload))
                except StoreError as error:
                    records.end = before
                    raise StoreError(f"{self.journal} is damaged: {error}") from error
        except StoreError as error:
            self.error = error
        self.end, self.torn = records.end, records.torn

    def _take(self, record: Record) -> None:
        if not isinstance(record, Update):
            return
        if record.version != self.version + 1:
            raise StoreError(f"update {record.version} comes after {self.version}")
        if unknown := {name for name in record.gradients if _WEIGHT + name not in self.tensors}:
            raise StoreError(f"it has the gradient of {min(unknown)!r}, which is no parameter")
        self.version += 1
        self.updates += 1
        self.replies += len(record.outcomes)


def compact(path: Path) -> Contents:
    """Replay the journal, write a checkpoint and start an empty journal; the replies are kept.

    Raises
    ------
    StoreError
        If the store is in use, damaged, or was trained with an optimizer that is not labnet's.
    OSError
        If the checkpoint cannot be written; the store is unchanged.
    """
    found = contents(path)
    kind = None if found.optimizer == "no optimizer" else getattr(optim, found.optimizer, None)
    if kind is None and found.optimizer != "no optimizer":
        raise StoreError(f"{path} was trained with {found.optimizer}, which is not labnet's: serve the model instead")
    _, tensors, metadata = _checkpoint(path)
    weights = {n.removeprefix(_WEIGHT): t for n, t in tensors.items() if n.startswith(_WEIGHT)}
    model = cast(Module, _Bare(weights, json.loads(metadata["shared"])))
    Store(path, model, kind() if kind is not None else None, durability=found.durability).close()
    return contents(path)


@dataclass(frozen=True)
class Repaired:
    """The result of a repair.

    Attributes
    ----------
    version : int
        Version of the last remaining update.
    nbytes : int
        Bytes of later updates that were cut off.
    copy : Path or None
        Copy of the original journal; None if it was missing.
    """

    version: int
    nbytes: int
    copy: Path | None


def repair(path: Path) -> Repaired | None:
    """Truncate a damaged journal at its first bad record and keep a copy; return None if undamaged.

    A missing or unreadable journal is replaced by an empty one.

    This may lose answered updates. Servers and clients notice it: the store continues with a new lineage and reports
    "unknown" for every earlier request.

    Raises
    ------
    StoreError
        If the store is in use or has no valid checkpoint.
    OSError
        If a file cannot be written; the journal is unchanged.
    """
    _checkpoint(path)  # first, so that no lock file is left in a wrong folder
    lock = Lock(path)
    try:
        found = _Found(path)
        if found.error is None:
            return None
        copy, nbytes = None, 0
        if found.journal.exists():
            copy, nbytes = _copy(found.journal), found.journal.stat().st_size - found.end
        (path / folders.CUT).touch()
        flush_directory(path)
        journal.Journal(found.journal, end=found.end).close()
        flush_directory(path)
        return Repaired(found.version, nbytes, copy)
    finally:
        lock.release()


def _copy(damaged: Path) -> Path:
    """Copy a journal to a new file next to it, readable by its owner only."""
    copy = _free(damaged.parent, f"damaged-{damaged.name}")
    with (
        open(copy, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as target,
        open(damaged, "rb") as source,
    ):
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())
    return copy


def _free(path: Path, name: str) -> Path:
    """Return an unused file name in a folder."""
    candidates = (path / (name + (f".{number}" if number else "")) for number in itertools.count())
    return next(candidate for candidate in candidates if not candidate.exists())


def _checkpoint(path: Path) -> tuple[int, dict[str, Any], dict[str, str]]:
    version = folders.newest(path)
    if version is None:
        raise StoreError(f"{path} is no store: there is no checkpoint in it")
    tensors, metadata = folders.read_checkpoint(folders.checkpoint_path(path, version))
    if metadata.get("format") != FORMAT:
        raise StoreError(f"{path} is of format {metadata.get('format')!r:.40}, this version reads {FORMAT!r}")
    return version, tensors, metadata


class _Bare:
    """A module that only has parameters, for replay without the user's model."""

    def __init__(self, values: Mapping[str, Tensor], shared: Mapping[str, str]):
        self._tensors = {name: Tensor(t, requires_grad=t.dtype.kind == "f") for name, t in values.items()}
        self._shared = shared
        self._tensors |= {name: self._tensors[first] for name, first in shared.items()}

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor) for name, tensor in self._tensors.items() if name not in self._shared)

    def saved_tensors(self) -> dict[str, Tensor]:
        return self._tensors

    def state_dict(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self._tensors.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self._tensors.items():
            tensor.assign(state[name])
