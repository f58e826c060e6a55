"""Requests, replies and the table of routes, independent of sockets.

A route is one row: methods, path, access and the coroutine that answers.
"""

import inspect
import time
import types
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from labnet import wire
from labnet.errors import DTypeError, LabnetError, PartialUpdate, ServeError, ShapeError, WireError
from labnet.network.threads import Worker, await_model

#: Paths of every server, which a user's route cannot use.
RESERVED = frozenset(
    {"", "health", "metrics", "openapi.json", "panel.js", "server", "snapshot", "statistics", "v2", "weights"}
)


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

    __slots__ = ("_content_type", "body", "client", "digest", "format", "headers", "method", "path")

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
        kind = self._content_type = wire.kind_of(headers.get("Content-Type", ""))
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
        return self._content_type == wire.JSON

    def message(self) -> wire.Message | None:
        """Return the tensors of the body, or None if there is no body.

        Raises
        ------
        WireError
            If the body is malformed.
        """
        if self.method == "GET":
            return None
        return wire.decode_message(self._content_type, self.body)


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
    if isinstance(error, PartialUpdate):
        return Failure(500, "PartialUpdate", text, details={"servers": error.servers})
    reason = f"{type(error).__name__}: {text}"
    if isinstance(error, LabnetError):
        return Failure(500, "RemoteFailure", reason)
    return Failure(500, "RemoteFailure", f"the handler raised {reason}")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the user's exception has a failing __str__
        return "(an exception without text)"


class Users:
    """A namespace per client that persists between its calls; bounded, and idle ones are dropped.

    Examples
    --------
    >>> users = Users()
    >>> users.get("a").count = 1
    >>> users.get("a").count
    1
    """

    def __init__(self, *, capacity: int = 1024, idle_seconds: float = 3600.0):
        self._capacity = capacity
        self._idle_seconds = idle_seconds
        self._users: OrderedDict[str, tuple[float, types.SimpleNamespace]] = OrderedDict()

    def get(self, client: str | None, *, now: float | None = None) -> types.SimpleNamespace:
        """Return the namespace of a client; a fresh one for a client without an id."""
        if client is None:
            return types.SimpleNamespace()
        now = time.monotonic() if now is None else now
        _, user = self._users.pop(client, (now, types.SimpleNamespace()))
        self._users[client] = (now, user)
        while len(self._users) > self._capacity or next(iter(self._users.values()))[0] < now - self._idle_seconds:
            self._users.popitem(last=False)
        return user

    def __len__(self) -> int:
        return len(self._users)


@dataclass(frozen=True)
class Handler:
    """A user's function and the arguments that it takes."""

    function: Callable[..., Any]
    wants_user: bool
    wants_tensor: bool
    needs_tensor: bool

    @classmethod
    def of(cls, name: str, function: Any) -> "Handler":
        """Read the signature: (user, tensor), (tensor), (user) or ().

        Raises
        ------
        ServeError
            If it is not callable or needs more than two arguments.
        """
        if not callable(function):
            raise ServeError(f"route {name!r}: expected a function, got {type(function).__name__} {function!r:.60}")
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return cls(function, wants_user=False, wants_tensor=True, needs_tensor=True)
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p for p in positional if p.default is p.empty]
        if len(required) > 2 or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
            raise ServeError(
                f"route {name!r}: a handler takes (user, tensor), (tensor), (user) or nothing, "
                f"got {inspect.signature(function)}"
            )
        given = positional[: max(len(required), 1)]
        if len(positional) > 1 and positional[0].name == "user":
            given = positional[:2]
        if len(given) == 2:
            return cls(function, wants_user=True, wants_tensor=True, needs_tensor=given[1] in required)
        if given:
            is_user = given[0].name == "user"
            return cls(
                function, wants_user=is_user, wants_tensor=not is_user, needs_tensor=not is_user and bool(required)
            )
        takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        return cls(function, wants_user=False, wants_tensor=takes_any, needs_tensor=False)

    def call(self, user: types.SimpleNamespace, value: Any) -> Any:
        """Call the function with the arguments that it takes."""
        arguments = [user] if self.wants_user else []
        if self.wants_tensor and (value is not None or self.needs_tensor):
            arguments.append(value)
        return self.function(*arguments)


def function_route(name: str, function: Any, *, worker: Worker, users: Users) -> Route:
    """Make the route of a user's function."""
    handler = Handler.of(name, function)

    async def answer(request: Request) -> Reply:
        message = request.message()
        value = None if message is None else message.value
        if value is None and handler.needs_tensor:
            raise Failure(400, "BadRequest", f"/{name} needs a tensor: POST one")
        user = users.get(request.client)
        result = await await_model(await worker.run(lambda: handler.call(user, value)))
        body = encoded(result, request.format)
        # copied: the handler may change its array while the reply is stored for repetitions
        return Reply(wire.Body(body.content_type, [bytes(part) for part in body.parts]))

    return Route(("GET", "POST"), answer, summary=_first_line(function))


def encoded(result: Any, form: wire.Format) -> wire.Body:
    """Encode the result of a user's function as a body; an unsupported result is a server error."""
    try:
        return wire.encode_value(result, form)
    except WireError as error:
        raise Failure(500, "RemoteFailure", str(error)) from error


def _first_line(function: Any) -> str:
    """Return the first line of the docstring of a user's function."""
    text = inspect.getdoc(function) if inspect.isroutine(function) else None
    return (text or "").partition("\n")[0]


def check_name(name: Any) -> str:
    """Check and return the name of a user's route.

    Raises
    ------
    ServeError
        If it is not one path segment, or is reserved.
    """
    if not isinstance(name, str) or not name.isascii() or not name.replace("-", "_").replace(".", "_").isidentifier():
        raise ServeError(f"route {name!r}: expected a name of the letters a to z, digits, '_', '-' and '.'")
    if name in RESERVED and name != "statistics":
        raise ServeError(f"route {name!r}: this name is reserved, as are {', '.join(sorted(RESERVED - {''}))}")
    return name
