"""Requests over channels: the server's end."""

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from tornado.iostream import IOStream, StreamClosedError

from labnet import wire
from labnet.network.protocol.frames import PIECE, Head, Kind, encode_head, headers_of
from labnet.network.server.handler import Application, Budget, Exchange, Outgoing
from labnet.network.server.routing import Failure, path_of
from labnet.network.transport.channel import Channel
from labnet.network.transport.client_channel import Hello, Stopping
from labnet.network.transport.connection_limit import Connections
from labnet.network.transport.server import IDLE_SECONDS

#: Frames that are sent together: longest, in bytes, and how many.
_SHORT, _MOST_GATHERED = 1 << 12, 8
#: Seconds between two looks at a channel that may be idle.
_LOOK_SECONDS = 30.0


class ChannelRequests:
    """The channels of a server.

    Parameters
    ----------
    running : callable
        Awaits a coroutine for which a stopping server waits.
    """

    def __init__(self, application: Application, budget: Budget, running: Callable[[Awaitable[None]], Awaitable[None]]):
        self.application = application
        self.budget = budget
        self.running = running
        self._channels: set[ServerChannel] = set()

    def open(self, stream: IOStream, connections: Connections[Any]) -> None:
        """Serve a channel on a stream; its client has been authorized."""
        connections.leaves(stream)  # the channel counts from here on
        channel = ServerChannel(self, stream, connections)
        self._channels.add(channel)
        connections.waits(channel)

    def leaves(self, channel: "ServerChannel") -> None:
        """Remove a closed channel."""
        self._channels.discard(channel)

    def announce_stop(self, *, returns: bool) -> None:
        """Tell all clients that the server stops."""
        for channel in list(self._channels):
            channel.announce_stop(returns=returns)


class ServerChannel:
    """The server's end of one channel."""

    def __init__(self, owner: ChannelRequests, stream: IOStream, connections: Connections[Any]):
        self.owner = owner
        self._connections = connections
        self._token = owner.application.token
        self._calls = 0
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._sent: asyncio.Future[None] | None = None
        self._ready: deque[_Call] = deque()
        self._gathered: list[bytes] = []
        stream.set_nodelay(True)
        self._channel = Channel(self, self)
        hello = Hello(protocol=wire.PROTOCOL, epoch=owner.application.epoch)
        self._channel.send_notice(Kind.HELLO, msgspec.json.encode(hello))
        self._loop.create_task(self._receive())
        self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    async def _receive(self) -> None:
        """Receive requests and answer them; the next task takes over from one whose request must wait.

        So a request that is answered at once needs no task of its own, and none holds up the others.
        """
        error: BaseException = ConnectionResetError("the client closed the channel")
        try:
            while True:
                while self._ready:
                    if await self._answer_next():
                        return
                self._flush()
                buffer = self._channel.get_buffer()
                reading = self._stream.read_into(buffer, partial=not self._channel.is_in_piece)  # type: ignore[arg-type]
                self._channel.buffer_updated(await reading)
                del buffer
        except StreamClosedError as caught:
            error = caught.real_error or error
        except BaseException:
            self._channel.close(error)
            raise
        self._channel.close(error)

    async def _answer_next(self) -> bool:
        """Answer the next request; return whether another task has taken over meanwhile."""
        successors: list[asyncio.Task[None]] = []

        def hand_over() -> None:
            self._flush()
            successors.append(self._loop.create_task(self._receive()))

        handover = self._loop.call_later(0.0, hand_over)
        await self.owner.running(self._ready.popleft().respond())
        handover.cancel()
        return bool(successors)

    def ready(self, call: "_Call") -> None:
        """Queue a request that can be answered."""
        self._ready.append(call)

    # The sending side, for the channel

    def write(self, data: Any) -> None:
        """Send bytes; short replies to requests that arrived together are sent together."""
        if self._ready and len(data) < _SHORT and len(self._gathered) < _MOST_GATHERED:
            self._gathered.append(data)
            return
        if self._gathered and len(data) < _SHORT:
            data = b"".join((*self._gathered, data))
            self._gathered.clear()
        self._flush()
        self._sent = self._stream.write(data)

    def _flush(self) -> None:
        """Send gathered replies."""
        if self._gathered:
            gathered = b"".join(self._gathered)
            self._gathered.clear()
            with contextlib.suppress(StreamClosedError):
                self._sent = self._stream.write(gathered)

    async def flushed(self) -> None:
        """Wait until everything is sent."""
        await (asyncio.sleep(0) if self._sent is None or self._sent.done() else asyncio.shield(self._sent))

    def writing(self) -> bool:
        """Return whether bytes are queued."""
        return self._stream.writing()

    @property
    def socket(self) -> socket.socket:
        """The connection's socket."""
        return self._stream.socket

    @property
    def authorized(self) -> bool:
        """Whether the server needs no token, or the client has shown it when it opened the channel."""
        return self.owner.application.token in (None, self._token)

    def announce_stop(self, *, returns: bool) -> None:
        """Tell the client that the server stops."""
        self._channel.send_notice(Kind.STOP, msgspec.json.encode(Stopping(returns=returns)))

    def close(self) -> None:
        """Close the connection at once."""
        self._stream.close()
        self._channel.close(ConnectionResetError("the server closed the channel"))

    def _look(self) -> None:
        """Close the channel if it is idle for too long, or a body does not go on."""
        is_waiting = not self._calls or self._channel.is_receiving
        if is_waiting and time.monotonic() - self._channel.heard > IDLE_SECONDS:
            self.close()
        else:
            self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    def begins(self) -> None:
        """Count a call."""
        self._calls += 1
        if self._calls == 1:
            self._connections.asks(self)

    def ends(self) -> None:
        """Count a call that was answered or dropped."""
        self._calls -= 1
        if not self._calls and not self._channel.closed:
            self._connections.waits(self)

    async def send(self, number: int, outgoing: Outgoing) -> None:
        """Send a reply; close the channel of a client that does not read it in time."""
        body = outgoing.body
        head = encode_head({"status": outgoing.status}, outgoing.headers)
        is_read = not self._stream.writing()  # otherwise the time limit holds for short replies too
        is_sent = is_read and self._channel.send_now(Kind.REPLY, number, head, body.parts, body.nbytes)
        if is_sent and not (body.nbytes > _SHORT and self.writing()):
            return
        self.owner.budget.release(-body.nbytes)
        try:
            async with asyncio.timeout(self.owner.budget.seconds_for(body.nbytes)):
                if is_sent:
                    await self.flushed()
                else:
                    await self._channel.send(Kind.REPLY, number, head, body.parts, body.nbytes)
        except TimeoutError:
            self.close()
        finally:
            self.owner.budget.release(body.nbytes)

    # Callbacks of the channel

    def begin(self, kind: Kind, number: int, head: Head, length: int) -> "_Call":
        """Start to receive a request."""
        if kind is not Kind.REQUEST:
            raise ValueError(f"a frame of kind {kind.name} from a client")
        return _Call(self, number, head, length)

    def notice(self, kind: Kind, head: bytes) -> None:
        """Refuse frames that only servers send.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(f"a frame of kind {kind.name} from a client")

    def closed(self, error: BaseException) -> None:
        """Remove the channel; replies in progress are still stored under their keys."""
        self._looking.cancel()
        self._connections.leaves(self)
        self.owner.leaves(self)


class _Call:
    """One request over a channel."""

    def __init__(self, channel: ServerChannel, number: int, head: Head, length: int):
        self._channel = channel
        self._number = number
        self._replied = False
        self._overdue: asyncio.TimerHandle | None = None
        owner = channel.owner
        path = path_of(head.path or "")
        self._exchange = Exchange(owner.application, owner.budget, head.method or "", path, headers_of(head))
        channel.begins()
        try:
            self._exchange.admit(length, authorized=channel.authorized)
        except Failure as failure:
            self._exchange.refuse(failure)
            self._reply()  # before the body has arrived
        if length > PIECE:
            self._overdue = asyncio.get_running_loop().call_later(owner.budget.seconds_for(length), channel.close)

    @property
    def body(self) -> memoryview | None:
        """Memory for the body."""
        return self._exchange.body

    def finish(self) -> None:
        """Answer the request, which is complete."""
        if self._overdue is not None:
            self._overdue.cancel()
        if not self._replied:
            self._reply()

    def leave(self) -> None:
        """Drop the request."""
        if self._overdue is not None:
            self._overdue.cancel()
        if not self._replied:
            self._replied = True
            self._exchange.leave()
            self._channel.ends()

    def _reply(self) -> None:
        self._replied = True
        self._channel.ready(self)

    async def respond(self) -> None:
        """Send the reply."""
        try:
            outgoing = await self._exchange.respond()
            try:
                await self._channel.send(self._number, outgoing)
            except (ValueError, TypeError) as error:
                await self._channel.send(self._number, self._exchange.unsendable("reply", error))
        except StreamClosedError:
            pass  # the reply is stored under its key
        except BaseException:  # no reply will follow: do not let the client wait
            self._channel.close()
            raise
        finally:
            self._channel.ends()
