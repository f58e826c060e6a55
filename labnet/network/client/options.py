"""The options of a client, checked once where a user gives them."""

import os
import ssl as tls
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from labnet.errors import RemoteError
from labnet.network.client.retry import Backoff


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """How a client sends its requests; see `labnet.network.tfetch` and `labnet.network.remote_model`.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong type or out of range.
    """

    timeout: float = 60.0
    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    ssl: tls.SSLContext | None = None
    client: str | None = None
    backoff: Backoff | None = None
    wire_dtype: str | None = None
    state: str | os.PathLike[str] | None = None
    forward: str = "/forward"
    backward: str = "/optimize"
    on_error: Callable[[RemoteError], object] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.wire_dtype not in (None, "bfloat16"):
            raise ValueError(f"wire_dtype must be None or 'bfloat16', got {self.wire_dtype!r:.40}")
        timeout = self.timeout
        if not isinstance(timeout, int | float | np.number):
            raise TypeError(f"timeout must be a number of seconds, got {type(timeout).__name__} {timeout!r:.40}")
        if not timeout > 0:
            raise ValueError(f"timeout must be positive seconds, got {timeout}")
        if not isinstance(self.token, str | None):
            raise TypeError(f"token must be text or None, got {type(self.token).__name__}")
        if not isinstance(self.ssl, tls.SSLContext | None):
            raise TypeError(f"ssl must be an ssl.SSLContext, got {type(self.ssl).__name__}")
        _check_headers(self.headers or {})
        for name in ("forward", "backward"):
            route = getattr(self, name)
            if not isinstance(route, str) or not route.strip("/"):
                raise ValueError(f"{name} must be the name of a route such as '/{name}', got {route!r:.40}")
        if self.on_error is not None and not callable(self.on_error):
            raise TypeError(f"on_error must be a function of the error, got {type(self.on_error).__name__}")


def _check_headers(headers: Mapping[str, str]) -> None:
    """Raise for headers that cannot be sent; their values may be secret and are not shown."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping from names to texts, got {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            kinds = f"{type(name).__name__} to {type(value).__name__}"
            raise TypeError(f"headers must be a mapping from names to texts, got one from {kinds}")
        if any(character in name + value for character in "\r\n\0"):
            raise ValueError(f"the header {name!r:.40} has a line break in it, which no header can have")
