"""Where a server is: at an address that stays, or wherever somebody who keeps track of it says.

A server that may come back elsewhere has a name that stays; keys derived for requests to it are made from the name.
Knows nothing of who keeps track.
"""

import ssl as tls
from collections.abc import Mapping
from typing import Protocol

from labnet.network.transport.pool import Address


class Gone(OSError):
    """The server will not come back; the message says why."""


class Whereabouts(Protocol):
    """Where to send the requests of one caller."""

    @property
    def name(self) -> str:
        """What stays the same wherever the server is."""
        ...

    @property
    def known(self) -> str:
        """Under what its incarnation is remembered."""
        ...

    @property
    def address(self) -> Address:
        """Where it was last."""
        ...

    @property
    def token(self) -> str | None:
        """Token that it had there, None where it has to be found otherwise."""
        ...

    @property
    def ssl(self) -> tls.SSLContext | None:
        """How to check its certificate."""
        ...

    @property
    def moves(self) -> bool:
        """Whether it may come back elsewhere."""
        ...

    def heard(self, route: str, headers: Mapping[str, str]) -> None:
        """Take note of a reply."""

    async def look_up(self) -> bool:
        """Ask again, after a request has failed; tell whether it is elsewhere, or another one, now.

        Raises
        ------
        Gone
            If it will not come back.
        """
        ...


class Fixed:
    """A server that is where it is.

    Examples
    --------
    >>> Fixed(Address.parse("localhost:3000"), None, None).name
    'http://localhost:3000'
    """

    moves = False

    def __init__(self, address: Address, token: str | None, ssl: tls.SSLContext | None):
        self.address = address
        self.token = token
        self.ssl = ssl
        self.name = str(address)
        self.known = self.name

    def heard(self, route: str, headers: Mapping[str, str]) -> None:
        """Do nothing."""

    async def look_up(self) -> bool:
        """Return False: it does not move."""
        return False
