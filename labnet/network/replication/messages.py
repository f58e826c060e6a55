"""Messages between the primary of a model and its replicas: bodies and identities. No I/O.

A replica computes forwards and backwards with a copy of the weights. It forwards the gradients of each backward to the
primary, under the client's own key and call, together with the reply to the client. The primary applies them as if the
client had sent the backward to it: once, with the reply in its ledger and its store. So it can answer for a replica
that has died. A client that it tells ``applied: no`` may start over, because later gradients are refused.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from labnet import wire
from labnet.errors import GraphExpired, Overloaded, RemoteError, RemoteTimeout, Unreachable
from labnet.network.protocol.headers import LINEAGE
from labnet.network.server.routing import Failure
from labnet.tensor import Tensor, wrap

_GRADIENT, _REPLY = "gradient/", "reply"
_STATUS = {"GraphExpired": 410, "CallExpired": 409, "StaleGradient": 412, "BadGradient": 422}


def new_lineage() -> str:
    """Return a new lineage, for a primary without a store."""
    return secrets.token_hex(LINEAGE // 2)


@dataclass(frozen=True)
class ForwardedGradients:
    """The gradients of one backward that a replica forwards to the primary.

    Attributes
    ----------
    gradients : mapping of str to Tensor
        Gradients by parameter name.
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
    def decode(cls, message: wire.Message | None) -> "ForwardedGradients":
        """Read the body of a request.

        Raises
        ------
        Failure
            If it is malformed.
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
    """Convert an error of the primary into the reply of a replica to its client."""
    details = {"applied": error.applied} if error.applied else {}
    if isinstance(error, Unreachable | RemoteTimeout | Overloaded):
        reason = f"the primary does not take the gradient now: {error}"
        return Failure(503, "Overloaded", reason, headers={"Retry-After": "1"}, details=details)
    name = type(error).__name__
    return Failure(_STATUS.get(name, 500), name, f"the primary refuses the gradient: {error}", details=details)


def gone(applied: str, why: str) -> Failure:
    """Return the reply to a gradient that is not applied."""
    return Failure(410, GraphExpired.__name__, f"{why} (applied: {applied})", details={"applied": applied})
