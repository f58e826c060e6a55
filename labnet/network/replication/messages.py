"""What the primary of a model and its replicas say to each other: headers, bodies and identities. No I/O.

A replica computes forwards and backwards with a copy of the weights, and hands the gradients of each backward to the
primary under the client's own key and call, with the reply that the client is to get. The primary applies them as if
the backward had come to it: once, with the reply in its ledger and its store. So it can answer for a replica that has
died, and a client that is told ``applied: no`` by it may start anew: a gradient that comes later is refused.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from labnet import wire
from labnet.errors import GraphExpired, Overloaded, RemoteError, RemoteTimeout, Unreachable
from labnet.network.server.routing import Failure
from labnet.tensor import Tensor, wrap

#: Header of a gradient from a replica: the incarnation of the primary whose weights its forward had.
PRIMARY = "Labnet-Primary"
#: Header of a forward: the lineage and the least version of the weights that it may be carried out with.
AFTER = "Labnet-After"
#: Hex digits of an epoch that stay the same as long as nothing that was answered is lost.
LINEAGE = 16

_GRADIENT, _REPLY = "gradient/", "reply"
_STATUS = {"GraphExpired": 410, "CallExpired": 409, "StaleGradient": 412, "BadGradient": 422}


def new_lineage() -> str:
    """Return what the epochs of a primary without a store begin with."""
    return secrets.token_hex(LINEAGE // 2)


@dataclass(frozen=True)
class Least:
    """The least version of the weights that a client wants its forward carried out with: it has made that update.

    Examples
    --------
    >>> Least.read("00c0ffee00c0ffee 7")
    Least(lineage='00c0ffee00c0ffee', version=7)
    """

    lineage: str
    version: int

    @classmethod
    def read(cls, text: str | None) -> "Least | None":
        """Read the header; None without a good one."""
        lineage, _, version = (text or "").partition(" ")
        if not lineage or not (version.isascii() and version.isdigit() and len(version) < 16):
            return None
        return cls(lineage, int(version))

    def header(self) -> dict[str, str]:
        """Return the header."""
        return {AFTER: f"{self.lineage} {self.version}"}


@dataclass(frozen=True)
class Handed:
    """The gradients of one backward as a replica hands them on.

    Attributes
    ----------
    gradients : mapping of str to Tensor
        By the names of the parameters.
    reply : bytes
        Body of the reply to the client.
    """

    gradients: Mapping[str, Tensor]
    reply: bytes

    def encode(self) -> wire.Body:
        """Return the body of the request."""
        tensors = {_GRADIENT + name: gradient for name, gradient in self.gradients.items()}
        tensors[_REPLY] = wrap(np.frombuffer(self.reply, np.uint8))
        return wire.encode_native(wire.Message(tensors, named=True))

    @classmethod
    def decode(cls, message: wire.Message | None) -> "Handed":
        """Read the body of a request.

        Raises
        ------
        Failure
            If it is none.
        """
        if message is None or _REPLY not in message.tensors:
            raise Failure(400, "BadRequest", "/apply needs gradients by name, and the reply to the client")
        found = {
            name.removeprefix(_GRADIENT): tensor
            for name, tensor in message.tensors.items()
            if name.startswith(_GRADIENT)
        }
        return cls(found, message.tensors[_REPLY].numpy().tobytes())


def failure_of(error: RemoteError) -> Failure:
    """Return what a replica tells its client where the primary has failed it."""
    details = {"applied": error.applied} if error.applied else {}
    if isinstance(error, Unreachable | RemoteTimeout | Overloaded):
        reason = f"the primary does not take the gradient now: {error}"
        return Failure(503, "Overloaded", reason, headers={"Retry-After": "1"}, details=details)
    name = type(error).__name__
    return Failure(_STATUS.get(name, 500), name, f"the primary refuses the gradient: {error}", details=details)


def gone(applied: str, why: str) -> Failure:
    """Return the reply to a gradient that is not taken."""
    return Failure(410, GraphExpired.__name__, f"{why} (applied: {applied})", details={"applied": applied})
