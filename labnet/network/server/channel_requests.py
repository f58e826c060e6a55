"""Requests over channels: the server's end."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from tornado.iostream import IOStream

from labnet import wire
from labnet.network.protocol.frames import PIECE, Head, Kind, encode_head, headers_of
from labnet.network.server.handler import Application, Budget, Exchange, Outgoing
from labnet.network.server.routing import Failure, path_of
from labnet.network.threads import begin_together, in_task
from labnet.network.transport.channel import Channel
from labnet.network.transport.channel_connection import SocketConnection, StreamConnection
from labnet.network.transport.client_channel import Hello, Stopping
from labnet.network.transport.connection_limit import Connections
from labnet.network.transport.server import IDLE_SECONDS

#: Frames that are sent together: longest, in bytes, and how many.
_SHORT, _MOST_GATHERED = 1 << 12, 64
#: Seconds between two looks at a channel that may be idle.
_LOOK_SECONDS = 30.0


class ChannelRequests:
    """The channels of a server.

    Parameters
    ----------
    keep : callable
        Called with a task for which a stopping server waits.
    """

    def __init__(self, application: Application, budget: Budget, keep: Callable[["asyncio.Task[None]"], None]):
        self.application = application
        self.budget = budget
        self.keep = keep
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
        self._connection: StreamConnection | SocketConnection = StreamConnection(self, stream)
        self._ready: list[_Call] = []
        self._gathered: list[bytes] = []
        self._gathers = False
        stream.set_nodelay(True)
        self._channel = Channel(self, self)
        hello = Hello(protocol=wire.PROTOCOL, epoch=owner.application.epoch)
        self._channel.send_notice(Kind.HELLO, msgspec.json.encode(hello))
        self._loop.call_soon(self._start, self._connection)
        self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _start(self, first: StreamConnection) -> None:
        """Receive requests; without Tornado's stream where that is possible."""
        reading = first.read(in_pieces=False)
        if reading is None:
            return
        own = first.without_tornado(reading)
        if own is None:
            first.go_on(reading)
        else:
            self._connection = own
            self.owner.keep(self._loop.create_task(own.start()))

    # The receiving side, for the connection

    @property
    def is_in_piece(self) -> bool:
        """Whether the memory of `get_buffer` is to be filled completely."""
        return self._channel.is_in_piece

    def get_buffer(self) -> memoryview:
        """Return memory for the next bytes."""
        return self._channel.get_buffer()

    def ended(self, error: BaseException | None) -> None:
        """Drop the channel, whose connection is closed."""
        self._channel.close(error or ConnectionResetError("the client closed the channel"))

    def received(self, count: int) -> None:
        """Use bytes that have arrived, and answer the requests that are complete.

        A request that is answered at once needs no task, and none that must wait holds up the others.
        """
        self._channel.buffer_updated(count)
        if self._ready:
            ready, self._ready = self._ready, []
            self._gathers = len(ready) > 1
            try:
                begin_together([call.respond() for call in ready], self.owner.keep)
            finally:
                self._gathers = False
                self._flush()

    def ready(self, call: "_Call") -> None:
        """Queue a request that can be answered."""
        self._ready.append(call)

    # The sending side, for the channel

    def write(self, data: Any) -> None:
        """Send bytes; short replies to requests that arrived together are sent together."""
        if self._gathers and len(data) < _SHORT and len(self._gathered) < _MOST_GATHERED:
            self._gathered.append(data)
            return
        self._flush()
        self._connection.write(data)

    def _flush(self) -> None:
        """Send gathered replies."""
        if self._gathered:
            gathered = b"".join(self._gathered)
            self._gathered.clear()
            with contextlib.suppress(OSError):
                self._connection.write(gathered)

    def flushed(self) -> Awaitable[None]:
        """Wait until everything is sent."""
        return self._connection.flushed()

    def writing(self) -> bool:
        """Return whether bytes are queued."""
        return self._connection.writing()

    @property
    def socket(self) -> socket.socket:
        """The connection's socket."""
        return self._connection.socket

    @property
    def authorized(self) -> bool:
        """Whether the server needs no token, or the client has shown it when it opened the channel."""
        return self.owner.application.token in (None, self._token)

    def announce_stop(self, *, returns: bool) -> None:
        """Tell the client that the server stops."""
        self._channel.send_notice(Kind.STOP, msgspec.json.encode(Stopping(returns=returns)))

    def close(self) -> None:
        """Close the connection at once."""
        self._connection.close()
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
        is_read = not self.writing()  # otherwise the time limit holds for short replies too
        is_sent = is_read and self._channel.send_now(Kind.REPLY, number, head, body.parts, body.nbytes)
        if is_sent and not (body.nbytes > _SHORT and self.writing()):
            return
        await in_task()
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
        except OSError:
            pass  # the reply is stored under its key
        except BaseException:  # no reply will follow: do not let the client wait
            self._channel.close()
            raise
        finally:
            self._channel.ends()
