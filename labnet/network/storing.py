"""The store of a served model: opened before the model is served, closed when it is served no more."""

import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labnet.errors import ServeError
from labnet.network.calls import call_prefix
from labnet.network.loops import IO, Worker
from labnet.network.served import ServedModel
from labnet.nn import Module
from labnet.optim import Optimizer
from labnet.store import LEVELS, Durability, Store

log = logging.getLogger("labnet.network")


def opened(
    place: str | os.PathLike[str],
    model: Any,
    optimizer: Any,
    *,
    durability: Durability,
    previous: ServedModel | None,
    worker: Worker,
) -> Store:
    """Open the store of a model, which gets the weights that are in it.

    Parameters
    ----------
    previous : ServedModel or None
        What is served in its place now; if it has the same store, it gives it up.
    worker : Worker
        What computes for both.

    Raises
    ------
    ServeError
        If this model or optimizer cannot be stored.
    StoreError, OSError
        As `Store`; a previous model goes on with its store then.
    """
    if durability not in LEVELS:
        raise ServeError(
            f"serve_model: durability must be one of {', '.join(map(repr, LEVELS))}, got {durability!r:.40}"
        )
    if not isinstance(model, Module):
        raise ServeError(f"serve_model: a store needs a Module, whose parameters have names, got {model!r:.60}")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise ServeError(
            f"serve_model: a store needs an optimizer of labnet.optim, whose state is known, got {optimizer!r:.60}"
        )
    path = Path(place).absolute()
    before = previous.store if previous is not None else None
    if before is None or before.path != path:
        return Store(path, model, optimizer, durability=durability)
    if before.is_open:
        IO.run(worker.run(before.checkpoint))  # if that is not possible, it goes on
    try:
        IO.run(worker.run(before.close))  # updates that come meanwhile are told to come again
        return Store(path, model, optimizer, durability=durability)
    except BaseException:
        IO.run(worker.run(before.reopen))
        raise


def give_back(store: Store | None, previous: ServedModel | None, worker: Worker) -> None:
    """Close a store that will not be served after all; a previous model goes on with its own."""
    if store is not None:
        try:
            IO.run(worker.run(store.close))
        except OSError as error:  # whoever serves is told why it is not served: this comes on top of that
            log.warning("the store %s could not be brought up to date, its journal has the rest: %s", store.path, error)
        if previous is not None and previous.store is not None:
            IO.run(worker.run(previous.store.reopen))


def new_calls(lineage: str | None) -> Callable[[int], str]:
    """Return what makes ids of calls, of 128 bits; with a lineage they tell it, and the version of the weights."""
    if lineage is None:
        return lambda version: secrets.token_hex(16)
    return lambda version: call_prefix(lineage, version) + secrets.token_hex(8)
