"""Replies as a client sees them, whatever transport brought them."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

#: Stages of an attempt: the connection is open, the reply has begun.
Stage = Literal["connected", "answered"]
#: Longest reply that is read, in bytes.
MAX_REPLY = 1 << 34


class Response(NamedTuple):
    """A complete reply."""

    status: int
    headers: Mapping[str, str]
    body: memoryview | bytes
