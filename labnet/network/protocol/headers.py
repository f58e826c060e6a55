"""The names of all headers of labnet's own and of the standard ones that both sides exchange, and their parsers.

Headers with a syntax of their own have their parsers in modules of this folder: `keys` (Idempotency-Key, Labnet-Done),
`digest` (Content-Digest, Want-Content-Digest), `rounds` (Labnet-Round), `trail` (Labnet-Trail) and `op_statistics`
(Labnet-Collect, Labnet-Statistics).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

#: Version of the protocol, id of a client, and token of the server.
PROTOCOL = "Labnet-Protocol"
CLIENT = "Labnet-Client"
TOKEN_HEADER = "X-Labnet-Token"

#: Key of a request, and the number below which the client has every reply.
KEY = "Idempotency-Key"
DONE = "Labnet-Done"
#: Mark of a replayed reply.
REPLAYED = "Labnet-Replayed"

#: Digest of the body, and the request for one in the reply.
CONTENT_DIGEST = "Content-Digest"
WANT_CONTENT_DIGEST = "Want-Content-Digest"

#: Call id, in the reply to a forward and in the backward.
CALL = "Labnet-Call"
#: Id of the original call, in a backward whose forward was repeated.
RENEWS = "Labnet-Renews"
#: Round of a held backward, and of its reply.
ROUND = "Labnet-Round"
#: In a request to ``/settle``: gradients of its calls that were not used are refused from now on.
REFUSE = "Labnet-Refuse"
#: Version of the weights that a forward used or a backward produced.
VERSION = "Labnet-Version"
#: ``train`` or ``eval``, in a forward.
MODE = "Labnet-Mode"
#: Incarnation of the server that answered.
EPOCH = "Labnet-Epoch"
#: Characters at the beginning of an epoch that all incarnations of one store or one replicated model share.
LINEAGE = 16
#: Value in place of an unknown epoch: report the epoch and carry nothing out; and the status of that reply.
ASK, EPOCH_REQUIRED = "?", 428

#: In a gradient from a replica: the incarnation of the primary whose weights its forward used.
PRIMARY = "Labnet-Primary"
#: In a gradient from a replica: length and digest of the client's request.
FOR = "Labnet-For"
#: In a forward: the lineage and the minimum version of the weights to use.
AFTER = "Labnet-After"

#: In a statistics request: the seconds left, then the ids of the waiting servers.
TRAIL = "Labnet-Trail"
#: In a request whose ops are counted, and in the reply with the counts.
COLLECT = "Labnet-Collect"
STATISTICS = "Labnet-Statistics"

#: Metadata: names of the inputs whose gradient the client wants, and the loss at which its backward began.
WANTED = "requires_grad"
LOSS = "loss"

_FOR = re.compile(r"([0-9]{1,19}) ([0-9a-f]{32})", re.ASCII)


def renewed_by(headers: Mapping[str, str]) -> str:
    """Return the original call of a backward whose forward was repeated; otherwise an empty string."""
    renews = headers.get(RENEWS, "")
    return renews if renews != headers.get(CALL) else ""


def original_call(headers: Mapping[str, str]) -> str | None:
    """Return the call of a backward, or the original one if its forward was repeated."""
    return headers.get(RENEWS) or headers.get(CALL)


@dataclass(frozen=True)
class BodyDigest:
    """Length and digest of the client's request behind a request of a replica.

    Examples
    --------
    >>> BodyDigest.read("12 " + 32 * "0").length, BodyDigest.read("12")
    (12, None)
    """

    length: int
    digest: str

    @classmethod
    def read(cls, text: str | None) -> "BodyDigest | None":
        """Read the header; None if it is missing or malformed."""
        found = _FOR.fullmatch(text or "")
        return None if found is None else cls(int(found[1]), found[2])

    def header(self) -> dict[str, str]:
        """Return the header."""
        return {FOR: f"{self.length} {self.digest}"}


@dataclass(frozen=True)
class Least:
    """The minimum version of the weights for a forward: that of the client's last update.

    Examples
    --------
    >>> Least.read("00c0ffee00c0ffee 7")
    Least(lineage='00c0ffee00c0ffee', version=7)
    """

    lineage: str
    version: int

    @classmethod
    def read(cls, text: str | None) -> "Least | None":
        """Read the header; None if it is missing or malformed."""
        lineage, _, version = (text or "").partition(" ")
        if not lineage or not (version.isascii() and version.isdigit() and len(version) < 16):
            return None
        return cls(lineage, int(version))

    def header(self) -> dict[str, str]:
        """Return the header."""
        return {AFTER: f"{self.lineage} {self.version}"}
