"""The location of a server: a fixed address, or one that a directory resolves.

A server that may move has a fixed name, from which the keys of requests to it are derived. This module is independent
of any directory.
"""

import ssl as tls
from collections.abc import Mapping
from typing import Protocol

from labnet.network.transport.address import Address


class Gone(OSError):
    """The server will not return; the message says why."""


class Location(Protocol):
    """Where a caller sends its requests."""

    @property
    def name(self) -> str:
        """Name of the server, the same at every address."""
        ...

    @property
    def known(self) -> str:
        """Key under which its incarnation is cached."""
        ...

    @property
    def address(self) -> Address:
        """Last known address."""
        ...

    @property
    def token(self) -> str | None:
        """Token of the server at that address; None if it must be discovered."""
        ...

    @property
    def ssl(self) -> tls.SSLContext | None:
        """TLS settings for its certificate."""
        ...

    @property
    def moves(self) -> bool:
        """Whether the server may move to another address."""
        ...

    @property
    def trouble(self) -> str:
        """Why the server does not answer, for errors; empty if unknown."""
        ...

    def on_reply(self, route: str, headers: Mapping[str, str]) -> None:
        """Record the headers of a reply."""

    async def resolve(self) -> bool:
        """Resolve the location again after a failure; return whether it has changed.

        Raises
        ------
        Gone
            If the server will not return.
        """
        ...


class FixedLocation:
    """The location of a server that does not move.

    Examples
    --------
    >>> FixedLocation(Address.parse("localhost:3000"), None, None).name
    'http://localhost:3000'
    """

    moves = False
    trouble = ""

    def __init__(self, address: Address, token: str | None, ssl: tls.SSLContext | None):
        self.address = address
        self.token = token
        self.ssl = ssl
        self.name = str(address)
        self.known = self.name

    def on_reply(self, route: str, headers: Mapping[str, str]) -> None:
        """Do nothing."""

    async def resolve(self) -> bool:
        """Return False: the location never changes."""
        return False
