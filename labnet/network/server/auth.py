"""Tokens, and the checks of Host and Origin where no token is needed.

Everything that runs code or changes weights needs the token in the header ``X-Labnet-Token``. Elsewhere Host and Origin
are checked, so that a web page cannot reach a server on this machine.
"""

import hmac
import secrets
from urllib.parse import urlsplit

from labnet.network.discovery import is_loopback


def new_token() -> str:
    """Return a fresh token of 192 random bits."""
    return secrets.token_urlsafe(24)


def same_token(expected: str, given: str | None) -> bool:
    """Compare tokens in constant time.

    Examples
    --------
    >>> same_token("abc", "abc"), same_token("abc", "abd"), same_token("abc", None)
    (True, False, False)
    """
    return given is not None and hmac.compare_digest(expected.encode(), given.encode())


def is_trusted_origin(host: str | None, origin: str | None) -> bool:
    """Return whether a request without a token comes from this machine and not from a web page.

    Examples
    --------
    >>> is_trusted_origin("127.0.0.1:3000", None)
    True
    >>> is_trusted_origin("127.0.0.1:3000", "https://evil.example")
    False
    """
    if host is None or not is_loopback(host):
        return False
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc == host and is_loopback(parts.netloc)
    except ValueError:
        return False


def is_from_another_site(site: str | None) -> bool:
    """Return whether the header Sec-Fetch-Site names another site.

    Browsers send no Origin with requests for images, scripts and links, but they send this header with every request.

    Examples
    --------
    >>> is_from_another_site("cross-site"), is_from_another_site("same-origin"), is_from_another_site(None)
    (True, False, False)
    """
    return site is not None and site.strip().lower() not in ("same-origin", "none")
