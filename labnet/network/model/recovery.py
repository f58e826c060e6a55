"""Forwards that are computed again after a crash, from what was noted of them and without asking another server.

Before a backward reaches other servers, the server in the middle notes what its forward was given: its inputs, and
what the others answered. If it dies before its own part is applied, the one that comes after it computes the forward
again, and goes on where it was if every byte of the output is the same.
"""

import contextvars
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xxhash

from labnet import wire
from labnet.errors import LabnetError
from labnet.network.protocol import keys
from labnet.network.server.ledger import Key
from labnet.store import Intent
from labnet.tensor import Tensor, on_host

Array = np.ndarray[Any, Any]


class Different(LabnetError):
    """What is computed again asks for something that was not noted: it is not what was computed before."""


class Noted(NamedTuple):
    """One forward of another server.

    Attributes
    ----------
    url, content : str, bytes
        Where it was sent, and its body.
    reply : wire.Message
        What came back.
    call, epoch : str
        The id that the server gave it, and the incarnation of the server that did.
    key : str
        Of the request.
    """

    url: str
    content: bytes
    reply: wire.Message
    call: str
    epoch: str | None
    key: str


class Before(NamedTuple):
    """What a forward depends on beside its inputs.

    Attributes
    ----------
    weights : dict of str to Tensor
        Parameters and buffers.
    random : object
        Where the stream of random numbers was.
    """

    weights: Mapping[str, Tensor]
    random: Any


class Notes:
    """What was noted of the forwards of other servers that one forward made; each is given once."""

    def __init__(self, noted: Iterable[Noted]):
        self._left = list(noted)

    def take(self, url: str, content: bytes, key: str) -> Noted:
        """Return what came back of a forward.

        Parameters
        ----------
        key : str
            That it has now: of several with this body, the one with this key is meant.

        Raises
        ------
        Different
            If there was none with this body.
        """
        alike = [noted for noted in self._left if (noted.url, noted.content) == (url, content)]
        if not alike:
            raise Different(f"it sends {url} what it did not send before")
        found = next((noted for noted in alike if noted.key == key), alike[0])
        self._left = [noted for noted in self._left if noted is not found]
        return found


#: What the forward that is computed again is answered; None everywhere else.
_notes: contextvars.ContextVar[Notes | None] = contextvars.ContextVar("labnet_notes", default=None)


def answered(url: str, body: wire.Body, key: str) -> Noted | None:
    """Return what a forward in training mode was answered, where it is computed again; None everywhere else.

    Raises
    ------
    Different
        If it was not made before.
    """
    notes = _notes.get()
    return None if notes is None else notes.take(url, b"".join(body.parts), key)


def check(method: str, where: str) -> None:
    """Raise a `Different` for a request that may change something, where a forward is computed again."""
    if method != "GET" and _notes.get() is not None:
        raise Different(f"it sends {where} something, and nobody knows what was answered before")


class Past:
    """A forward that a store has noted.

    Attributes
    ----------
    call : str
        Its id.
    version : int
        Of the weights that it saw.
    before : Before
        These weights, and where the stream of random numbers was.
    inputs : dict of str to Tensor
        What its client sent, as leaves.
    by_name : bool
        Whether the model is given them by their names.
    key : str
        Of the request.
    """

    def __init__(self, intent: Intent):
        about = json.loads(intent.about)
        self.call, self.version = intent.call, intent.version
        weights = {name: Tensor(array) for name, array in intent.weights.items()}
        self.before = Before(weights, about["random"])
        self.by_name: bool = about["by_name"]
        self.key: str = about["key"]
        self.inputs = {
            name: Tensor(intent.forward[f"input/{name}"], requires_grad=name in about["wanted"])
            for name in about["inputs"]
        }
        self._output: str = about["output"]
        self._noted = [
            Noted(
                url,
                intent.forward[f"sent/{number}"].tobytes(),
                wire.decode_native(intent.forward[f"reply/{number}"].tobytes()),
                call,
                epoch,
                key,
            )
            for number, (url, call, epoch, key) in enumerate(about["others"])
        ]

    def begin(self) -> "contextvars.Token[Notes | None]":
        """Have the requests of this context answered from what was noted; `end` ends that."""
        keys.answering(Key.parse(self.key))
        return _notes.set(Notes(self._noted))

    @staticmethod
    def end(token: "contextvars.Token[Notes | None]") -> None:
        """End what `begin` began."""
        keys.answering(None)
        _notes.reset(token)

    def check(self, outputs: Mapping[str, Tensor]) -> None:
        """Raise a `Different` unless every byte of the outputs is what it was."""
        if digest(outputs) != self._output:
            raise Different("its output is another one")


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
    before: Before,
    noted: Iterable[Noted],
) -> Intent:
    """Return what a store is to note of a forward, before its backward is handed on to other servers."""
    noted = list(noted)
    forward: dict[str, Array] = {f"input/{name}": tensor.numpy() for name, tensor in inputs.items()}
    for number, one in enumerate(noted):
        reply = b"".join(wire.encode_native(one.reply).parts)
        forward |= {f"sent/{number}": _bytes(one.content), f"reply/{number}": _bytes(reply)}
    about = {
        "inputs": list(inputs),
        "wanted": [name for name, tensor in inputs.items() if tensor.requires_grad],
        "by_name": by_name,
        "key": key,
        "random": before.random,
        "output": digest(outputs),
        "others": [[one.url, one.call, one.epoch, one.key] for one in noted],
    }
    values = {name: on_host(tensor) for name, tensor in before.weights.items()}
    return Intent(call, servers, version, forward, json.dumps(about), values)


def _bytes(content: bytes) -> Array:
    return np.frombuffer(content, np.uint8)
