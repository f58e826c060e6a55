"""The address of a server."""

import functools
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Address:
    """The address of a server: scheme, host, port and the path prefix of its routes.

    Examples
    --------
    >>> Address.parse("localhost:3000")
    Address(scheme='http', host='localhost', port=3000, prefix='')
    >>> Address.parse("https://hub.example/user/ana/proxy/3000/").prefix
    '/user/ana/proxy/3000'
    """

    scheme: str
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Parse ``host:port``, or a URL with http or https.

        Raises
        ------
        ValueError
            If it is neither.
        """
        if not isinstance(url, str):
            raise ValueError(f"expected a URL such as 'localhost:3000', got {type(url).__name__} {url!r:.60}")
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            standard = {"http": 80, "https": 443}[parts.scheme]
            port = parts.port or standard
            if not parts.hostname or parts.query or parts.fragment or parts.username:
                raise ValueError("unexpected parts")
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{url!r} is not the address of a server: expected 'host:port' or http(s)://..., "
                "with a port up to 65535"
            ) from error
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @functools.cached_property
    def authority(self) -> str:
        """Host and port, as in the Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}"
