"""The server's end of the connection of a channel: a socket on the event loop, or a stream of Tornado's for TLS."""

import asyncio
import socket
from typing import Any, Protocol

from tornado.iostream import IOStream, SSLIOStream, StreamClosedError


class Receiver(Protocol):
    """The receiving side of a channel."""

    @property
    def is_in_piece(self) -> bool:
        """Whether the memory of `get_buffer` is to be filled completely."""
        ...

    def get_buffer(self) -> memoryview:
        """Return memory for the next bytes."""
        ...

    def received(self, count: int) -> None:
        """Use bytes that were written into the memory of `get_buffer`."""

    def ended(self, error: BaseException | None) -> None:
        """Drop the channel, whose connection is closed."""


class SocketConnection(asyncio.BufferedProtocol):
    """A connection as a protocol of asyncio: bytes that arrive are used in the same turn of the event loop.

    Attributes
    ----------
    socket : socket
        Its socket.
    """

    def __init__(self, receiver: Receiver, sock: socket.socket):
        self.socket = sock
        self._receiver = receiver
        self._transport: asyncio.Transport | None = None
        self._early: list[Any] = []
        self._flushed: asyncio.Future[None] | None = None
        self._is_closed = False

    async def start(self) -> None:
        """Receive and send bytes."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: self, self.socket)
        except BaseException as error:
            self._is_closed = True
            self.socket.close()
            self._receiver.ended(error)
            if not isinstance(error, OSError):  # that one: it was closed meanwhile
                raise

    # Callbacks of asyncio

    def connection_made(self, transport: Any) -> None:
        """Send what was written before."""
        self._transport = transport
        if self._is_closed:
            transport.abort()
            return
        transport.set_write_buffer_limits(high=0)  # `flushed` waits until everything is sent
        early, self._early = self._early, []
        for data in early:
            transport.write(data)

    def get_buffer(self, sizehint: int) -> Any:
        """Return memory for the next bytes."""
        return self._receiver.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Use bytes that have arrived."""
        self._receiver.received(nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the channel."""
        self._is_closed, self._transport = True, None
        self.resume_writing()
        self._receiver.ended(exc)

    def pause_writing(self) -> None:
        """Let `flushed` wait."""
        self._flushed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let `flushed` return."""
        if self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)
        self._flushed = None

    # The sending side

    def write(self, data: Any) -> None:
        """Send bytes, or queue them.

        Raises
        ------
        OSError
            If the connection is closed.
        """
        if self._is_closed:
            raise ConnectionResetError("the connection is closed")
        if self._transport is None:
            self._early.append(data)
        else:
            self._transport.write(data)

    async def flushed(self) -> None:
        """Wait until everything is sent."""
        await (asyncio.sleep(0) if self._flushed is None else asyncio.shield(self._flushed))
        if self._is_closed:
            raise ConnectionResetError("the connection was closed")

    def writing(self) -> bool:
        """Return whether bytes are queued."""
        return bool(self._early) or (self._transport is not None and self._transport.get_write_buffer_size() > 0)

    def close(self) -> None:
        """Close the connection at once."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.abort()


class StreamConnection:
    """A connection that Tornado reads and writes."""

    def __init__(self, receiver: Receiver, stream: IOStream):
        self._receiver = receiver
        self._stream = stream
        self._sent: asyncio.Future[None] | None = None

    @property
    def socket(self) -> socket.socket:
        """Its socket."""
        return self._stream.socket

    def read(self, *, in_pieces: bool = True) -> "asyncio.Future[int] | None":
        """Use the bytes that are there; return a future for the next ones, or None if the connection is closed.

        Without `in_pieces` no bytes have arrived for the future.
        """
        try:
            while True:
                buffer, partial = self._receiver.get_buffer(), not (in_pieces and self._receiver.is_in_piece)
                reading: Any = self._stream.read_into(buffer, partial=partial)  # type: ignore[arg-type]
                if not reading.done():
                    return reading  # type: ignore[no-any-return]
                self._receiver.received(reading.result())
        except StreamClosedError as error:
            self._receiver.ended(error.real_error)
            return None
        except BaseException as error:
            self._receiver.ended(error)
            raise

    def go_on(self, reading: "asyncio.Future[int]") -> None:
        """Receive bytes as they come."""
        reading.add_done_callback(self._arrived)

    def _arrived(self, reading: "asyncio.Future[int]") -> None:
        try:
            self._receiver.received(reading.result())
        except StreamClosedError as error:
            self._receiver.ended(error.real_error)
            return
        except BaseException as error:
            self._receiver.ended(error)
            raise
        following = self.read()
        if following is not None:
            self.go_on(following)

    def without_tornado(self, reading: "asyncio.Future[int]") -> SocketConnection | None:
        """Return the connection without Tornado's stream; None for TLS, or if no file descriptor is left.

        Parameters
        ----------
        reading : future
            Of `read` without `in_pieces`.
        """
        if isinstance(self._stream, SSLIOStream) or self._stream.writing():
            return None
        try:
            sock = self._stream.socket.dup()
        except OSError:
            return None
        reading.add_done_callback(asyncio.Future.exception)
        self._stream.close()
        return SocketConnection(self._receiver, sock)

    def write(self, data: Any) -> None:
        """Send bytes, or queue them; raise OSError if the connection is closed."""
        self._sent = self._stream.write(data)

    async def flushed(self) -> None:
        """Wait until everything is sent."""
        await (asyncio.sleep(0) if self._sent is None or self._sent.done() else asyncio.shield(self._sent))

    def writing(self) -> bool:
        """Return whether bytes are queued."""
        return self._stream.writing()

    def close(self) -> None:
        """Close the connection at once."""
        self._stream.close()
