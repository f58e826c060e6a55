"""Connections of one event loop to servers: channels where they are opened, else keep-alive HTTP/1.1."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpclient import TCPClient

from labnet import codec
from labnet.eviction import BoundedMap
from labnet.network import discovery
from labnet.network.transport.address import Address
from labnet.network.transport.buffers import Memory
from labnet.network.transport.client_channel import ClientChannel, NoChannel, uses_channels
from labnet.network.transport.exchange import exchange
from labnet.network.transport.response import MAX_REPLY, Response, Stage

T = TypeVar("T")
#: The address of a server, TLS settings, and the headers that belong to the connection.
LinkKey = tuple[Address, ssl.SSLContext | None, tuple[tuple[str, str], ...]]

_IDLE_SECONDS = 60.0  # less than the server's, so that a reused connection is rarely being closed
_MAX_IDLE = 32
#: Seconds for which plain HTTP is used after a channel was refused, and after connections that were to become one
#: have broken or given no answer so many times.
_REFUSED_SECONDS, _SILENT_SECONDS, _BREAKS = 300.0, 15.0, 2


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
            stream = await self.connect(host, port, ssl_options=options, max_buffer_size=MAX_REPLY)
        except BaseException:
            for stream in self._made:
                if stream.socket is not None:  # start_tls has detached it and closes it itself
                    stream.close()
            raise
        discovery.stopped_ports.discard(port)
        return stream


class _Link:
    """The channel to one server with one set of connection headers, or the reason why there is none."""

    def __init__(self) -> None:
        self.channel: ClientChannel | None = None
        self.opening: asyncio.Task[ClientChannel | None] | None = None
        self.waiting = 0
        self.http_until = 0.0
        self.breaks = 0
        self.since = time.monotonic()

    @property
    def is_idle(self) -> bool:
        """Whether the link can be dropped."""
        if self.opening is not None:
            return False
        if self.channel is not None and not self.channel.is_idle:
            return False
        used = self.since if self.channel is None or not self.channel.is_open else self.channel.used
        return time.monotonic() > max(used + _IDLE_SECONDS, self.http_until)

    def http_seconds(self, error: BaseException) -> float:
        """Return for how many seconds to use plain HTTP after no channel was opened."""
        if isinstance(error, NoChannel):
            return _REFUSED_SECONDS if error.is_final else 0.0
        self.breaks += 1
        return _SILENT_SECONDS if self.breaks >= _BREAKS else 0.0

    def close(self) -> None:
        """Close the channel."""
        if self.opening is not None:
            self.opening.cancel()
        if self.channel is not None:
            self.channel.close()


class Pool:
    """The connections of one event loop."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str, int, ssl.SSLContext | None], list[tuple[float, IOStream]]] = {}
        self._links: dict[LinkKey, _Link] = {}
        self._stopped: dict[str, bool] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._memory = Memory()

    async def request(
        self,
        address: Address,
        method: str,
        path: str,
        headers: Mapping[str, str],
        parts: Sequence[codec.Part],
        *,
        context: ssl.SSLContext | None = None,
        reached: Callable[[Stage], None] = lambda stage: None,
    ) -> Response:
        """Send a request by HTTP and return the complete reply; call `reached` at each stage.

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

    def has_stopped(self, address: Address) -> bool:
        """Return whether the server at an address has announced that it stops for good and has not come back."""
        for (where, *_), link in self._links.items():
            if where == address and link.channel is not None and link.channel.stopping is not None:
                self._stopped[str(address)] = not link.channel.stopping.returns
        return self._stopped.get(str(address), False)

    # Channels

    def open_channel(self, key: LinkKey) -> ClientChannel | None:
        """Return the channel of a link if it is open."""
        link = self._links.get(key)
        return link.channel if link is not None and link.channel is not None and link.channel.is_open else None

    def expect_channel(self, key: LinkKey) -> None:
        """Open a channel for the next request of a link: a server of labnet has answered over HTTP."""
        if key not in self._links:
            self._links[key] = _Link()
            self._stopped.pop(str(key[0]), None)
            self._sweep_later()

    async def channel(self, key: LinkKey) -> ClientChannel | None:
        """Return the channel of a link; None if the server or a proxy before it opens none, or is not known yet.

        Raises
        ------
        NotConnected
            If no connection could be opened.
        """
        link = self._links.get(key)
        if link is None or not uses_channels():  # without a link, it may be no labnet server: its first reply says so
            return None
        try:
            return await self._channel(link, *key)
        except (OSError, StreamClosedError) as error:
            raise NotConnected(getattr(error, "real_error", None) or error) from error

    async def _channel(
        self, link: _Link, address: Address, context: ssl.SSLContext | None, headers: tuple[tuple[str, str], ...]
    ) -> ClientChannel | None:
        if link.channel is not None and link.channel.is_open:
            return link.channel
        if time.monotonic() < link.http_until:
            return None
        if link.opening is None:
            link.opening = asyncio.ensure_future(self._open(link, address, context, headers))
        opening = link.opening
        link.waiting += 1
        try:
            return await asyncio.shield(opening)
        finally:
            link.waiting -= 1
            if opening.done():
                opening.cancelled() or opening.exception()
            elif not link.waiting:
                opening.cancel()
            if not link.waiting:
                link.opening = None

    async def _open(
        self, link: _Link, address: Address, context: ssl.SSLContext | None, headers: tuple[tuple[str, str], ...]
    ) -> ClientChannel | None:
        self.has_stopped(address)  # recorded before the old channel is forgotten
        self._sweep()
        channel = await _first_reachable(address, lambda host: self._open_protocol(host, address, context))
        link.channel = None  # another server has the port of one that has stopped
        self._stopped.pop(str(address), None)
        discovery.stopped_ports.discard(address.port)
        try:
            await channel.upgrade(address.authority, address.prefix, headers)
        except BaseException as error:
            channel.close()
            seconds = link.http_seconds(error)
            link.http_until = time.monotonic() + seconds
            if seconds:
                _opened.pop((address, context, headers))
            if isinstance(error, NoChannel) or (seconds and isinstance(error, OSError)):
                return None
            raise
        finally:
            link.opening = None
        link.breaks, link.channel = 0, channel
        _opened.put((address, context, headers), None)
        self._stopped.pop(str(address), None)
        for _, stream in self._idle.pop((address.scheme, address.host, address.port, context), []):
            stream.close()
        return channel

    async def _open_protocol(self, host: str, address: Address, context: ssl.SSLContext | None) -> ClientChannel:
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_connection(
            lambda: ClientChannel(self._memory),
            host,
            address.port,
            ssl=_tls(address, context),
            server_hostname=address.host if address.scheme == "https" else None,
        )
        return channel

    # HTTP

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
        for where, link in list(self._links.items()):
            if link.is_idle:
                self.has_stopped(where[0])
                del self._links[where]
                link.close()
        if self._idle or self._links:
            self._sweep_later()

    async def _connect(self, address: Address, context: ssl.SSLContext | None) -> IOStream:
        self._sweep()
        options = _tls(address, context)
        stream = await _first_reachable(address, lambda host: _Opening().open(host, address.port, options))
        stream.set_nodelay(True)
        self._stopped.pop(str(address), None)
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
        for link in self._links.values():
            link.close()
        self._links.clear()


def _tls(address: Address, context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    if address.scheme != "https":
        return None
    return context or ssl.create_default_context()


async def _first_reachable(address: Address, open_at: Callable[[str], Awaitable[T]]) -> T:
    """Open a connection to a host; to both addresses of this machine if it is "localhost"."""
    if address.host != "localhost":
        return await open_at(address.host)
    try:
        return await open_at("127.0.0.1")
    except (OSError, StreamClosedError) as error:
        if isinstance(error, ssl.SSLError):
            raise
        return await open_at("::1")


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


#: Links for which a channel was opened in this process.
_opened: BoundedMap[LinkKey, None] = BoundedMap(1024)


def opens_channels(key: LinkKey) -> bool:
    """Return whether the server of a link has opened a channel before."""
    return key in _opened


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
