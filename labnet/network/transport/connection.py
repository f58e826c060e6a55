"""One connection of a server: requests are read one at a time, directly into their final memory.

Works on a non-blocking socket that the event loop watches. Bodies and replies are received and sent without a copy. The
next request is read when the reply to the previous one has been sent.
"""

import asyncio
import contextlib
import socket
from collections import deque
from math import inf
from typing import Protocol

from labnet import codec
from labnet.network.transport.heads import END, MAX_HEAD, RequestHead, parse_request

#: Bytes of the first read of a head; it includes short bodies.
_FIRST_READ = 1 << 13
#: Longest refused body that is still read, so that the client can read the error, in bytes.
DRAIN = 1 << 28
#: Seconds for which data is still read and discarded before a connection is closed.
_LINGER_SECONDS = 5.0
#: Reads of one socket before other connections are served.
_READS = 16
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_scratch = memoryview(bytearray(1 << 16))


class Exchange(Protocol):
    """A request and its reply, as a connection sees them.

    Attributes
    ----------
    length : int
        Length of the body in bytes.
    body : memoryview or None
        Memory for the body; None if it is discarded.
    """

    length: int
    body: memoryview | None

    def finish(self) -> None:
        """Answer the request, which is complete or refused."""

    def leave(self) -> None:
        """Drop the request: the connection is closed."""


class Listening(Protocol):
    """The owner of a connection."""

    idle_seconds: float
    body_seconds: float
    slowest: float
    bytes_held: int

    def begin(self, connection: "Connection", head: RequestHead) -> Exchange:
        """Start the exchange of a request before its body is read."""
        ...

    def reject(self, connection: "Connection", status: int, reason: str) -> None:
        """Answer a malformed request."""

    def waits(self, connection: "Connection") -> None:
        """Mark a connection as idle after its reply."""

    def leaves(self, connection: "Connection") -> None:
        """Remove a closed connection."""


class Connection:
    """An open connection.

    Parameters
    ----------
    owner : Listening
    sock : socket
        Non-blocking.
    first_seconds : float
        Time limit for the head of the first request.
    """

    def __init__(self, owner: Listening, sock: socket.socket, *, first_seconds: float):
        self._owner = owner
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(_FIRST_READ)
        self._filled = 0
        self._exchange: Exchange | None = None
        self._missing = 0  # bytes of the body that are yet to arrive
        self._answering = False
        self._reading = self._writing = self._lingering = self.closed = False
        self._outgoing: deque[codec.Part] = deque()
        self._unsent = 0  # bytes of a reply that are still to be sent
        self._last = False
        self._after = inf
        self._timer: asyncio.TimerHandle | None = None
        self._watch()
        self._expect(first_seconds)

    # Reading

    def _watch(self) -> None:
        if not self._reading and not self.closed:
            self._loop.add_reader(self._sock.fileno(), self._readable)
            self._reading = True

    def _pause(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._sock.fileno())
            self._reading = False

    def _readable(self) -> None:
        try:
            if self._lingering:
                self._throw_away()
            elif self._answering:
                self._pause()  # the next request or the end of the stream: ignored until the reply
            elif self._exchange is not None:
                self._read_body(self._exchange)
            else:
                self._read_head()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()

    def _read_head(self) -> None:
        if self._filled == len(self._buffer):
            self._buffer += bytes(len(self._buffer))
        count = self._sock.recv_into(memoryview(self._buffer)[self._filled :])
        if not count:
            self.close()
            return
        searched = self._filled
        self._filled += count
        self._look(searched)

    def _look(self, searched: int = 0) -> None:
        """Start a request if its head is complete; search for its end from position `searched`."""
        if self._filled >= 2 and self._buffer.startswith(b"\r\n"):  # a leading empty line is allowed
            self._drop(2)
            searched = 0
        end = self._buffer.find(END, max(0, searched - len(END) + 1), self._filled)
        if end < 0:
            if self._filled >= MAX_HEAD:
                self._reject(431, f"the head of the request is longer than {MAX_HEAD} bytes")
            return
        try:
            head = parse_request(bytes(memoryview(self._buffer)[: end + len(END)]))
        except ValueError as error:
            self._reject(400, str(error))
            return
        self._drop(end + len(END))
        try:
            exchange = self._exchange = self._owner.begin(self, head)
        except BaseException:  # the length of its body is unknown: what follows must not be read as a request
            self.close()
            raise
        self._missing = exchange.length
        self._take_arrived(exchange)
        if not self._missing:
            self._complete(exchange)
            return
        self._expect(self._owner.body_seconds + exchange.length / self._owner.slowest)
        if exchange.body is not None and head.asks_to_continue:
            with contextlib.suppress(OSError):  # closed: noticed when the body is read
                self._sock.send(_CONTINUE)

    def _take_arrived(self, exchange: Exchange) -> None:
        """Move bytes that arrived with the head into the body."""
        count = min(self._filled, self._missing)
        if not count:
            return
        if exchange.body is not None:
            exchange.body[:count] = memoryview(self._buffer)[:count]
        self._missing -= count
        self._drop(count)

    def _drop(self, count: int) -> None:
        """Remove bytes from the front of the buffer."""
        rest = self._filled - count
        if rest:
            self._buffer[:rest] = self._buffer[count : self._filled]
        elif len(self._buffer) > _FIRST_READ:
            self._buffer = bytearray(_FIRST_READ)
        self._filled = rest

    def _read_body(self, exchange: Exchange) -> None:
        for _ in range(_READS):
            if exchange.body is None:
                count = self._sock.recv_into(_scratch[: self._missing])
            else:
                count = self._sock.recv_into(exchange.body[exchange.length - self._missing :])
            if not count:
                self.close()
                return
            self._missing -= count
            if not self._missing:
                self._complete(exchange)
                return

    def _complete(self, exchange: Exchange) -> None:
        self._after = inf
        self._answering = True
        exchange.finish()

    def _reject(self, status: int, reason: str) -> None:
        self._after = inf
        self._answering = True
        self._owner.reject(self, status, reason)

    # Writing

    def send(self, parts: list[codec.Part], *, last: bool = False) -> None:
        """Send a reply and close the connection after the last one; do nothing on a closed connection."""
        if self.closed:
            return
        self._outgoing.extend(parts)
        self._last = last
        self._write()

    def _write(self) -> None:
        outgoing = self._outgoing
        try:
            while outgoing:
                part = outgoing[0]
                count = self._sock.send(part)
                if count == len(part):
                    outgoing.popleft()
                else:
                    outgoing[0] = memoryview(part)[count:]
        except (BlockingIOError, InterruptedError):
            if not self._writing:
                self._loop.add_writer(self._sock.fileno(), self._write)
                self._writing = True
                self._unsent = sum(map(len, outgoing))
                self._owner.bytes_held += self._unsent
                self._expect(self._owner.body_seconds + self._unsent / self._owner.slowest)
            return
        except OSError:
            self.close()
            return
        if self._writing:
            self._stop_writing()
        self._sent()

    def _stop_writing(self) -> None:
        self._loop.remove_writer(self._sock.fileno())
        self._writing = False
        self._owner.bytes_held -= self._unsent

    def _sent(self) -> None:
        self._answering = False
        if self._last:
            self._linger()
            return
        self._exchange = None
        self._owner.waits(self)
        if self.closed:  # to make room for other connections
            return
        self._expect(self._owner.idle_seconds)
        self._watch()
        if self._filled:
            self._look()

    # Closing

    def _linger(self) -> None:
        """Read on for a while: closing at once would lose the reply if the client is still sending."""
        self._lingering, self._missing = True, DRAIN
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._expect(_LINGER_SECONDS)
        self._watch()

    def _throw_away(self) -> None:
        for _ in range(_READS):
            count = self._sock.recv_into(_scratch)
            self._missing -= count
            if not count or self._missing < 0:
                self.close()
                return

    @property
    def is_sending(self) -> bool:
        """Whether part of a reply is still unsent."""
        return bool(self._outgoing)

    def abandon(self) -> None:
        """Close only the descriptor of a forked child; the parent keeps the connection."""
        self.closed = True
        self._sock.close()

    def close(self) -> None:
        """Close the connection at once; idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        if self._writing:
            self._stop_writing()
        self._outgoing.clear()
        self._sock.close()
        if self._exchange is not None:
            self._exchange.leave()
            self._exchange = None
        self._owner.leaves(self)

    def _expect(self, seconds: float) -> None:
        """Close the connection unless its next step completes within the time limit."""
        self._after = self._loop.time() + seconds
        if self._timer is None or self._after < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._after, self._overdue)

    def _overdue(self) -> None:
        self._timer = None
        if self._loop.time() >= self._after:
            self.close()
        elif self._after < inf:
            self._timer = self._loop.call_at(self._after, self._overdue)
