"""Keep-alive HTTP/1.1 connections of one event loop, over Tornado's streams."""

import asyncio
import functools
import os
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpclient import TCPClient

from labnet import codec
from labnet.network.transport.buffers import Memory
from labnet.network.transport.exchange import MAX_REPLY, Response, Stage, exchange

_IDLE_SECONDS = 60.0  # less than the server's, so that a reused connection is rarely being closed
_MAX_IDLE = 32


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


class NotConnected(OSError):
    """No connection to the server could be opened, so nothing was sent."""

    def __init__(self, reason: BaseException):
        super().__init__(getattr(reason, "errno", None), getattr(reason, "strerror", None) or str(reason))
        self.reason = reason


class _Opening(TCPClient):
    """Opens one connection, and closes it if the waiting task is cancelled, which Tornado alone does not."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[IOStream] = []

    def _create_stream(self, *arguments: Any, **options: Any) -> Any:
        stream, connected = super()._create_stream(*arguments, **options)
        self._made.append(stream)
        return stream, connected

    async def open(self, host: str, port: int, options: ssl.SSLContext | None) -> IOStream:
        try:
            return await self.connect(host, port, ssl_options=options, max_buffer_size=MAX_REPLY)
        except BaseException:
            for stream in self._made:
                if stream.socket is not None:  # start_tls has detached it and closes it itself
                    stream.close()
            raise


class Pool:
    """A pool of keep-alive connections for one event loop."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str, int, ssl.SSLContext | None], list[tuple[float, IOStream]]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._memory = Memory()

    async def request(
        self,
        address: Address,
        method: str,
        path: str,
        headers: dict[str, str],
        parts: Sequence[codec.Part],
        *,
        context: ssl.SSLContext | None = None,
        reached: Callable[[Stage], None] = lambda stage: None,
    ) -> Response:
        """Send a request and return the complete reply; call `reached` at each stage.

        Raises
        ------
        NotConnected
            If no connection could be opened.
        OSError, StreamClosedError
            If the connection broke before the reply was complete.
        """
        key = (address.scheme, address.host, address.port, context)
        try:
            stream = self._reuse(key) or await self._connect(address, context)
        except (OSError, StreamClosedError) as error:
            raise NotConnected(getattr(error, "real_error", None) or error) from error
        reached("connected")
        try:
            response, reusable = await exchange(stream, method, path, headers, parts, reached, self._memory)
        except BaseException:
            stream.close()
            raise
        if reusable and len(self._idle.setdefault(key, [])) < _MAX_IDLE:
            self._idle[key].append((time.monotonic(), stream))
            self._sweep_later()
        else:
            stream.close()
        return response

    def _reuse(self, key: Any) -> IOStream | None:
        idle = self._idle.get(key, [])
        while idle:
            since, stream = idle.pop()
            if _is_usable(since, stream):
                return stream
            stream.close()
        return None

    def _sweep_later(self) -> None:
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close connections that are idle for too long or were closed by the server."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for key, idle in list(self._idle.items()):
            self._idle[key] = [kept for kept in idle if _is_usable(*kept)]
            for _, stream in set(idle) - set(self._idle[key]):
                stream.close()
            if not self._idle[key]:
                del self._idle[key]
        if self._idle:
            self._sweep_later()

    async def _connect(self, address: Address, context: ssl.SSLContext | None) -> IOStream:
        self._sweep()
        options: ssl.SSLContext | None = None
        if address.scheme == "https":
            options = context or ssl.create_default_context()
        host = "127.0.0.1" if address.host == "localhost" else address.host
        try:
            stream = await _Opening().open(host, address.port, options)
        except (OSError, StreamClosedError) as error:
            if host == address.host or isinstance(error, ssl.SSLError):
                raise
            stream = await _Opening().open("::1", address.port, options)
        stream.set_nodelay(True)
        return stream

    def close(self) -> None:
        """Close all idle connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for idle in self._idle.values():
            for _, stream in idle:
                stream.close()
        self._idle.clear()


def _is_usable(since: float, stream: IOStream) -> bool:
    """Return whether a connection that is idle since `since` can be reused."""
    return time.monotonic() - since < _IDLE_SECONDS and _is_quiet(stream)


def _is_quiet(stream: IOStream) -> bool:
    """Return whether an idle connection is open and has no unread data."""
    if stream.closed():
        return False
    try:
        socket.socket.recv(stream.socket, 1, socket.MSG_PEEK)  # the raw socket, below TLS
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Pool, AsyncGenerator[None]]] = WeakKeyDictionary()
_of_parent: list[object] = []


def _forget() -> None:
    """Drop the connections in a forked child without closing them, which would unregister the parent's."""
    _of_parent.extend(_pools.values())
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


async def pool() -> Pool:
    """Return the pool of the running event loop; `asyncio.run` closes its connections with the loop."""
    loop = asyncio.get_running_loop()
    if loop not in _pools:
        made = Pool()
        guard = _close_with_loop(made)
        await anext(guard)
        _pools[loop] = (made, guard)
    return _pools[loop][0]


async def _close_with_loop(made: Pool) -> AsyncGenerator[None]:
    """Close the pool when its loop ends: a closing loop first finishes its async generators."""
    try:
        yield
    finally:
        made.close()
