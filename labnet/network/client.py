"""Calling servers: `tfetch` for single requests, `RemoteModel` for models that are trained from afar."""

import asyncio
import inspect
import math
import os
import secrets
import ssl as tls
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
from tornado.iostream import StreamClosedError

from labnet import errors, wire
from labnet.autograd import Node, Run, is_recording
from labnet.errors import GradientError, RemoteError, WireError
from labnet.network import security
from labnet.network.http import CLIENT, PROTOCOL
from labnet.network.loops import IO
from labnet.network.pool import Address, Response, pool
from labnet.network.served import CALL, LOSS, MODE, WANTED
from labnet.tensor import Tensor, as_array, wrap

T = TypeVar("T")

_ACCEPT = f"{wire.NATIVE}{{}}, {wire.JSON};q=0.9, */*;q=0.1"
_client_id = (0, "")


def client_id() -> str:
    """Return the random 128-bit id of this process; a forked child has its own."""
    global _client_id
    if _client_id[0] != os.getpid():
        _client_id = (os.getpid(), secrets.token_hex(16))
    return _client_id[1]


class Caller:
    """Sends requests to one server and turns every failure into one specific error."""

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        token: str | None,
        headers: Mapping[str, str] | None,
        ssl: tls.SSLContext | None,
        client: str | None = None,
        wire_dtype: str | None = None,
    ):
        if wire_dtype not in (None, "bfloat16"):
            raise ValueError(f"wire_dtype must be None or 'bfloat16', got {wire_dtype!r:.40}")
        if not timeout > 0:
            raise ValueError(f"timeout must be positive seconds, got {timeout}")
        self.address = address
        self._timeout = timeout
        self._token = token
        self._headers = dict(headers or {})
        self._ssl = ssl
        self._client = client
        #: Whether float32 travels as bfloat16, in both directions.
        self.bfloat16 = wire_dtype == "bfloat16"

    async def call(
        self, method: str, route: str, body: wire.Body | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request and return the reply, which is a success.

        Raises
        ------
        RemoteError
            Of the class that says what went wrong.
        """
        response = await self._send(method, route, body, headers or {}, self._find_token())
        if response.status == 401 and self._token is None:
            # the server may have been started anew since, with another token
            response = await self._send(method, route, body, headers or {}, self._find_token())
        self._check_protocol(route, response)
        if response.status >= 300:
            raise self._failure(route, response)
        if PROTOCOL not in response.headers:
            raise errors.ProtocolMismatch(
                f"{self._where(route)}: answered without the header {PROTOCOL} and with content type "
                f"{response.headers.get('Content-Type')!r:.60}: not a labnet server, or a proxy that asks for a login",
                server=str(self.address),
                route=route,
            )
        return response

    def _check_protocol(self, route: str, response: Response) -> None:
        given = response.headers.get(PROTOCOL, wire.PROTOCOL)
        if given != wire.PROTOCOL:
            raise errors.ProtocolMismatch(
                f"{self._where(route)}: the server speaks version {given!r:.20} of the protocol, this client version "
                f"{wire.PROTOCOL!r}: install the same version of labnet on both sides",
                server=str(self.address),
                route=route,
            )

    def _find_token(self) -> str | None:
        """Return the token given, else the one that a server of this user on this machine has published."""
        if self._token is not None or not security.is_loopback(self.address.authority):
            return self._token
        entry = security.lookup(self.address.port)
        return entry.token if entry else None

    async def _send(
        self, method: str, route: str, body: wire.Body | None, extra: Mapping[str, str], token: str | None
    ) -> Response:
        headers = {
            "Host": self.address.authority,
            "Accept": _ACCEPT.format(";floats=bfloat16" if self.bfloat16 else ""),
            PROTOCOL: wire.PROTOCOL,
            CLIENT: self._client or client_id(),
            **extra,
            **self._headers,
        }
        if token is not None:
            headers[security.TOKEN_HEADER] = token
        parts = []
        if body is not None:
            headers |= {"Content-Type": str(body.content_type), "Content-Length": str(body.nbytes)}
            parts = body.parts
        server, call = str(self.address), extra.get(CALL)
        try:
            async with asyncio.timeout(self._timeout):
                connections = await pool()
                return await connections.request(
                    self.address, method, self.address.prefix + route, headers, parts, context=self._ssl
                )
        except TimeoutError:
            raise errors.RemoteTimeout(
                f"{self._where(route)}: no answer within {self._timeout:g} s", server=server, route=route, call=call
            ) from None
        except (OSError, StreamClosedError) as error:
            reason = getattr(error, "real_error", None) or error
            raise errors.Unreachable(
                f"{self._where(route)}: {getattr(reason, 'strerror', None) or reason}; is the server running there?",
                server=server,
                route=route,
                call=call,
            ) from None

    def _where(self, route: str) -> str:
        return f"{self.address}{route}"

    def _failure(self, route: str, response: Response) -> RemoteError:
        """Make the error that the server named."""
        try:
            document: Any = msgspec.json.decode(response.body)
            name, message, call = document["error"], document["message"], document.get("call")
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            return errors.ProtocolMismatch(
                f"{self._where(route)}: status {response.status} without labnet's error document "
                f"(content type {response.headers.get('Content-Type')!r:.60})",
                server=str(self.address),
                route=route,
            )
        kind = getattr(errors, str(name), None)
        if not (isinstance(kind, type) and issubclass(kind, RemoteError)):
            kind = errors.RemoteFailure
        where = f"{self._where(route)} ({response.status})"
        return kind(f"{where}: {message}", server=str(self.address), route=route, call=call)

    def decode(self, route: str, response: Response) -> Any:
        """Decode the body of a reply; a malformed one is the server's fault."""
        if response.status == 204:
            return None
        try:
            return wire.decode_value(response.headers.get("Content-Type", ""), response.body)
        except WireError as error:
            raise errors.ProtocolMismatch(
                f"{self._where(route)}: the reply is malformed: {error}", server=str(self.address), route=route
            ) from error


def _run(coroutine: Coroutine[Any, Any, T], *, blocking: bool) -> Any:
    return IO.run(coroutine) if blocking else coroutine


def tfetch(
    url: str,
    tensor: Any = None,
    *,
    timeout: float = 60.0,
    token: str | None = None,
    blocking: bool = False,
    headers: Mapping[str, str] | None = None,
    ssl: tls.SSLContext | None = None,
    client: str | None = None,
    wire_dtype: str | None = None,
) -> Any:
    """Call a route of a server: fetch, for tensors.

    Parameters
    ----------
    url : str
        Server and route, such as ``localhost:3000/run_model``.
    tensor : tensor, dict of tensors or array-like, optional
        What to send, by POST; without it a GET is made.
    timeout : float
        Most seconds to wait for the reply.
    token : str, optional
        Token of the server; servers of the same user on this machine need none.
    blocking : bool
        Return the result instead of something to await.
    headers : mapping of str to str, optional
        Extra headers, for a proxy for example.
    ssl : ssl.SSLContext, optional
        How to check the certificate of an ``https`` URL.
    client : str, optional
        Id under which the server keeps the user's namespace; by default one per process.
    wire_dtype : str, optional
        ``"bfloat16"`` rounds float32 to it on the way, in both directions: half the bytes.

    Returns
    -------
    tensor, dict of tensors, JSON value, str, bytes or None
        By the content type of the reply.

    Raises
    ------
    RemoteError
        Of the class that says what went wrong.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.network.serve({"total": lambda x: x.sum()}, port=0) as server:
    ...     ln.network.tfetch(server.url + "/total", [1.0, 2.0], blocking=True).item()
    3.0
    """
    base, slash, route = Address.parse(url).prefix.rpartition("/")
    parsed = Address.parse(url)
    address = Address(parsed.scheme, parsed.host, parsed.port, base)
    caller = Caller(
        address, timeout=timeout, token=token, headers=headers, ssl=ssl, client=client, wire_dtype=wire_dtype
    )
    body = None if tensor is None else wire.encode_native(wire.message_of(tensor), bfloat16=caller.bfloat16)

    async def fetch() -> Any:
        response = await caller.call("GET" if body is None else "POST", slash + route or "/", body)
        value = caller.decode(slash + route, response)
        return value.value if isinstance(value, wire.Message) else value

    return _run(fetch(), blocking=blocking)


class Parts:
    """Gradients of the outputs of one call, by name; they add up name by name."""

    __slots__ = ("gradients",)

    def __init__(self, gradients: Mapping[str, Tensor]):
        self.gradients = dict(gradients)

    def __add__(self, other: "Parts") -> "Parts":
        total = dict(self.gradients)
        for name, gradient in other.gradients.items():
            total[name] = total[name] + gradient if name in total else gradient
        return Parts(total)


class Output(Node):
    """One output of a remote call."""

    __slots__ = ("_dtype", "_name", "_shape")

    def __init__(self, call: "RemoteCall", name: str, tensor: Tensor):
        self.parents = (call,)
        self._name = name
        self._shape = tensor.shape
        self._dtype = tensor.dtype

    def pull(self, gradient: Tensor, run: Run) -> list[Parts]:
        """Hand the gradient on under the output's name."""
        if (gradient.shape, gradient.dtype) != (self._shape, self._dtype):
            raise GradientError(
                f"gradient of shape {gradient.shape} and dtype {gradient.dtype} for a remote output "
                f"of shape {self._shape} and dtype {self._dtype}"
            )
        return [Parts({self._name: gradient})]


class RemoteCall(Node):
    """A forward that was carried out on a server; its backward is a request."""

    __slots__ = ("_blocking", "_call", "_caller", "_named", "_names")

    def __init__(self, caller: Caller, call: str, *, inputs: Mapping[str, Tensor], named: bool, blocking: bool):
        self.parents = tuple(tensor._node for tensor in inputs.values())
        self._caller = caller
        self._call = call
        self._names = tuple(inputs)
        self._named = named
        self._blocking = blocking

    @property
    def awaits(self) -> bool:  # type: ignore[override]
        """Whether the backward has to be awaited: not for a model that blocks."""
        return not self._blocking

    def pull(self, gradient: Parts, run: Run) -> list[Tensor | None] | Awaitable[list[Tensor | None]]:
        """Send the gradients of the outputs; return the gradients of the inputs."""
        if run.create_graph:
            raise GradientError("a gradient through a remote model cannot be differentiated again: its graph is remote")
        sending = self._send(gradient.gradients, run)
        return IO.run(sending) if self._blocking else sending

    async def _send(self, gradients: dict[str, Tensor], run: Run) -> list[Tensor | None]:
        metadata = {} if run.loss is None or not math.isfinite(run.loss) else {LOSS: repr(run.loss)}
        body = wire.encode_native(wire.Message(gradients, self._named, metadata), bfloat16=self._caller.bfloat16)
        response = await self._caller.call("POST", "/optimize", body, {CALL: self._call})
        reply = self._caller.decode("/optimize", response)
        if not isinstance(reply, wire.Message):
            raise errors.ProtocolMismatch(f"{self._caller.address}/optimize: expected tensors, got {reply!r:.60}")
        return [reply.tensors.get(name) for name in self._names]


class RemoteModel:
    """A model on a server, to be called and trained like a local function; made by `remote_model`."""

    def __init__(self, caller: Caller, *, blocking: bool):
        self._caller = caller
        self._blocking = blocking

    @property
    def url(self) -> str:
        """Address of the server, without a token."""
        return str(self._caller.address)

    @property
    def address(self) -> Address:
        """Where the server is."""
        return self._caller.address

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Carry out a forward on the server.

        Parameters
        ----------
        *inputs : tensor
            One tensor; or use names.
        **named : tensor
            Named inputs of a model that takes several.

        Returns
        -------
        tensor or dict of tensors, or with ``blocking=False`` something to await that gives it
            Outside `no_grad` its gradient leads back to the server.

        Raises
        ------
        RemoteError
        """
        if len(inputs) + bool(named) != 1:
            raise TypeError(f"a remote model takes one tensor, or several by name, got {len(inputs)} and {list(named)}")
        given: Any = named or inputs[0]
        message = wire.message_of({k: _as_tensor(v) for k, v in given.items()} if named else _as_tensor(given))
        return _run(self._forward(message, training=is_recording()), blocking=self._blocking)

    async def _forward(self, message: wire.Message, *, training: bool) -> Any:
        wanted = ",".join(name for name, tensor in message.tensors.items() if tensor.requires_grad)
        message.metadata[WANTED] = wanted
        headers = {MODE: "train" if training else "eval"}
        body = wire.encode_native(message, bfloat16=self._caller.bfloat16)
        response = await self._caller.call("POST", "/forward", body, headers)
        reply = self._caller.decode("/forward", response)
        if not isinstance(reply, wire.Message):
            raise errors.ProtocolMismatch(f"{self.url}/forward: expected tensors, got {reply!r:.60}")
        if not training:
            return reply.value
        call = response.headers.get(CALL)
        if call is None:
            raise errors.ProtocolMismatch(f"{self.url}/forward: the reply has no header {CALL}")
        return self._connect(message, reply, call)

    def _connect(self, message: wire.Message, reply: wire.Message, call: str) -> Any:
        """Give the outputs a node that leads back to the server."""
        node = RemoteCall(self._caller, call, inputs=message.tensors, named=reply.named, blocking=self._blocking)
        outputs = {
            name: wrap(tensor._array, Output(node, name, tensor)) if tensor.dtype.kind == "f" else tensor
            for name, tensor in reply.tensors.items()
        }
        return outputs if reply.named else outputs[wire.SINGLE]

    def statistics(self) -> Any:
        """Return the server's statistics, or with ``blocking=False`` something to await that gives them."""
        return _run(self._read("/statistics"), blocking=self._blocking)

    def snapshot(self) -> Any:
        """Return what the server's panel draws, or with ``blocking=False`` something to await that gives it."""
        return _run(self._read("/snapshot"), blocking=self._blocking)

    def state_dict(self) -> Any:
        """Return {name: values} of the server's parameters, or with ``blocking=False`` something to await."""
        return _run(self._read("/weights"), blocking=self._blocking)

    async def _read(self, route: str) -> Any:
        value = self._caller.decode(route, await self._caller.call("GET", route))
        return value.value if isinstance(value, wire.Message) else value

    def __repr__(self) -> str:
        return f"RemoteModel({self.url})"


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else wrap(as_array(value))


def remote_model(
    url: str,
    *,
    timeout: float = 60.0,
    token: str | None = None,
    blocking: bool = False,
    headers: Mapping[str, str] | None = None,
    ssl: tls.SSLContext | None = None,
    client: str | None = None,
    wire_dtype: str | None = None,
) -> RemoteModel:
    """Connect to a served model: a function that computes there and whose gradient flows back.

    Parameters
    ----------
    url : str
        ``host:port``, or an http(s) URL, with a path in front where a proxy needs one.
    timeout : float
        Most seconds to wait for each reply.
    token : str, optional
        Token of the server; servers of the same user on this machine need none.
    blocking : bool
        Work without ``await``: in scripts, and in callers that cannot be async.
    headers, ssl, client, wire_dtype
        As for `tfetch`.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
    ...     model = ln.network.remote_model(server.url, blocking=True)
    ...     loss = ln.loss.mse(model(ln.ones((4, 2))), ln.zeros((4, 1)))
    ...     gradients = loss.backward()
    """
    caller = Caller(
        Address.parse(url),
        timeout=timeout,
        token=token,
        headers=headers,
        ssl=ssl,
        client=client,
        wire_dtype=wire_dtype,
    )
    return RemoteModel(caller, blocking=blocking)


async def all(*awaitables: Any) -> tuple[Any, ...]:
    """Await several calls side by side and return their results in order; what is there already stays as it is.

    Examples
    --------
    >>> import asyncio, labnet as ln
    >>> async def both(url):
    ...     return await ln.network.all(ln.network.tfetch(url), ln.network.tfetch(url))
    >>> with ln.network.serve({"one": lambda: 1}, port=0) as server:
    ...     asyncio.run(both(server.url + "/one"))
    (1, 1)
    """
    futures = [asyncio.ensure_future(item) for item in awaitables if inspect.isawaitable(item)]
    results = iter(await asyncio.gather(*futures))
    return tuple([next(results) if inspect.isawaitable(item) else item for item in awaitables])
