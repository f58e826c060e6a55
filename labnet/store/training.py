"""A store on disk: the weights, the optimizer's state and the answered requests of a model in training.

An update is written to the journal before any weight changes, and answered after that. Opening a store loads the last
checkpoint and replays the updates of the journal with the same optimizer, which gives the same bits.
"""

import contextlib
import errno
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from labnet.atomic_files import flush_directory
from labnet.autograd import Gradients
from labnet.errors import LabnetError, StoreError
from labnet.nn import Module
from labnet.optim import Optimizer
from labnet.store import folder as folders
from labnet.store import journal
from labnet.store.intents import Intent, Intents
from labnet.store.lock import Lock, posix_locks
from labnet.store.metric_log import StoredMetrics
from labnet.store.records import Outcome, Outcomes, Update, decode
from labnet.store.refusals import Refusal, Refusals
from labnet.tensor import Tensor, on_host

Durability = Literal["memory", "group", "every"]
LEVELS = ("memory", "group", "every")
FORMAT = "labnet store 1"

log = logging.getLogger("labnet.store")

#: Seconds within which written updates are synced to disk at the level "group".
GROUP_SECONDS = 0.05
#: A journal of at least this length, and longer than several checkpoints, is replaced by a new checkpoint.
_LONG = 1 << 26
#: Writing checkpoints takes at most this part of the CPU time of replaying the updates before them, and of their bytes.
_CHECKPOINTS = 4
#: Default of `Store.recovery_seconds`.
RECOVERY_SECONDS = 1.0
_WEIGHT, _STATE = "weight/", "optimizer/"


class Store:
    """The store of one model and its optimizer, open in this process.

    Parameters
    ----------
    path : Path
        A folder; created if missing.
    model : Module
        Receives the stored weights, if any.
    optimizer : Optimizer or None
        Receives the stored state, if any.
    durability : "memory", "group" or "every"
        Write at checkpoints only; write every update before it is answered; or also sync each time.
    recovery_seconds : float
        CPU seconds of replay after which a checkpoint replaces the journal, as estimated from the CPU time of the
        updates; or four times the CPU time of writing a checkpoint, if that is longer.

    Attributes
    ----------
    lineage : str
        Random id of the store.
    version : int
        Number of updates of the weights.
    outcomes : Outcomes
        The applied requests.
    intents : Intents
        Backwards that were forwarded to other servers and not yet applied here.
    refusals : Refusals
        Calls whose gradients are no longer accepted.
    metrics : StoredMetrics
        What users logged.
    resumed : bool
        Whether the folder had content.
    replayed : int
        Number of replayed updates.

    Raises
    ------
    StoreError
        If the store is in use, damaged, or of another model or optimizer; it is not changed.
    OSError
        If the folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        model: Module,
        optimizer: Optimizer | None,
        *,
        durability: Durability = "group",
        recovery_seconds: float = RECOVERY_SECONDS,
    ):
        self.path = Path(path).absolute()
        self.durability = durability
        self.recovery_seconds = recovery_seconds
        self._model = model
        self._optimizer = optimizer
        self.lineage = secrets.token_hex(8)
        self.version = self.replayed = 0
        self.outcomes = Outcomes()
        self.intents = Intents()
        self.refusals = Refusals()
        self._noted = False  # whether anything but updates is neither in the checkpoint nor in the journal
        self._journal: journal.Journal | None = None
        self._begun = -1  # version of the current checkpoint
        #: Whether an update is written and neither applied nor undone.
        self.is_updating = False
        self._unsure = False  # whether the optimizer's state may differ from that after the journal
        self._long = _LONG  # length at which the journal is replaced
        self._longest = recovery_seconds  # replay at which it is replaced, in CPU seconds
        self._to_replay = 0.0  # estimated CPU seconds to replay the journal
        self._per_record = 0.0  # CPU seconds per record of the replay at opening
        self._began = 0.0  # CPU time of the thread when the current update began
        self._files = threading.Lock()  # held while the journal is synced or replaced
        posix_locks()  # before creating a folder that could not be used
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = Lock(self.path)
        try:
            self.resumed = self._open()
        except BaseException:
            self._lock.release()
            raise
        self.metrics = StoredMetrics(self.path, self.version, self._check_writable)
        self._syncing = _Syncing(self._sync) if durability == "group" else None

    @property
    def is_open(self) -> bool:
        """Whether updates can be written."""
        return self._journal is not None

    @property
    def in_doubt(self) -> bool:
        """Whether a failed update is still in the journal and would be replayed if the process ended now."""
        return self._journal is not None and self._journal.broken is not None

    @property
    def unwritten(self) -> int:
        """Number of updates that are in memory only."""
        return self.version - self._begun if self.durability == "memory" else 0

    def _check_writable(self) -> None:
        """Raise `OSError` if the store is closed, or its path no longer leads to its folder."""
        if self._journal is None:
            raise OSError(errno.EBADF, "it is closed")
        self._lock.check()

    # Opening

    def _open(self) -> bool:
        version = folders.newest(self.path)
        if version is None:
            folders.refuse_orphans(self.path)
            self._not_clean()
            self._write_checkpoint()
            return False
        before = self._model.state_dict()
        states = self._optimizer.snapshot() if self._optimizer is not None else {}
        try:
            promised = self._load(folders.checkpoint_path(self.path, version), version)
            settings = self._optimizer.hyperparameters() if self._optimizer is not None else {}
            try:
                self._replay(folders.journal_path(self.path, version))
            finally:
                if self._optimizer is not None:
                    self._optimizer.set_hyperparameters(settings)
            if promised != self._promised():  # the next process that opens the store relies on them
                self._write_checkpoint()
            elif self.replayed:  # so that a further crash does not replay them again
                self._try_checkpoint()
            self._not_clean()
        except BaseException:
            self._model.load_state_dict(before)
            if self._optimizer is not None:
                self._optimizer.restore(states)
            if self._journal is not None:
                self._journal.close()
            raise
        return True

    def _not_clean(self) -> None:
        """Remove the markers of the last shutdown: that all is on disk, or that something was cut off."""
        for name in (folders.CLEAN, folders.CUT):
            (self.path / name).unlink(missing_ok=True)
        flush_directory(self.path)

    def _promised(self) -> dict[str, str]:
        """Return the durability data of a checkpoint: what can be lost after it."""
        return {"lineage": self.lineage, "durability": self.durability, "boot": folders.boot()}

    def _load(self, path: Path, version: int) -> dict[str, str]:
        """Load a checkpoint; return its durability data."""
        tensors, metadata = folders.read_checkpoint(path)
        if metadata.get("format") != FORMAT:
            raise StoreError(f"{path} is of format {metadata.get('format')!r:.40}, this version reads {FORMAT!r}")
        weights = {name.removeprefix(_WEIGHT): t for name, t in tensors.items() if name.startswith(_WEIGHT)}
        state = {name.removeprefix(_STATE): t for name, t in tensors.items() if name.startswith(_STATE)}
        self._check_same(weights, metadata["optimizer"])
        self._model.load_state_dict(weights)
        if self._optimizer is not None:
            settings = self._optimizer.hyperparameters()
            self._optimizer.load_state_dict(state, self._model.named_parameters())
            self._optimizer.set_hyperparameters(settings)
        self.version, self._begun = version, version
        if not self._may_have_lost(metadata):
            self.lineage = metadata["lineage"]
        self.outcomes = stored_outcomes(tensors, metadata)
        noted = {name: tensor.numpy() for name, tensor in tensors.items() if name.startswith("intent/")}
        self.intents = Intents.decode(noted, metadata["intents"], version, self._weights())
        self.refusals = Refusals.decode(metadata["refusals"]) if "refusals" in metadata else Refusals()
        self._long = max(_LONG, _CHECKPOINTS * path.stat().st_size)
        return {name: metadata[name] for name in self._promised()}

    def _may_have_lost(self, metadata: Mapping[str, str]) -> bool:
        """Return whether answered updates may be missing, so that clients cannot rely on the store."""
        if (self.path / folders.CUT).exists():
            return True
        if metadata["durability"] == "every" or (self.path / folders.CLEAN).exists():
            return False
        return metadata["durability"] == "memory" or not folders.boot() or metadata["boot"] != folders.boot()

    def _check_same(self, weights: Mapping[str, Tensor], optimizer: str) -> None:
        """Refuse a store of another model or optimizer; name the difference."""
        own = {name: (tensor.shape, tensor.dtype.name) for name, tensor in self._model.state_dict().items()}
        stored = {name: (tensor.shape, tensor.dtype.name) for name, tensor in weights.items()}
        if own != stored:
            name = min(name for name in own.keys() | stored.keys() if own.get(name) != stored.get(name))
            raise StoreError(
                f"the store {self.path} is of another model: {name!r} is {stored.get(name, 'missing')} there "
                f"and {own.get(name, 'missing')} in the model; use another folder"
            )
        if optimizer != _name(self._optimizer):
            raise StoreError(
                f"the store {self.path} was trained with {optimizer}, not with {_name(self._optimizer)}: "
                "use that one, or another folder"
            )

    def _replay(self, path: Path) -> None:
        records, began, count = journal.Reader(path), _cpu_seconds(), 0
        for payload in records:
            count += 1
            try:
                record = decode(payload)
                if isinstance(record, Intent):
                    self.intents.add(record.seen(self.version, self._weights()))
                    continue
                if isinstance(record, Refusal):
                    self.refusals.add(record)
                    continue
                if record.version != self.version + 1:
                    raise StoreError(f"update {record.version} comes after update {self.version}")
                self._carry_out(record)
            except LabnetError as error:
                raise StoreError(f"{path} is damaged: {error}") from error
        self._to_replay = _cpu_seconds() - began
        self._per_record = self._to_replay / max(1, count)
        self._journal = journal.Journal(path, end=records.end)
        folders.drop_others(self.path, self._begun)

    def _weights(self) -> dict[str, Any]:
        """Return copies of all parameters and buffers."""
        return {name: on_host(tensor) for name, tensor in self._model.state_dict().items()}

    def _carry_out(self, update: Update) -> None:
        """Replay an update."""
        parameters = dict(self._model.named_parameters())
        if unknown := update.gradients.keys() - parameters.keys():
            raise StoreError(f"it has the gradient of {min(unknown)!r}, which is no parameter of the model")
        gradients = Gradients([(parameters[name], Tensor(array)) for name, array in update.gradients.items()])
        if self._optimizer is not None and len(gradients):
            if self._optimizer.hyperparameters() != update.settings:
                self._optimizer.set_hyperparameters(update.settings)
            self._optimizer(gradients)
        if update.buffers:
            state = self._model.state_dict()
            self._model.load_state_dict({**state, **{name: Tensor(array) for name, array in update.buffers.items()}})
        self.version += 1
        self.replayed += 1
        self._remember(update.outcomes)

    def _remember(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.outcomes.add(outcome)
            self.intents.done(outcome.call)

    # Writing

    def intend(self, intent: Intent) -> None:
        """Log a backward that is about to reach other servers.

        Raises
        ------
        OSError
            If that could not be written.
        """
        if intent.call not in self.intents:
            self._note(intent.encode(self.version))
            self.intents.add(intent)
            self._shorten()

    def refuse(self, call: str) -> None:
        """Log that no gradient of a call is applied from now on, before a client is told so.

        Raises
        ------
        OSError
            If that could not be written.
        """
        if call not in self.refusals:
            refusal = Refusal(call, self.version)
            self._note(refusal.encode())
            self.refusals.add(refusal)
            self._shorten()

    def _note(self, record: Sequence[journal.Part]) -> None:
        """Write a record that is no update, or leave it for the next checkpoint."""
        if self._journal is None:
            raise OSError(errno.EBADF, "it is closed")
        if self.durability == "memory":
            self._noted = True
        else:
            written, began = self._mend(), _cpu_seconds()
            written.append(record, sync=self.durability == "every")
            self._count_replay(began)

    def _count_replay(self, began: float) -> None:
        """Add a record that this thread has carried out since a CPU time to the estimated replay."""
        self._to_replay += max(_cpu_seconds() - began, self._per_record)

    def append(self, gradients: Gradients, outcomes: Iterable[Outcome]) -> None:
        """Write the next update to the journal, before the weights change.

        Raises
        ------
        OSError
            If it could not be written; the store is unchanged.
        """
        if self._journal is None:
            raise OSError(errno.EBADF, "it is closed")
        if self.durability == "memory":
            self.version += 1
            self.is_updating = True
            return
        written = self._mend()
        self._began = _cpu_seconds()
        names = {id(tensor): name for name, tensor in self._model.named_parameters()}
        taken = [(tensor, gradient) for tensor, gradient in gradients.items() if self._takes(tensor)]
        named = {names[id(tensor)]: np.asarray(on_host(gradient)) for tensor, gradient in taken}
        # further names of a parameter are no buffers: they would restore its old value
        buffers = {name: on_host(t) for name, t in self._model.saved_tensors().items() if id(t) not in names}
        settings = self._optimizer.hyperparameters() if self._optimizer is not None else {}
        update = Update(self.version + 1, named, tuple(outcomes), settings, buffers)
        written.append(update.encode(), sync=self.durability == "every")
        self.version += 1
        self.is_updating = True
        if self._syncing is not None:
            self._syncing.ask()

    def mend(self) -> None:
        """Have the journal lead to the current state, without an update that failed.

        Raises
        ------
        OSError
            If that could not be written.
        """
        if self._journal is None:
            raise OSError(errno.EBADF, "it is closed")
        self._mend()

    def _mend(self) -> journal.Journal:
        """Return a writable journal that leads to the current state; start a new one if necessary."""
        assert self._journal is not None
        if self._journal.broken or self._unsure:
            self._write_checkpoint()
        return self._journal

    def _takes(self, parameter: Tensor) -> bool:
        """Return whether the optimizer reads the gradient of a parameter."""
        optimizer = self._optimizer
        if optimizer is None:
            return False
        is_own = type(optimizer).__call__ is not Optimizer.__call__  # may read all of them
        return is_own or optimizer.trains(parameter)

    def take_back(self) -> None:
        """Remove the last written update, which was not applied completely."""
        self.version -= 1
        self._unsure, self.is_updating = True, False
        if self._journal is not None and self.durability != "memory":
            self._journal.take_back()

    def applied(self, outcomes: Iterable[Outcome]) -> None:
        """Record the outcomes of an applied update; start a new journal if this one is long."""
        self.is_updating = False
        if self.durability != "memory":
            self._count_replay(self._began)
        self._remember(outcomes)
        self._shorten()

    def _shorten(self) -> None:
        """Start a new journal if this one is long, or would take long to replay."""
        if self._journal is not None and (self._journal.end > self._long or self._to_replay > self._longest):
            self._try_checkpoint()

    def _try_checkpoint(self) -> None:
        """Start a new journal; if that fails, keep the present one until it is twice as long."""
        try:
            self._write_checkpoint()
        except Exception as error:  # any error: the update is written, so its client must be answered
            assert self._journal is not None
            self._long = max(self._long, 2 * self._journal.end)
            self._longest = max(self._longest, 2 * self._to_replay)
            log.warning("the store %s cannot be made shorter: %s", self.path, error)

    def checkpoint(self) -> None:
        """Write weights, state and outcomes if they have changed, and start a new journal.

        Raises
        ------
        OSError
            If that fails; the previous checkpoint and journal remain.
        """
        written = self._journal
        if written is None or written.end > len(journal.MAGIC) or self.version != self._begun or self._noted:
            self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        began = _cpu_seconds()
        tensors: dict[str, Any] = {_WEIGHT + name: tensor for name, tensor in self._model.state_dict().items()}
        if self._optimizer is not None:
            state = self._optimizer.state_dict(self._model.named_parameters())
            tensors |= {_STATE + name: tensor for name, tensor in state.items()}
        replies, text = self.outcomes.encode()
        noted, intents = self.intents.encode(self.version)
        metadata = {
            "format": FORMAT,
            **self._promised(),
            "optimizer": _name(self._optimizer),
            "outcomes": text,
            "intents": intents,
            "refusals": self.refusals.encode(),
            "shared": json.dumps(self._shared()),
        }
        self._lock.check()
        with self._files:
            try:
                begun = folders.write_pair(self.path, self.version, tensors | replies | noted, metadata)
            except OSError as error:
                if self._journal is not None and self.version == self._begun:  # it may have been replaced
                    self._journal.broken = self._journal.broken or error
                raise
            if self._journal is not None:
                self._journal.close()
            self._journal = begun
        self._begun, self._unsure, self._noted = self.version, False, False
        self._to_replay = 0.0
        self._longest = max(self.recovery_seconds, _CHECKPOINTS * (_cpu_seconds() - began))
        self._long = max(_LONG, _CHECKPOINTS * folders.checkpoint_path(self.path, self.version).stat().st_size)

    def _shared(self) -> dict[str, str]:
        """Return the additional names of shared parameters, with the first name of each."""
        names = {id(tensor): name for name, tensor in self._model.named_parameters()}
        state = self._model.saved_tensors().items()
        return {name: names[id(t)] for name, t in state if names.get(id(t), name) != name}

    def _sync(self) -> None:
        with self._files, contextlib.suppress(OSError):  # the next write raises the error
            if self._journal is not None:
                self._journal.sync()

    def summary(self) -> dict[str, Any]:
        """Return the figures for the statistics, without the path."""
        written = self._journal
        return {
            "durability": self.durability,
            "version": self.version,
            "replayed": self.replayed,
            "checkpoint": self._begun,
            "journal_bytes": 0 if written is None else written.end,
            "replay_seconds": self._to_replay,
            "failed": written is not None and written.broken is not None,
        }

    def close(self) -> None:
        """Write a checkpoint and release the folder; idempotent.

        Raises
        ------
        OSError
            If the checkpoint cannot be written; the journal is kept.
        """
        if self._journal is None:
            return
        try:
            self.checkpoint()
            self._lock.check()
            (self.path / folders.CLEAN).touch()
            flush_directory(self.path)
        finally:
            if self._syncing is not None:
                self._syncing.stop()
                self._sync()  # the part that was not synced, if there is no new checkpoint
            self.abandon()

    def reopen(self) -> None:
        """Continue after `close`, unless another process has opened the store; the weights are those of this process.

        Does nothing on an open store.

        Raises
        ------
        StoreError, OSError
            If that is not possible.
        """
        if self.is_open:
            return
        self._lock = Lock(self.path)
        try:
            self._not_clean()
            self._write_checkpoint()
        except BaseException:
            self.abandon()
            raise
        self._syncing = _Syncing(self._sync) if self.durability == "group" else None

    def abandon(self) -> None:
        """Close the files without writing, also in a forked child, whose parent keeps using them."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._lock.release()


class _Syncing:
    """A thread that calls a function within `GROUP_SECONDS` of a request."""

    def __init__(self, function: Callable[[], None]):
        self._function = function
        self._asked = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="labnet-store", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Request a call of the function."""
        self._asked.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._asked.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._asked.wait()
            self._asked.clear()  # before `_stopping` is read, which `stop` sets first
            if not self._stopping.wait(GROUP_SECONDS):
                self._function()


def stored_outcomes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Outcomes:
    """Return the outcomes of a checkpoint."""
    replies = {name: tensor.numpy() for name, tensor in tensors.items() if name.startswith("reply/")}
    return Outcomes.decode(replies, metadata["outcomes"])


def _cpu_seconds() -> float:
    """Return the CPU time of this thread in seconds."""
    return time.thread_time()


def _name(optimizer: Optimizer | None) -> str:
    return "no optimizer" if optimizer is None else optimizer.kind
