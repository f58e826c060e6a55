"""The client's end of a channel: calls that wait for their replies, and pings that find a dead server."""

import asyncio
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from labnet import codec
from labnet.network.protocol.frames import MAX_HEAD, PATH, UPGRADE, Head, Kind, encode_head, headers_of
from labnet.network.transport.buffers import Memory
from labnet.network.transport.channel import Channel
from labnet.network.transport.response import MAX_REPLY, Response

#: Seconds without a frame after which a waiting client sends a ping, and after which it gives the server up.
PING_SECONDS = 1.0
DEAD_SECONDS = 5.0
#: Seconds for which a server may take to answer the ping that follows a call without an answer.
PROBE_SECONDS = 0.5
#: Seconds in which a server must answer the request for a channel, and then send its first frame.
_ANSWER_SECONDS, _HELLO_SECONDS = 5.0, 1.0


#: Longest frame that is sent together with others, in bytes.
_SHORT = 1 << 12


class Hello(msgspec.Struct):
    """The head of the server's first frame.

    Attributes
    ----------
    protocol : str
        Version of the protocol.
    epoch : str
        Incarnation of the server.
    """

    protocol: str
    epoch: str


class Stopping(msgspec.Struct):
    """The head of the frame that announces the end of the server.

    Attributes
    ----------
    returns : bool
        Whether the server may come back by itself, as after a restart of its process.
    """

    returns: bool = False


class NoChannel(Exception):
    """The server, or a proxy before it, does not open a channel.

    Attributes
    ----------
    is_final : bool
        Whether the same request will be refused again soon.
    """

    def __init__(self, first_line: str):
        super().__init__(first_line)
        status = first_line.split(" ")[1:2]
        self.is_final = status not in (["429"], ["502"], ["503"], ["504"])


def uses_channels() -> bool:
    """Return whether channels are used at all: ``LABNET_TRANSPORT=http`` in the environment switches them off."""
    return os.environ.get("LABNET_TRANSPORT") != "http"


def upgrade_request(authority: str, prefix: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """Return the request for a channel."""
    lines = [f"GET {prefix}{PATH} HTTP/1.1", f"Host: {authority}", "Connection: Upgrade", f"Upgrade: {UPGRADE}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def is_accepted(head: bytes) -> bool:
    """Return whether the head of a reply opens a channel."""
    first, *others = head.decode("latin-1").split("\r\n")
    accepted = any(line.lower().replace(" ", "") == f"upgrade:{UPGRADE}" for line in others)
    return first.split(" ")[1:2] == ["101"] and accepted


def no_sign_of_life(seconds: float) -> ConnectionResetError:
    """Return the error of a channel whose server does not answer pings."""
    return ConnectionResetError(f"no sign of life from the server for {seconds:.0f} s")


class _Reply:
    """A reply that arrives."""

    def __init__(self, call: "_Call", head: Head, length: int, memory: Memory):
        self._call = call
        self._head = head
        self.body: memoryview | None = None
        if length > MAX_REPLY:
            raise ValueError(f"a reply of {length} bytes")
        if not call.future.done():
            self.body = memory.take(length)
            call.due = call.end

    def finish(self) -> None:
        """Give the reply to the waiting call."""
        if not self._call.future.done():
            assert self.body is not None, "allocated for a waiting call"
            self._call.future.set_result(Response(self._head.status or 0, headers_of(self._head), self.body))

    def leave(self) -> None:
        """Fail the call, whose reply was cut."""
        if not self._call.future.done():
            self._call.future.set_exception(ConnectionResetError("the server cut its reply"))


class _Call:
    """A call that waits for its reply."""

    __slots__ = ("due", "end", "future")

    def __init__(self, future: "asyncio.Future[Response]", due: float, end: float):
        self.future = future
        self.due = due
        self.end = end


class ClientChannel(asyncio.BufferedProtocol):
    """An open channel to a server, as a protocol of asyncio: a reply wakes its caller without a task between them.

    Attributes
    ----------
    epoch : str or None
        Incarnation of the server; None before its first frame.
    stopping : Stopping or None
        The server's announcement of its end.
    used : float
        When the last call ended, in seconds of a monotonic clock.
    """

    def __init__(self, memory: Memory):
        self._memory = memory
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._loop = asyncio.get_running_loop()
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._pinging: asyncio.TimerHandle | None = None
        self._probing: asyncio.TimerHandle | None = None
        self._expiring: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._answer = bytearray()  # to the request for the upgrade
        self._scratch = memoryview(bytearray(1 << 12))
        self._is_upgraded = False
        self._flushed: asyncio.Future[None] | None = None
        self._gathered: list[bytes] = []
        self.epoch: str | None = None
        self.stopping: Stopping | None = None
        self.used = time.monotonic()
        self._channel = Channel(self, self)

    async def upgrade(self, authority: str, prefix: str, headers: Sequence[tuple[str, str]]) -> None:
        """Ask the server for a channel on the fresh connection.

        Raises
        ------
        NoChannel
            If the request is refused, or something that is no labnet server answers.
        OSError
            If the connection breaks, or no answer comes in time.
        """
        self.write(upgrade_request(authority, prefix, headers))
        async with asyncio.timeout(_ANSWER_SECONDS):
            await self._accepted
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                await self._greeted
        except TimeoutError:
            raise NoChannel("HTTP/1.1 101, but what follows does not arrive") from None

    def _read_answer(self, count: int) -> None:
        """Read the answer to the request for the upgrade."""
        self._answer += self._scratch[:count]
        head, end, rest = bytes(self._answer).partition(b"\r\n\r\n")
        if not end:
            if len(head) > MAX_HEAD:
                raise NoChannel("a head without an end")
            return
        if not is_accepted(head):
            raise NoChannel(head.decode("latin-1").partition("\r\n")[0])
        self._is_upgraded, self._answer = True, bytearray()
        if not self._accepted.done():
            self._accepted.set_result(None)
        self._channel.feed(rest)

    # Callbacks of asyncio

    def connection_made(self, transport: Any) -> None:
        """Record the transport."""
        self._transport = transport

    def get_buffer(self, sizehint: int) -> Any:
        """Return memory for the next bytes."""
        return self._channel.get_buffer() if self._is_upgraded else self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Use bytes that have arrived."""
        if self._is_upgraded:
            self._channel.buffer_updated(nbytes)
            return
        try:
            self._read_answer(nbytes)
        except NoChannel as error:
            if not self._accepted.done():
                self._accepted.set_exception(error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all calls."""
        self._channel.close(exc or ConnectionResetError("the server closed the channel"))
        self.resume_writing()

    def pause_writing(self) -> None:
        """Let `flushed` wait."""
        self._flushed = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let `flushed` return."""
        if self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)
        self._flushed = None

    # The sending side, for the channel

    def write(self, data: Any) -> None:
        """Send bytes, or queue them; short calls that are made together are sent together."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the channel is closed")
        if len(self._calls) > 1 and len(data) < _SHORT:
            if not self._gathered:
                self._loop.call_soon(self._flush)
            self._gathered.append(data)
            return
        self._flush()
        self._transport.write(data)

    def _flush(self) -> None:
        """Send gathered calls."""
        gathered, self._gathered = self._gathered, []
        if gathered and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(gathered))

    async def flushed(self) -> None:
        """Wait until little is queued."""
        await (asyncio.sleep(0) if self._flushed is None else asyncio.shield(self._flushed))
        if self._channel.closed:
            raise ConnectionResetError("the channel was closed")

    def writing(self) -> bool:
        """Return whether bytes are queued."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def close(self) -> None:
        """Close the connection at once; waiting calls fail."""
        if self._transport is not None:
            self._transport.abort()
        self._channel.close(ConnectionResetError("the channel was closed"))

    @property
    def is_open(self) -> bool:
        """Whether calls can be sent."""
        return not self._channel.closed and self.stopping is None

    @property
    def is_idle(self) -> bool:
        """Whether no call waits."""
        return not self._calls

    async def request(
        self, head: Mapping[str, Any], parts: Sequence[codec.Part], *, begin: float, end: float
    ) -> Response:
        """Send a call and return its reply.

        Parameters
        ----------
        head : mapping
            The fields of the head.
        begin, end : float
            When the reply must have begun and must be complete, in seconds of a monotonic clock.

        Raises
        ------
        OSError
            If the channel broke before the reply was complete, or no reply came in time.
        """
        began = time.monotonic()
        self._number = number = self._number + 1
        call = self._calls[number] = _Call(self._loop.create_future(), begin, end)
        text, length = encode_head(head), sum(map(len, parts))
        sending: asyncio.Task[None] | None = None
        try:
            if not self._channel.send_now(Kind.REQUEST, number, text, parts, length):
                sending = self._loop.create_task(self._channel.send(Kind.REQUEST, number, text, parts, length))
                sending.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._watch()
            if self._expiring is None or begin < self._expiring.when():
                self._expire_later(begin)
            return await call.future
        except (asyncio.CancelledError, TimeoutError):
            self._doubt(began)
            raise
        finally:
            del self._calls[number]
            self.used = time.monotonic()
            if sending is not None:
                sending.cancel()

    def _expire_later(self, when: float) -> None:
        if self._expiring is not None:
            self._expiring.cancel()
        self._expiring = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        """Fail the calls that are overdue; one timer serves them all."""
        self._expiring = None
        first = math.inf
        for call in self._calls.values():
            if call.due > self._loop.time():
                first = min(first, call.due)
            elif not call.future.done():
                call.future.set_exception(TimeoutError())
        if first < math.inf:
            self._expire_later(first)

    def _watch(self) -> None:
        """Look after the server while calls wait."""
        if self._pinging is None:
            self._channel.heard = max(self._channel.heard, time.monotonic())
            self._pinging = self._loop.call_later(PING_SECONDS, self._ping)

    def _doubt(self, began: float) -> None:
        """Probe the server if it was silent during a call that was given up: the next attempt needs a connection."""
        if self._channel.heard < began and self._probing is None and not self._channel.closed:
            self._channel.send_notice(Kind.PING)
            self._probing = self._loop.call_later(PROBE_SECONDS, self._conclude, began)

    def _conclude(self, began: float) -> None:
        self._probing = None
        if self._channel.heard < began:
            self._channel.close(no_sign_of_life(time.monotonic() - began))

    def _ping(self) -> None:
        self._pinging = None
        if self._channel.closed or not self._calls:
            return
        silent = time.monotonic() - self._channel.heard
        if silent > DEAD_SECONDS * (3 if self._channel.is_sending else 1):
            self._channel.close(no_sign_of_life(silent))
            return
        if silent >= PING_SECONDS:
            self._channel.send_notice(Kind.PING)
        self._watch()

    # Callbacks of the channel

    def begin(self, kind: Kind, number: int, head: Head, length: int) -> _Reply:
        """Start to receive a reply; one that is not awaited any more is discarded."""
        if kind is not Kind.REPLY:
            raise ValueError(f"a frame of kind {kind.name} from a server")
        call = self._calls.get(number)
        if call is None:
            call = _Call(self._loop.create_future(), math.inf, math.inf)
            call.future.cancel()
        return _Reply(call, head, length, self._memory)

    def notice(self, kind: Kind, head: bytes) -> None:
        """Record that the server has greeted or is stopping."""
        try:
            if kind is Kind.STOP:
                self.stopping = msgspec.json.decode(head, type=Stopping)
            else:
                self.epoch = msgspec.json.decode(head, type=Hello).epoch
        except msgspec.DecodeError as error:
            raise ValueError(f"the head of a frame {kind.name} is malformed: {error}") from error
        if not self._greeted.done():
            self._greeted.set_result(None)

    def closed(self, error: BaseException) -> None:
        """Fail all calls."""
        for timer in (self._pinging, self._probing, self._expiring):
            if timer is not None:
                timer.cancel()
        self._pinging = self._probing = self._expiring = None
        for opening in (self._accepted, self._greeted):
            if not opening.done():
                opening.set_exception(error)
                opening.exception()
        for call in list(self._calls.values()):
            if not call.future.done():
                call.future.set_exception(error)
