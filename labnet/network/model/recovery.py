"""Replays logged forward passes after a crash.

Before a backward reaches other servers, the server in the middle logs its forward: its inputs, and the replies of the
others. If it dies before its own update, the server that takes its place replays the forward without asking the others,
and continues the backward if every byte of the output is the same.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xxhash

from labnet import wire
from labnet.network.client.replay import RecordedForward, ReplayMismatch, replaying
from labnet.network.protocol import keys
from labnet.network.protocol.keys import Key
from labnet.store import Intent
from labnet.tensor import Tensor, on_host

Array = np.ndarray[Any, Any]


class ForwardState(NamedTuple):
    """What a forward depends on besides its inputs.

    Attributes
    ----------
    weights : dict of str to Tensor
        Parameters and buffers.
    random : object
        State of the random number generator.
    """

    weights: Mapping[str, Tensor]
    random: Any


class LoggedForward:
    """A forward that a store has logged.

    Attributes
    ----------
    call : str
        Its id.
    version : int
        Of the weights that it saw.
    state : ForwardState
        These weights, and the state of the random number generator.
    inputs : dict of str to Tensor
        What its client sent, as leaves.
    by_name : bool
        Whether inputs are passed to the model by name.
    key : str
        Of the request.
    """

    def __init__(self, intent: Intent):
        about = json.loads(intent.about)
        self.call, self.version = intent.call, intent.version
        weights = {name: Tensor(array) for name, array in intent.weights.items()}
        self.state = ForwardState(weights, about["random"])
        self.by_name: bool = about["by_name"]
        self.key: str = about["key"]
        self.inputs = {
            name: Tensor(intent.forward[f"input/{name}"], requires_grad=name in about["wanted"])
            for name in about["inputs"]
        }
        self._output: str = about["output"]
        self._recorded = [
            RecordedForward(
                url,
                intent.forward[f"sent/{number}"].tobytes(),
                wire.decode_native(intent.forward[f"reply/{number}"].tobytes()),
                call,
                epoch,
                key,
            )
            for number, (url, call, epoch, key) in enumerate(about["others"])
        ]

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """Answer the requests of this context from the log."""
        keys.answering(Key.parse(self.key))
        try:
            with replaying(self._recorded):
                yield
        finally:
            keys.answering(None)

    def check(self, outputs: Mapping[str, Tensor]) -> None:
        """Raise `ReplayMismatch` unless the outputs are byte-equal to the logged ones."""
        if digest(outputs) != self._output:
            raise ReplayMismatch("its output is another one")


def renewed_call(intent: Intent) -> str:
    """Return the call that the call of an intent repeats, or nothing."""
    return str(json.loads(intent.about).get("renews", "")) if intent.about else ""


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the XXH3-128 of the tensors in the order of their names, in hexadecimal digits."""
    found = xxhash.xxh3_128()
    for name, tensor in sorted(tensors.items()):
        array = np.ascontiguousarray(tensor.numpy())
        found.update(repr((name, array.dtype.str, array.shape)).encode())
        found.update(array.tobytes())
    return found.hexdigest()


def intent_of(
    call: str,
    servers: tuple[str, ...],
    version: int,
    *,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    by_name: bool,
    key: str,
    state: ForwardState,
    recorded: Iterable[RecordedForward],
    renews: str = "",
) -> Intent:
    """Return the log record of a forward whose backward is about to reach other servers."""
    recorded = list(recorded)
    forward: dict[str, Array] = {f"input/{name}": tensor.numpy() for name, tensor in inputs.items()}
    for number, one in enumerate(recorded):
        reply = b"".join(wire.encode_native(one.reply).parts)
        forward |= {f"sent/{number}": _bytes(one.content), f"reply/{number}": _bytes(reply)}
    about = {
        "inputs": list(inputs),
        "wanted": [name for name, tensor in inputs.items() if tensor.requires_grad],
        "by_name": by_name,
        "key": key,
        "renews": renews,
        "random": state.random,
        "output": digest(outputs),
        "others": [[one.url, one.call, one.epoch, one.key] for one in recorded],
    }
    values = {name: on_host(tensor) for name, tensor in state.weights.items()}
    return Intent(call, servers, version, forward, json.dumps(about), values)


def _bytes(content: bytes) -> Array:
    return np.frombuffer(content, np.uint8)
