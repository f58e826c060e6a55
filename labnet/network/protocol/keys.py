"""Idempotency keys: one sequence per process, or one per request that it serves.

While a server answers a request, its own requests get keys derived from that request's key, from their target and from
their content. A server that answers the same request twice therefore sends the same keys twice, in any order, and the
servers that it calls carry out each request once.
"""

import contextvars
import itertools
import os
import secrets
import threading
from collections.abc import Iterator
from typing import NamedTuple

import xxhash

from labnet.network.protocol.headers import DONE, KEY


class Key(NamedTuple):
    """A client and a sequence of numbers; a request on behalf of another continues its sequence.

    Examples
    --------
    >>> Key.parse('"ana:17"')
    Key(client='ana', sequence=(17,))
    >>> Key.parse("ana/0c1d:17.0") < Key.parse("ana/0c1d:17.1")
    True
    >>> Key.parse("8e03978e-40d5")
    Key(client='8e03978e-40d5', sequence=(0,))
    """

    client: str
    sequence: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Read a key, with or without quotes; any text but ``client:sequence`` is a client with one request.

        Raises
        ------
        ValueError
            If it is empty or longer than 512 characters.
        """
        text = text.strip('"')
        if not 0 < len(text) <= 512:
            raise ValueError(f"an idempotency key has 1 to 512 characters, got {len(text)}")
        client, _, numbers = text.rpartition(":")
        if client and _is_number(numbers):
            return cls(client, (int(numbers),))
        parts = numbers.split(".")
        if not client or not all(map(_is_number, parts)):
            return cls(text, (0,))
        return cls(client, tuple(map(int, parts)))

    def continues(self, other: "Key") -> bool:
        """Return whether one of two sequences of the same client is a prefix of the other.

        Examples
        --------
        >>> Key.parse("ana:17.1").continues(Key.parse("ana:17")), Key.parse("ana:17").continues(Key.parse("ana:18"))
        (True, False)
        """
        length = min(len(self.sequence), len(other.sequence))
        return self.client == other.client and self.sequence[:length] == other.sequence[:length]


def _is_number(text: str) -> bool:
    return text.isdigit() and text.isascii() and len(text) < 20


class Ticket:
    """The key of one request, the same for every attempt; the server keeps its reply while the ticket exists."""

    __slots__ = ("_number", "_open", "key")

    def __init__(self, key: str, number: int | None = None, waiting: dict[int, None] | None = None):
        self.key = key
        self._number = number
        self._open = {} if waiting is None else waiting

    def headers(self) -> dict[str, str]:
        """Return the headers with the key."""
        if self._number is None:
            return {KEY: f'"{self.key}"'}
        try:
            done = next(iter(self._open), self._number)
        except RuntimeError:  # another thread took or closed a ticket just now: nothing to report this time
            done = 0
        return {KEY: f'"{self.key}"', DONE: str(done)}

    def __del__(self) -> None:
        if self._number is not None:  # without a lock: the garbage collector may call this anywhere
            self._open.pop(self._number, None)


class Identity:
    """A client: its id and its request numbers, each used once.

    Parameters
    ----------
    client : str
        The id.
    numbers : iterator of int
        Rising.

    Examples
    --------
    >>> Identity("ana", itertools.count(17)).take().key
    'ana:17'
    """

    def __init__(self, client: str, numbers: Iterator[int]):
        self.client = client
        self._numbers = numbers
        self._lock = threading.Lock()
        self._open: dict[int, None] = {}

    def take(self) -> Ticket:
        """Return a fresh key."""
        with self._lock:
            number = next(self._numbers)
            self._open[number] = None
        return Ticket(f"{self.client}:{number}", number, self._open)


_process: Identity | None = None


def of_process() -> Identity:
    """Return the client of this process, with a random 128-bit id; a forked child is another client."""
    global _process
    if _process is None:
        _process = Identity(secrets.token_hex(16), itertools.count(1))
    return _process


def _forget() -> None:
    global _process
    _process = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Origin:
    """A request that is being answered, from which the keys of further requests are derived.

    Parameters
    ----------
    key : Key
        Key of the request. For a backward it is the key of its forward, so that all attempts of the backward derive the
        same keys.
    part : str
        Distinguishes the requests of the backward from those of the forward.

    Examples
    --------
    >>> origin = Origin(Key.parse("ana:17"))
    >>> origin.derive("http://b:3000/forward", b"body")
    'ana/2c4700d90b04eb5f:17.4789970141154636029.0'
    >>> origin.derive("http://b:3000/forward", b"body", position=1)
    'ana/2c4700d90b04eb5f:17.4789970141154636029.1'
    """

    __slots__ = ("_client", "_counts", "_part", "_sequence")

    def __init__(self, key: Key, part: str = ""):
        self._client = key.client
        self._part = part
        self._sequence = key.sequence
        self._counts: dict[tuple[str, bytes], int] = {}

    def derive(self, target: str, content: bytes = b"", *, position: int = 0) -> str:
        """Return the key of a request to a target.

        Parameters
        ----------
        target : str
            Name of the server, and route.
        content : bytes
            Distinguishes the request from others to this target; the same in every repetition.
        position : int
            Its position among requests with the same content.
        """
        number = xxhash.xxh3_64_intdigest(content) >> 1
        where = xxhash.xxh3_64_hexdigest(f"{self._part}{target}".encode())
        return f"{self._client}/{where}:{'.'.join(map(str, (*self._sequence, number, position)))}"

    def next_position(self, target: str, content: bytes) -> int:
        """Count a request to a target; return the number of earlier ones with the same content."""
        position = self._counts.get((target, content), 0)
        self._counts[target, content] = position + 1
        return position


_origin: contextvars.ContextVar[Origin | None] = contextvars.ContextVar("labnet_origin", default=None)


def answering(key: Key | None) -> None:
    """Derive the keys of this task's requests from the request that it answers; None ends this."""
    _origin.set(None if key is None else Origin(key))


def go_on_as(origin: Origin) -> None:
    """Derive the keys of this task's requests from another origin: the forward of its backward."""
    _origin.set(origin)


def take(target: str, identity: Identity | None = None, *, content: bytes = b"", counted: bool = True) -> Ticket:
    """Return a key for a request to a target: a new one of a client, by default of this process.

    If the request is made on behalf of another one, its key is derived from that one's key instead.

    Parameters
    ----------
    content : bytes
        Distinguishes the request from others to this target; the same in every repetition.
    counted : bool
        Whether a further request with this content is a new one; otherwise it has the same key.
    """
    origin = _origin.get()
    if origin is None:
        return (identity or of_process()).take()
    position = origin.next_position(target, content) if counted else 0
    return Ticket(origin.derive(target, content, position=position))


def is_derived() -> bool:
    """Return whether this task makes requests on behalf of another request."""
    return _origin.get() is not None
