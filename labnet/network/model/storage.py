"""Opening and closing the store of a served model."""

import functools
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labnet.errors import ServeError
from labnet.network.model.calls import call_prefix
from labnet.network.model.served import ServedModel
from labnet.network.threads import MODELS, Worker
from labnet.nn import Module
from labnet.optim import Optimizer
from labnet.store import LEVELS, Durability, Store

log = logging.getLogger("labnet.network")


def open_store(
    place: str | os.PathLike[str],
    model: Any,
    optimizer: Any,
    *,
    durability: Durability,
    recovery_seconds: float,
    previous: ServedModel | None,
    worker: Worker,
) -> Store:
    """Open the store of a model, and load the stored weights into the model.

    Parameters
    ----------
    previous : ServedModel or None
        The model that is being replaced; if it uses the same store, it closes it.
    worker : Worker
        The worker of both models.

    Raises
    ------
    ServeError
        If this model or optimizer cannot be stored.
    StoreError, OSError
        As `Store`; the previous model then keeps its store.
    """
    if durability not in LEVELS:
        raise ServeError(
            f"serve_model: durability must be one of {', '.join(map(repr, LEVELS))}, got {durability!r:.40}"
        )
    check_recovery(recovery_seconds)
    if not isinstance(model, Module):
        raise ServeError(f"serve_model: a store needs a Module, whose parameters have names, got {model!r:.60}")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise ServeError(
            f"serve_model: a store needs an optimizer of labnet.optim, whose state is known, got {optimizer!r:.60}"
        )
    path = Path(place).absolute()
    opened = functools.partial(Store, path, model, optimizer, durability=durability, recovery_seconds=recovery_seconds)
    before = previous.store if previous is not None else None
    if before is None or before.path != path:
        return opened()
    if before.is_open:
        worker.call(before.checkpoint)  # if this fails, the previous model keeps its store
    try:
        worker.call(before.close)  # updates that arrive meanwhile are refused as retryable
        return opened()
    except BaseException:
        worker.call(before.reopen)
        raise


def check_recovery(seconds: float) -> None:
    """Raise `ServeError` unless a number is one of seconds, from 0 on."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise ServeError(f"serve_model: recovery_seconds must be a number from 0 on, got {seconds!r:.40}")


def refuse_update(served: ServedModel | None, worker: Worker) -> None:
    """Refuse to serve from within an update: weights and optimizer are between two versions."""
    if served is not None and served.store is not None and served.store.is_updating and worker.is_current:
        raise ServeError("serve: the optimizer of this server is making an update: serve from a handler, or a thread")


def refuse_completion(store: Store | None) -> None:
    """Refuse to complete backwards after a crash on the loop of async models, which would deadlock."""
    if store is not None and MODELS.is_current and any(intent.forward for intent in store.intents):
        raise ServeError(
            f"serve_model: the store {store.path} has backwards to complete, for which an async handler cannot wait: "
            "have it await asyncio.to_thread(serve_model, ...)"
        )


def release_store(store: Store | None, previous: ServedModel | None, worker: Worker) -> None:
    """Close a store after serving has failed; the previous model reopens its own."""
    if store is not None:
        try:
            worker.call(store.close)
        except OSError as error:  # the caller raises the error that stopped serving; this one comes on top of it
            log.warning("the store %s could not be brought up to date, its journal has the rest: %s", store.path, error)
        if previous is not None and previous.store is not None:
            worker.call(previous.store.reopen)


def new_calls(lineage: str | None) -> Callable[[int], str]:
    """Return a generator of 128-bit call ids; with a lineage they contain it and the version of the weights."""
    if lineage is None:
        return lambda version: secrets.token_hex(16)
    return lambda version: call_prefix(lineage, version) + secrets.token_hex(8)
