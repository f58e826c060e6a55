"""Checkpoints: a file that is kept up to date with a module during training."""

import atexit
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from labnet import io
from labnet.errors import LabnetError
from labnet.optim import Optimizer, watch
from labnet.tensor import Tensor

#: Prefix of the optimizer's state; no parameter name contains a slash.
_OPTIMIZER = "optimizer/"

_checkpoints: "weakref.WeakSet[Checkpoint]" = weakref.WeakSet()


class Stateful(Protocol):
    """The part of a module that a checkpoint saves and loads."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the values of all parameters and saved buffers by name."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> object:
        """Write values into the parameters and buffers."""

    def parameters(self) -> Iterator[Tensor]:
        """Iterate over the parameters."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, parameter)."""


class Checkpoint:
    """Keeps a file up to date with a module, and optionally with its optimizer; made by `Module.checkpoint`.

    Every optimizer step reports the changed parameters to its watchers (`labnet.optim.watch`). The module owns this
    object; the list of watchers and this object hold weak references only, so there is no cycle and nothing outlives
    the module. A report costs one read of the clock. The file is written only if `every_seconds` have passed since the
    last save and the module has changed. Later changes are written at an orderly exit of the process, or by `save`.

    Attributes
    ----------
    path : Path
    every_seconds : float
    resumed : bool
        Whether the file existed and was loaded.
    """

    def __init__(
        self, module: Stateful, path: str | os.PathLike[str], *, every_seconds: float, optimizer: Optimizer | None
    ):
        if not every_seconds >= 0:
            raise ValueError(f"checkpoint: every_seconds must not be negative, got {every_seconds}")
        self.path = Path(path).absolute()
        self.every_seconds = every_seconds
        self._module = weakref.ref(module)
        self._optimizer = optimizer
        self._unsaved = False
        self._saved_at = time.monotonic()
        self.resumed = self.path.exists()
        if self.resumed:
            self._load(module, io.load(self.path))
        watch(self)
        _checkpoints.add(self)

    def _load(self, module: Stateful, tensors: Mapping[str, Tensor]) -> None:
        weights = {name: value for name, value in tensors.items() if not name.startswith(_OPTIMIZER)}
        state = {name.removeprefix(_OPTIMIZER): value for name, value in tensors.items() if name not in weights}
        before = module.state_dict()
        try:
            module.load_state_dict(weights)
            if self._optimizer is not None and state:
                self._optimizer.load_state_dict(state, module.named_parameters())
        except (LabnetError, KeyError) as error:
            module.load_state_dict(before)
            error.add_note(f"checkpoint: {self.path} was saved from another model or optimizer; it was left as it is")
            raise

    def __call__(self, changed: frozenset[int]) -> None:
        """Receive the ids of changed parameters from an optimizer; save if it is due."""
        due = time.monotonic() - self._saved_at >= self.every_seconds
        if self._unsaved and not due:
            return
        module = self._module()
        if module is None or (not self._unsaved and changed.isdisjoint(map(id, module.parameters()))):
            return
        self._unsaved = True
        if due:
            self.save()

    def save(self) -> None:
        """Write the file now.

        Raises
        ------
        OSError
            If it cannot be written; the previous file is kept.
        ReferenceError
            If the module was dropped.
        """
        module = self._module()
        if module is None:
            raise ReferenceError(f"checkpoint: the module that {self.path} follows was dropped; keep a reference to it")
        tensors = module.state_dict()
        if self._optimizer is not None:
            state = self._optimizer.state_dict(module.named_parameters())
            tensors |= {_OPTIMIZER + name: value for name, value in state.items()}
        io.save(self.path, tensors)
        self._unsaved, self._saved_at = False, time.monotonic()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Copy as None: two modules must not write to one file."""
        return type(None), ()

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, every_seconds={self.every_seconds}, resumed={self.resumed})"


@atexit.register
def _save_the_rest() -> None:
    for checkpoint in tuple(_checkpoints):
        if checkpoint._unsaved and checkpoint._module() is not None:
            checkpoint.save()
