"""Requests, replies and the table of routes, independent of sockets.

A route is one row: methods, path, access and the coroutine that answers.
"""

import asyncio
import types
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from labnet import json_codec, wire
from labnet.errors import DTypeError, GradientError, LabnetError, PartialUpdate, ShapeError, WireError


def path_of(target: str) -> str:
    """Return the path of a request's target, without the query.

    Examples
    --------
    >>> path_of("/v2/models/my%20model?x=1")
    '/v2/models/my model'
    """
    if target.startswith(("http://", "https://")):
        target = urlsplit(target).path or "/"
    path = target.partition("?")[0]
    return unquote(path) if "%" in path else path


class Failure(Exception):
    """An error reply: status, name of the error class that the client raises, and message.

    `details` are further fields of the error document, such as `applied`.
    """

    def __init__(
        self,
        status: int,
        error: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.error = error
        self.message = message
        self.headers = dict(headers or {})
        self.details = dict(details or {})


class Request:
    """A complete and admitted request.

    Parameters
    ----------
    headers : mapping of str to str
        Headers, found case-insensitively.
    client : str, optional
        Id that the client chose.
    digest : str
        Digest of the body in hexadecimal digits; empty without a body.
    """

    __slots__ = ("body", "client", "content_type", "digest", "format", "headers", "method", "path")

    def __init__(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | bytearray | memoryview,
        client: str | None,
        digest: str = "",
    ):
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self.client = client
        self.digest = digest
        #: Media type of the body, without parameters.
        self.content_type = kind = wire.kind_of(headers.get("Content-Type", ""))
        default = kind if kind in wire.MESSAGES else wire.JSON
        #: Format of the tensors in the reply: that of Accept, else that of the request, else JSON.
        self.format: wire.Format = wire.negotiate(headers.get("Accept", ""), default)

    @property
    def native(self) -> bool:
        """Whether the client reads the safetensors layout, by its Accept header or by the format of its request."""
        return self.format.content_type == wire.NATIVE

    @property
    def is_json(self) -> bool:
        """Whether the body is JSON."""
        return self.content_type == wire.JSON

    async def message(self) -> wire.Message | None:
        """Return the tensors of the body, or None if there is no body.

        Raises
        ------
        WireError
            If the body is malformed.
        """
        if self.method == "GET":
            return None
        if self.is_json and len(self.body) > json_codec.LARGE:
            return await asyncio.to_thread(wire.decode_message, self.content_type, self.body)
        return wire.decode_message(self.content_type, self.body)


class Reply(NamedTuple):
    """A reply: a body and extra headers."""

    body: wire.Body
    headers: Mapping[str, str] = types.MappingProxyType({})


Answer = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True)
class Route:
    """One row of the table.

    Attributes
    ----------
    methods : tuple of str
        HTTP methods that it answers.
    answer : coroutine function
        From `Request` to `Reply`; raises `Failure` for an error reply.
    readable : bool
        Whether it needs no token on a server that is bound to loopback.
    counted : bool
        Whether the statistics include it.
    sealed : bool
        Whether a short secret in the body of a POST replaces the token.
    content_types : tuple of str
        Accepted content types of a POST; "" accepts a missing one, except from web pages.
    label : str, optional
        Name in the statistics if it is not the path; listed from the first request on.
    summary : str
        One sentence for ``/openapi.json``.
    replies : tuple of str
        Possible content types of a reply, for ``/openapi.json``.
    """

    methods: tuple[str, ...]
    answer: Answer
    readable: bool = False
    counted: bool = True
    sealed: bool = False
    content_types: tuple[str, ...] = wire.MESSAGES
    label: str | None = None
    summary: str = ""
    replies: tuple[str, ...] = (*wire.MESSAGES, wire.TEXT, wire.BYTES)


#: What explains models of other libraries.
_PAGE = "(docs/bring-your-own-model.md)"


def failure_of(error: BaseException) -> Failure:
    """Convert an exception of a handler into an error reply."""
    if isinstance(error, Failure):
        return error
    text = _text(error)
    if isinstance(error, WireError):
        return Failure(400, "BadRequest", text)
    if isinstance(error, ShapeError):
        return Failure(422, "RemoteShapeError", text)
    if isinstance(error, DTypeError):
        return Failure(422, "RemoteDTypeError", text)
    if isinstance(error, GradientError):
        return Failure(422, "RemoteGradientError", text)
    if isinstance(error, PartialUpdate):
        return Failure(500, "PartialUpdate", text, details={"servers": error.servers})
    reason = f"{type(error).__name__}: {text}"
    if isinstance(error, LabnetError):
        return Failure(500, "RemoteFailure", reason)
    if isinstance(error, TypeError) and "must be Tensor, not Tensor" in text:  # torch's, for a tensor of labnet
        reason += "; a function that is served gets tensors of labnet: serve the torch module itself " + _PAGE
    return Failure(500, "RemoteFailure", f"the handler raised {reason}")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the user's exception has a failing __str__
        return "(an exception without text)"
