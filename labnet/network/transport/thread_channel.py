"""A client's end of a channel for one thread that blocks: calls need no event loop and no other thread.

One call at a time. Everything else (the first contact, retries, TLS, plain HTTP) is left to the event loop of the
process; see `labnet.network.threads.run_here_first`.
"""

import math
import os
import select
import socket
import threading
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import msgspec

from labnet import codec
from labnet.eviction import BoundedMap
from labnet.network import discovery
from labnet.network.protocol.frames import Head, Kind, encode_head, headers_of
from labnet.network.transport.address import Address
from labnet.network.transport.buffers import Memory
from labnet.network.transport.channel import Channel
from labnet.network.transport.client_channel import (
    DEAD_SECONDS,
    PING_SECONDS,
    NoChannel,
    Stopping,
    is_accepted,
    no_sign_of_life,
    upgrade_request,
    uses_channels,
)
from labnet.network.transport.response import MAX_REPLY, Response

#: Seconds to open a channel; if it takes longer, the event loop does it.
_OPEN_SECONDS = 1.0
#: Seconds after which an unused channel is not used again; less than the server's limit.
_IDLE_SECONDS = 60.0
#: Seconds for which a thread leaves a server to the event loop after it could not open a channel.
_RETRY_SECONDS = 1.0

Key = tuple[Address, tuple[tuple[str, str], ...]]


class _Reply:
    """The reply that arrives."""

    def __init__(self, head: Head, body: memoryview | None):
        self.head = head
        self.body = body
        self.is_complete = False

    def finish(self) -> None:
        """Record that the reply is complete."""
        self.is_complete = True

    def leave(self) -> None:
        """Do nothing: the call sees that the channel is closed."""


class _Wait:
    """Waits until a socket is readable or writable."""

    def __init__(self, sock: socket.socket, *, writing: bool):
        self._socket = sock
        self._writing = writing
        self._poll = None
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(sock, select.POLLOUT if writing else select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Wait for so long at most; return whether the socket is ready."""
        if self._poll is not None:
            return bool(self._poll.poll(seconds * 1e3))
        found = select.select([] if self._writing else [self._socket], [self._socket] * self._writing, [], seconds)
        return bool(found[0] or found[1])

    def until(self, deadline: float, *, at_most: float = math.inf) -> bool:
        """Wait until the socket is ready, or for so many seconds; return whether it is ready.

        Raises
        ------
        TimeoutError
            If it is not before the deadline, in seconds of a monotonic clock.
        """
        left = deadline - time.monotonic()
        if left > 0 and self.wait(min(left, at_most)):
            return True
        if left <= at_most:
            raise TimeoutError("no time is left")
        return False


class ThreadChannel:
    """An open channel of one thread."""

    def __init__(self, sock: socket.socket, memory: Memory):
        sock.setblocking(False)
        self._socket = sock
        self._readable, self._writable = _Wait(sock, writing=False), _Wait(sock, writing=True)
        self._deadline = time.monotonic() + _OPEN_SECONDS
        self._memory = memory
        self._number = 0
        self._reply: _Reply | None = None
        self._error: BaseException | None = None
        self._is_greeted = False
        self._used = time.monotonic()
        self._channel = Channel(self, self)

    @classmethod
    def open(cls, key: Key, memory: Memory) -> "ThreadChannel":
        """Open a channel.

        Raises
        ------
        NoChannel, OSError
            If the server opens none.
        """
        address, headers = key
        deadline = time.monotonic() + _OPEN_SECONDS
        host = "127.0.0.1" if address.host == "localhost" else address.host
        sock = socket.create_connection((host, address.port), _OPEN_SECONDS)
        discovery.stopped_ports.discard(address.port)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(upgrade_request(address.authority, address.prefix, headers))
            answer = b""
            while b"\r\n\r\n" not in answer:
                chunk = sock.recv(1 << 12)
                if not chunk or time.monotonic() > deadline:
                    raise NoChannel("")
                answer += chunk
            head, _, rest = answer.partition(b"\r\n\r\n")
            if not is_accepted(head):
                raise NoChannel("")
            channel = cls(sock, memory)
            channel._channel.feed(rest)
            while not channel._is_greeted:
                channel._receive()
            return channel
        except BaseException:
            sock.close()
            raise

    @property
    def is_usable(self) -> bool:
        """Whether the channel is open, was used lately, and the server does not stop."""
        if self._channel.closed or time.monotonic() - self._used > _IDLE_SECONDS:
            return False
        return not self._readable.wait(0.0)  # the end of the stream, or the announcement that the server stops

    def request(self, head: Mapping[str, Any], parts: Sequence[codec.Part], deadline: float) -> Response:
        """Send a call and wait for its reply.

        Parameters
        ----------
        head : mapping
            The fields of the head.
        deadline : float
            In seconds of a monotonic clock.

        Raises
        ------
        OSError
            If the channel broke, or no reply came in time; the channel is closed then.
        """
        self._number = number = self._number + 1
        self._reply, self._deadline = None, deadline
        self._channel.heard = time.monotonic()
        text, length = encode_head(head), sum(map(len, parts))
        try:
            if not self._channel.send_now(Kind.REQUEST, number, text, parts, length):
                _complete(self._channel.send(Kind.REQUEST, number, text, parts, length))
            while self._reply is None or not self._reply.is_complete:
                self._receive()
        except BaseException as error:
            self._channel.close(error)
            raise
        self._used = time.monotonic()
        reply, self._reply = self._reply, None
        assert reply.body is not None, "allocated for the call"
        return Response(reply.head.status or 0, headers_of(reply.head), reply.body)

    def _receive(self) -> None:
        while not self._readable.until(self._deadline, at_most=PING_SECONDS):
            silent = time.monotonic() - self._channel.heard
            if silent > DEAD_SECONDS:
                raise no_sign_of_life(silent)
            self._channel.send_notice(Kind.PING)
        count = self._socket.recv_into(self._channel.get_buffer())
        if not count:
            raise ConnectionResetError("the server closed the channel")
        self._channel.buffer_updated(count)
        if self._channel.closed:
            raise self._error or ConnectionResetError("the channel was closed")

    # The sending side, for the channel

    def write(self, data: Any) -> None:
        """Send bytes."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self._writable.until(self._deadline)

    def flushed(self) -> Awaitable[None]:
        """Return at once: everything is sent."""
        return _done()

    def writing(self) -> bool:
        """Return False: nothing is queued."""
        return False

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._socket.close()
        self._channel.close(ConnectionResetError("the channel was closed"))

    # Callbacks of the channel

    def begin(self, kind: Kind, number: int, head: Head, length: int) -> _Reply:
        """Start to receive the reply."""
        if kind is not Kind.REPLY or number != self._number or length > MAX_REPLY:
            raise ValueError(f"a frame {kind.name} of call {number} with {length} bytes in place of a reply")
        self._reply = _Reply(head, self._memory.take(length))
        return self._reply

    def notice(self, kind: Kind, head: bytes) -> None:
        """Record the greeting; a server that stops answers what it has, so the channel is used up."""
        if kind is Kind.HELLO:
            self._is_greeted = True
        else:
            msgspec.json.decode(head, type=Stopping)
            self._used = -_IDLE_SECONDS

    def closed(self, error: BaseException) -> None:
        """Record the error."""
        self._error = error


async def _done() -> None:
    return None


def _complete(sending: Any) -> None:
    """Run a coroutine that does not wait."""
    try:
        sending.send(None)
    except StopIteration:
        return
    raise AssertionError("the coroutine waits")


class _Channels(dict[Key, ThreadChannel]):
    """Channels that are closed with their thread."""

    def __del__(self) -> None:
        for channel in self.values():
            channel.close()


class _Mine(threading.local):
    """The channels of the current thread."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.channels = _Channels()
        #: When no channel could be opened, in seconds of a monotonic clock.
        self.failures: BoundedMap[Key, float] = BoundedMap(64)


_mine = _Mine()
_all: WeakSet[ThreadChannel] = WeakSet()
_of_parent: list[object] = []


def channel_of_thread(key: Key) -> ThreadChannel | None:
    """Return the current thread's channel to a server; None if none can be opened at once."""
    channel = _mine.channels.get(key)
    if channel is not None and channel.is_usable:
        return channel
    if channel is not None:
        channel.close()
        del _mine.channels[key]
    if time.monotonic() - (_mine.failures.get(key) or -_RETRY_SECONDS) < _RETRY_SECONDS or not uses_channels():
        return None
    try:
        channel = _mine.channels[key] = ThreadChannel.open(key, _mine.memory)
    except (OSError, NoChannel, ValueError):
        _mine.failures.put(key, time.monotonic())
        return None
    _all.add(channel)
    for old in list(_mine.channels):
        if not _mine.channels[old].is_usable:
            _mine.channels.pop(old).close()
    return channel


def close_all() -> None:
    """Close the channels of all threads."""
    for channel in list(_all):
        channel.close()


def _forget() -> None:
    """Leave the connections to the parent process, in a forked child."""
    global _mine
    _of_parent.append(_mine)
    _mine = _Mine()
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
