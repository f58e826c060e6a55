"""Stores that nobody serves: what is in one, whether it is whole, and made as short as it can be."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from labnet import optim
from labnet.errors import StoreError
from labnet.nn import Module
from labnet.store import folder as folders
from labnet.store import journal
from labnet.store.intents import Intent
from labnet.store.records import Update, decode
from labnet.store.training import FORMAT, Durability, Store
from labnet.tensor import Tensor


@dataclass(frozen=True)
class Contents:
    """What is in a store.

    Attributes
    ----------
    version, updates : int
        Updates that the weights have seen, and how many of them are in the journal.
    torn : int
        Bytes of an update that was being written at a crash, and never answered.
    weights : dict
        Shape and dtype of each, by name.
    replies, nbytes : int
        Replies that are kept, and bytes of all files.
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
    """Read a store and check everything in it; nothing is changed, and it may be in use.

    Raises
    ------
    StoreError
        If there is none, or it is damaged.
    """
    version, tensors, metadata = _checkpoint(path)
    beside = folders.journal_path(path, version)
    found = journal.read(beside) if beside.exists() else journal.Found([], 0, 0)
    updates: list[Update] = []
    for payload in found.payloads:
        try:
            update = decode(payload)
        except StoreError as error:
            raise StoreError(f"{beside} is damaged: {error}") from error
        if isinstance(update, Intent):
            continue
        if update.version != version + len(updates) + 1:
            raise StoreError(f"{beside} is damaged: update {update.version} comes after {version + len(updates)}")
        updates.append(update)
    weights = {name.removeprefix("weight/"): t for name, t in tensors.items() if name.startswith("weight/")}
    if unknown := {name for update in updates for name in update.gradients} - weights.keys():
        raise StoreError(f"{beside} is damaged: it has the gradient of {min(unknown)!r}, which is no parameter")
    return Contents(
        path,
        version + len(updates),
        len(updates),
        found.torn,
        metadata["optimizer"],
        cast(Durability, metadata["durability"]),
        metadata["lineage"],
        {name: (tensor.shape, tensor.dtype.name) for name, tensor in weights.items()},
        sum(name.startswith("reply/") for name in tensors) + sum(len(update.outcomes) for update in updates),
        sum(file.stat().st_size for file in path.iterdir()),
    )


def compact(path: Path) -> Contents:
    """Carry out the updates of the journal, write a checkpoint, and begin an empty journal; the replies stay.

    Raises
    ------
    StoreError
        If the store is in use, damaged, or was trained with an optimizer that is not labnet's.
    OSError
        If the checkpoint cannot be written; the store is as it was then.
    """
    found = contents(path)
    kind = None if found.optimizer == "no optimizer" else getattr(optim, found.optimizer, None)
    if kind is None and found.optimizer != "no optimizer":
        raise StoreError(f"{path} was trained with {found.optimizer}, which is not labnet's: serve the model instead")
    _, tensors, metadata = _checkpoint(path)
    weights = {n.removeprefix("weight/"): t for n, t in tensors.items() if n.startswith("weight/")}
    model = cast(Module, _Bare(weights, json.loads(metadata["shared"])))
    Store(path, model, kind() if kind is not None else None, durability=found.durability).close()
    return contents(path)


def _checkpoint(path: Path) -> tuple[int, dict[str, Any], dict[str, str]]:
    version = folders.newest(path)
    if version is None:
        raise StoreError(f"{path} is no store: there is no checkpoint in it")
    tensors, metadata = folders.read_checkpoint(folders.checkpoint_path(path, version))
    if metadata.get("format") != FORMAT:
        raise StoreError(f"{path} is of format {metadata.get('format')!r:.40}, this version reads {FORMAT!r}")
    return version, tensors, metadata


class _Bare:
    """Parameters without the module that they are of."""

    def __init__(self, values: Mapping[str, Tensor], shared: Mapping[str, str]):
        self._tensors = {name: Tensor(t, requires_grad=t.dtype.kind == "f") for name, t in values.items()}
        self._shared = shared
        self._tensors |= {name: self._tensors[first] for name, first in shared.items()}

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor) for name, tensor in self._tensors.items() if name not in self._shared)

    def _state(self) -> dict[str, Tensor]:
        return self._tensors

    def state_dict(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self._tensors.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self._tensors.items():
            tensor.assign(state[name])
