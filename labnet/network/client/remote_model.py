"""Calls of servers: `tfetch` for single requests, `RemoteModel` for training remote models."""

import asyncio
import inspect
import os
import ssl as tls
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import numpy as np

from labnet import errors, wire
from labnet.autograd import is_recording, next_number
from labnet.network.client.forward import Forward, Sent
from labnet.network.client.local_steps import LocalTrainer
from labnet.network.client.options import ClientOptions
from labnet.network.client.remote_call import Output, RemoteCall, remote_keys
from labnet.network.client.replay import recorded_forward
from labnet.network.client.retry import Backoff
from labnet.network.client.session import Caller
from labnet.network.protocol import keys
from labnet.network.protocol.digest import digest_of_body
from labnet.network.protocol.headers import MODE, WANTED
from labnet.network.threads import run_here_first
from labnet.network.transport.address import Address
from labnet.tensor import Tensor, as_array, wrap

T = TypeVar("T")


def _run(coroutine: Coroutine[Any, Any, T], *, blocking: bool) -> Any:
    return run_here_first(coroutine) if blocking else coroutine


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
    backoff: Backoff | None = None,
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
        Total seconds for all attempts; three if the server never answered before and refuses connections.
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
    backoff : Backoff, optional
        How long to wait between attempts. A request is sent again when there is no connection, no reply in time or
        a damaged one, and when the server is busy or stopping; the server carries it out once.
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
    parsed = Address.parse(url)
    base, slash, route = parsed.prefix.rpartition("/")
    address = Address(parsed.scheme, parsed.host, parsed.port, base)
    options = ClientOptions(
        timeout=timeout,
        token=token,
        headers=headers,
        ssl=ssl,
        client=client,
        backoff=backoff,
        wire_dtype=wire_dtype,
    )
    caller = Caller(address, options)
    body = None if tensor is None else wire.encode_native(wire.message_of(tensor), bfloat16=caller.bfloat16)

    async def fetch() -> Any:
        method, path = "GET" if body is None else "POST", slash + route or "/"
        response = await caller.call(method, path, body, ticket=caller.ticket(path))
        value = caller.decode(slash + route, response)
        return value.value if isinstance(value, wire.Message) else value

    return _run(fetch(), blocking=blocking)


class RemoteModel:
    """A model on a server, to be called and trained like a local function; made by `remote_model`."""

    def __init__(self, caller: Caller, *, blocking: bool):
        self._caller = caller
        #: With ``local_steps``: the copy of the model, its optimizer and the count of rounds; else None.
        self.local: LocalTrainer | None = None
        #: Whether calls return results instead of awaitables.
        self.blocking = blocking

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
            Outside `no_grad` its gradient flows back to the server.

        Raises
        ------
        RemoteError
        """
        if len(inputs) + bool(named) != 1:
            raise TypeError(f"a remote model takes one tensor, or several by name, got {len(inputs)} and {list(named)}")
        given: Any = named or inputs[0]
        message = wire.message_of({k: _as_tensor(v) for k, v in given.items()} if named else _as_tensor(given))
        return _run(self._forward(self._sending(message), message, training=is_recording()), blocking=self.blocking)

    def step(self, x: Any, y: Any, *, loss: Callable[[Tensor, Any], Tensor]) -> Any:
        """Train the copy of a model with ``local_steps`` on a batch; send the difference after each round of them.

        Parameters
        ----------
        x, y : tensor
            Inputs and targets.
        loss : callable
            Given outputs and targets.

        Returns
        -------
        float, or with ``blocking=False`` something to await that gives it
            The loss of the batch before the step.

        Raises
        ------
        RemoteError
            If the server cannot be reached in time; the step was taken, and the next one, or `synchronize`, sends the
            same difference again. If the difference is refused (`StaleGradient`, `BadGradient`), the next round begins
            from the weights of the server.
        """
        return _run(self._trainer().step(x, y, loss), blocking=self.blocking)

    def synchronize(self) -> Any:
        """Send the difference of the local steps since the last round, and load the weights of the server.

        `step` does so after each round; call it at the end of the training. Something to await with ``blocking=False``.
        """
        return _run(self._trainer().synchronize(), blocking=self.blocking)

    def _trainer(self) -> LocalTrainer:
        if self.local is None:
            raise TypeError("this remote model has no local copy: remote_model(url, local_steps=, model=, optimizer=)")
        return self.local

    def _sending(self, message: wire.Message) -> Sent:
        """Return the request of a forward; keys and numbers follow the order of the calls."""
        message.metadata[WANTED] = ",".join(name for name, tensor in message.tensors.items() if tensor.requires_grad)
        body = wire.encode_native(message, bfloat16=self._caller.bfloat16)
        content = digest_of_body(body) if keys.is_derived() else b""
        for key in remote_keys(message.tensors.values()) if content else ():
            content += key.encode()
        ticket = self._caller.ticket("/forward", content)
        return Sent(self._caller, tuple(message.tensors), body, ticket, next_number())

    async def _forward(self, sent: Sent, message: wire.Message, *, training: bool) -> Any:
        return await self._forward_by(sent, message, {}, training=training)

    async def _forward_by(
        self, sent: Sent, message: wire.Message, headers: Mapping[str, str], *, training: bool
    ) -> Any:
        known = recorded_forward(self.url, sent.body, sent.ticket.key) if training else None
        if known is not None:
            return self._connect(message, Forward.recorded(sent, known))
        mode = {} if training else {MODE: "eval"}
        response = await sent.caller.call("POST", "/forward", sent.body, {**headers, **mode}, ticket=sent.ticket)
        if training:
            return self._connect(message, Forward.of(sent, response))
        reply = sent.caller.decode("/forward", response)
        if not isinstance(reply, wire.Message):
            raise errors.ProtocolMismatch(f"{self.url}/forward: expected tensors, got {reply!r:.60}")
        return reply.value

    async def fetch_weights(self) -> Forward:
        """Return the parameters as a forward of the server, which takes their gradients."""
        sent = self._sending(wire.message_of(wrap(np.zeros(1, np.float32))))
        mode = "weights"
        response = await sent.caller.call("POST", "/forward", sent.body, {MODE: mode}, ticket=sent.ticket)
        return Forward.of(sent, response, mode)

    def _connect(self, message: wire.Message, forward: Forward) -> Any:
        """Connect the outputs to a node for the remote call."""
        node, reply = RemoteCall(forward, inputs=message.tensors, blocking=self.blocking), forward.reply
        outputs = {
            name: wrap(as_array(tensor), Output(node, name, tensor)) if tensor.dtype.kind == "f" else tensor
            for name, tensor in reply.tensors.items()
        }
        return outputs if reply.named else outputs[wire.SINGLE]

    def statistics(self) -> Any:
        """Return the server's statistics, or an awaitable of them with ``blocking=False``."""
        return _run(self._read("/statistics"), blocking=self.blocking)

    def snapshot(self) -> Any:
        """Return the data of the server's panel, or an awaitable of it with ``blocking=False``."""
        return _run(self._read("/snapshot"), blocking=self.blocking)

    def stop_capability(self) -> Any:
        """Return a capability to stop the server once within half a minute without the token, or an awaitable."""
        return _run(self._capability(), blocking=self.blocking)

    def stop(self) -> Any:
        """Stop the server, which needs its token; return an awaitable with ``blocking=False``."""
        return _run(self._stop(), blocking=self.blocking)

    def log(self, **values: Any) -> Any:
        """Add a point to curves of the server by name, such as ``accuracy=0.93``.

        Returns an awaitable with ``blocking=False``.
        """
        body = wire.encode_json({name: float(value) for name, value in values.items()})
        return _run(self._post("/server/log", body), blocking=self.blocking)

    def control(self, action: str, value: str = "") -> Any:
        """Pause or resume training, set ``lr``, or write a checkpoint; needs the server's token.

        Returns an awaitable with ``blocking=False``.
        """
        return _run(self._control(action, value), blocking=self.blocking)

    async def _control(self, action: str, value: str) -> None:
        text = f"{await self._capability()}\n{action}\n{value}"
        await self._post("/server/control", wire.Body(wire.TEXT, [text.encode()]))

    async def _post(self, route: str, body: wire.Body) -> None:
        await self._caller.call("POST", route, body)

    async def _capability(self) -> str:
        return str((await self._read("/server/capability"))["capability"])

    async def _stop(self) -> None:
        body = wire.Body(wire.TEXT, [(await self._capability()).encode()])
        await self._post("/server/stop", body)

    def state_dict(self) -> Any:
        """Return the server's parameters by name, or an awaitable of them with ``blocking=False``."""
        return _run(self._read("/weights"), blocking=self.blocking)

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
    backoff: Backoff | None = None,
    wire_dtype: str | None = None,
    state: str | os.PathLike[str] | None = None,
    forward: str = "/forward",
    backward: str = "/optimize",
    on_error: Callable[[errors.RemoteError], object] | None = None,
    local_steps: int | None = None,
    model: Any = None,
    optimizer: Any = None,
) -> RemoteModel:
    """Connect to a served model: a function that computes there and whose gradient flows back.

    Parameters
    ----------
    url : str
        ``host:port``, or an http(s) URL, with a path in front where a proxy needs one.
    timeout : float
        Total seconds for all attempts; three if the server never answered before and refuses connections.
    token : str, optional
        Token of the server; servers of the same user on this machine need none.
    blocking : bool
        Work without ``await``: in scripts, and in callers that cannot be async.
    headers, ssl, client, backoff, wire_dtype
        As for `tfetch`.
    state : path, optional
        A file that keeps the client's identity: the next process that names it continues as the same client and never
        reuses a key for another request. For one process at a time.
    forward, backward : str
        Names of the server's routes.
    on_error : callable, optional
        Called with each `RemoteError` before it is raised; in another thread if the model blocks.
    local_steps : int, optional
        Train a copy of the model here with `RemoteModel.step`, and send the difference of its weights after this many
        steps (DiLoCo): for links on which a request takes longer than a step. The server applies the difference as a
        gradient, so its optimizer is the outer one, such as ``SGD(lr=0.7, momentum=0.9, nesterov=True)``. With them,
        `wire_dtype` is that of differences and may also be ``"int8"``.
    model : Module, optional
        The copy: a module like the served one, with any weights.
    optimizer : Optimizer, optional
        Trains the copy.

    Raises
    ------
    StoreError
        If the state file is in use, or damaged.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
    ...     model = ln.network.remote_model(server.url, blocking=True)
    ...     loss = ln.loss.mse(model(ln.ones((4, 2))), ln.zeros((4, 1)))
    ...     gradients = loss.backward()
    """
    options = ClientOptions(
        timeout=timeout,
        token=token,
        headers=headers,
        ssl=ssl,
        client=client,
        backoff=backoff,
        wire_dtype=wire_dtype if local_steps is None else None,
        state=state,
        forward=forward,
        backward=backward,
        on_error=on_error,
    )
    remote = RemoteModel(Caller(Address.parse(url), options), blocking=blocking)
    if local_steps is not None:
        remote.local = LocalTrainer(remote.fetch_weights, model, optimizer, local_steps, wire_dtype=wire_dtype)
    return remote


async def all(*awaitables: Any) -> tuple[Any, ...]:
    """Await several calls concurrently and return their results in order; other values are returned as they are.

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
