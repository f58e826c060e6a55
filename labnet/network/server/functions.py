"""The user's functions as routes: what they are given, and the encoding of what they return."""

import asyncio
import inspect
import time
import types
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labnet import json_codec, wire
from labnet.errors import ServeError, WireError
from labnet.network.server.parameters import ACCEPTED, ANY_VALUE, Parameter
from labnet.network.server.routing import Failure, Reply, Request, Route
from labnet.network.threads import Worker, await_model, run_apart

#: Paths of every server, which a user's route cannot use.
RESERVED = frozenset(
    {
        "",
        "channel",
        "health",
        "metrics",
        "openapi.json",
        "panel.js",
        "server",
        "snapshot",
        "statistics",
        "v2",
        "weights",
    }
)

#: Name of the function that answers the paths of no other route.
DEFAULT = "default"
#: Content types that are decoded without a copy of the body.
_SHORT = (wire.NATIVE, wire.NPY)


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
    """A user's function and the arguments that it takes.

    Attributes
    ----------
    wants_user, wants_value : bool
        Whether it takes a namespace of its client, and what was sent.
    needs_value : bool
        Whether something must be sent.
    parameter : Parameter
        The parameter for what was sent.
    """

    function: Callable[..., Any]
    wants_user: bool
    wants_value: bool
    needs_value: bool
    parameter: Parameter = ANY_VALUE

    @classmethod
    def of(cls, name: str, function: Any) -> "Handler":
        """Read the signature: (user, value), (value), (user) or ().

        Raises
        ------
        ServeError
            If it is not callable or needs more than two arguments.
        """
        if not callable(function):
            raise ServeError(f"route {name!r}: expected a function, got {type(function).__name__} {function!r:.60}")
        try:
            signature = _signature(function)
        except (TypeError, ValueError):
            return cls(function, wants_user=False, wants_value=True, needs_value=True)
        parameters = signature.parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p for p in positional if p.default is p.empty]
        if len(required) > 2 or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
            raise ServeError(
                f"route {name!r}: a handler takes (user, value), (value), (user) or nothing, "
                f"got {inspect.signature(function)}"
            )
        given = positional[: max(len(required), 1)]
        if len(positional) > 1 and positional[0].name == "user":
            given = positional[:2]
        if len(given) == 2:
            parameter = Parameter.of(given[1])
            return cls(
                function, wants_user=True, wants_value=True, needs_value=given[1] in required, parameter=parameter
            )
        if given and given[0].name == "user":
            return cls(function, wants_user=True, wants_value=False, needs_value=False)
        if given:
            parameter = Parameter.of(given[0])
            return cls(function, wants_user=False, wants_value=True, needs_value=bool(required), parameter=parameter)
        takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        return cls(function, wants_user=False, wants_value=takes_any, needs_value=False)

    def call(self, user: types.SimpleNamespace, *values: Any) -> Any:
        """Call the function with the arguments that it takes, of which `values` has at most one."""
        arguments = [user] if self.wants_user else []
        return self.function(*arguments, *(values if self.wants_value else ()))


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function, with texts as annotations only if these cannot be resolved."""
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # whatever the text of an annotation raises
        return inspect.signature(function)


def function_route(name: str, function: Any, *, worker: Worker, users: Users) -> Route:
    """Make the route of a user's function."""
    handler = Handler.of(name, function)

    async def answer(request: Request) -> Reply:
        values: tuple[Any, ...] = ()
        if handler.wants_value and request.method != "GET":
            is_long = request.content_type not in _SHORT and len(request.body) > json_codec.LARGE
            values = await run_apart(lambda: handler.parameter.values(request), is_long=is_long)
        if handler.needs_value and not values:
            raise Failure(400, "BadRequest", f"/{name} needs a tensor or another value: POST one")
        user = users.get(request.client)

        def call() -> Any:
            result = handler.call(user, *values)
            return result if inspect.isawaitable(result) else _reply(result, request.format)

        result = await worker.run(call)
        if isinstance(result, Reply):
            return result
        result = await await_model(result)
        return await run_apart(lambda: _reply(result, request.format), is_long=wire.is_long(result))

    # a default route answers many paths, which the statistics do not tell apart
    label = DEFAULT if name == DEFAULT else None
    return Route(("GET", "POST"), answer, content_types=ACCEPTED, label=label, summary=_first_line(function))


def _reply(result: Any, form: wire.Format) -> Reply:
    body = _encoded(result, form)
    # copied: the handler may change its array while the reply is stored for repetitions
    return Reply(wire.Body(body.content_type, [bytes(part) for part in body.parts]))


async def encoded(result: Any, form: wire.Format) -> wire.Body:
    """Encode the result of a model or function as a body; an unsupported result is a server error."""
    if wire.is_long(result, form):
        return await asyncio.to_thread(_encoded, result, form)
    return _encoded(result, form)


def _encoded(result: Any, form: wire.Format) -> wire.Body:
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
