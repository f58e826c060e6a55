"""A channel: frames on a connection that HTTP has handed over, for both of its ends and without I/O of its own.

Calls are numbered and answered in any order. A long body is sent in pieces, and other frames may travel between two
pieces. A body is received into the memory where it is decoded.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, Protocol

from labnet import codec
from labnet.network.protocol.frames import MAX_HEAD, PIECE, PRELUDE, Head, Kind, decode_head

#: Bodies up to this size, or so much of a longer one, are copied to be sent together with their head.
_SMALL = 1 << 16
#: Bytes of the receiving buffer; it grows for a longer head. The rest of a body is received into its own memory.
_BUFFER = 1 << 14
_MESSAGES = {int(kind): kind for kind in (Kind.REQUEST, Kind.REPLY)}
#: Longest body, in bytes.
MAX_BODY = 1 << 40


class Sink(Protocol):
    """The sending side of a connection."""

    def write(self, data: Any) -> object:
        """Send bytes or a memoryview, or queue them.

        Raises
        ------
        OSError
            If the connection is closed.
        """

    def flushed(self) -> Awaitable[object]:
        """Wait until little is queued; on an event loop, let others have a turn in any case."""
        ...

    def writing(self) -> bool:
        """Return whether bytes are queued."""
        ...

    def close(self) -> None:
        """Close the connection at once."""


class Incoming(Protocol):
    """A request or a reply that arrives.

    Attributes
    ----------
    body : memoryview or None
        Memory for the body; None if it is discarded.
    """

    @property
    def body(self) -> memoryview | None:
        """Memory for the body."""
        ...

    def finish(self) -> None:
        """Use the message, which is complete."""

    def leave(self) -> None:
        """Drop the message, whose rest will not arrive."""


class Owner(Protocol):
    """The owner of one end of a channel."""

    def begin(self, kind: Kind, number: int, head: Head, length: int) -> Incoming:
        """Start to receive a request or a reply."""
        ...

    def notice(self, kind: Kind, head: bytes) -> None:
        """Handle a frame without a call."""

    def closed(self, error: BaseException) -> None:
        """Drop all calls: the channel is closed."""


class _Arriving:
    """A message whose body arrives in pieces."""

    __slots__ = ("incoming", "length", "position")

    def __init__(self, incoming: Incoming, length: int):
        self.incoming = incoming
        self.length = length
        self.position = 0

    @property
    def missing(self) -> int:
        return self.length - self.position


class Channel:
    """One end of a channel.

    Attributes
    ----------
    heard : float
        When the last bytes arrived or the last piece was sent, in seconds of a monotonic clock.
    """

    def __init__(self, sink: Sink, owner: Owner):
        self._sink = sink
        self._owner = owner
        self._buffer = bytearray(_BUFFER)
        self._filled = 0
        self._arriving: dict[int, _Arriving] = {}
        self._number = 0  # of the message whose piece is being received
        self._target: memoryview | None = None  # the rest of that piece
        self._turn = asyncio.Lock()  # held while a piece is being sent
        self.heard = time.monotonic()
        self.closed = False

    # Receiving

    @property
    def is_in_piece(self) -> bool:
        """Whether the memory of `get_buffer` is to be filled completely."""
        return self._target is not None

    def get_buffer(self) -> memoryview:
        """Return memory for the next bytes."""
        if self._target is not None:
            return self._target
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """Use bytes that were written into the memory of `get_buffer`; close the channel if they are malformed."""
        self.heard = time.monotonic()
        try:
            if self._target is not None:
                self._advance(self._target, count)
            else:
                self._filled += count
            if self._target is None:
                self._parse()
        except (ValueError, OSError, MemoryError) as error:
            self.close(error)

    def feed(self, data: bytes) -> None:
        """Use bytes that arrived elsewhere."""
        while data and not self.closed:
            buffer = self.get_buffer()
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            data = data[count:]
            self.buffer_updated(count)

    def _parse(self) -> None:
        """Use the complete frames of the buffer."""
        start = 0
        while not self.closed and self._target is None and self._filled - start >= PRELUDE.size:
            kind, head_bytes, number, length = PRELUDE.unpack_from(self._buffer, start)
            if head_bytes > MAX_HEAD or length > MAX_BODY:
                raise ValueError(f"a frame of kind {kind} with {head_bytes} bytes of head and {length} of body")
            begin = start + PRELUDE.size
            if self._filled - begin < head_bytes:
                break
            head = bytes(memoryview(self._buffer)[begin : begin + head_bytes])
            start = begin + head_bytes
            start += self._use(kind, head, number, length, start)
        rest = self._filled - start
        if start and rest:
            self._buffer[:rest] = self._buffer[start : self._filled]
        self._filled = rest
        if rest >= PRELUDE.size and self._target is None and not self.closed:
            self._make_room(PRELUDE.size + PRELUDE.unpack_from(self._buffer)[1])
        elif len(self._buffer) > _BUFFER and not rest:
            self._buffer = bytearray(_BUFFER)

    def _make_room(self, nbytes: int) -> None:
        if len(self._buffer) < nbytes + _BUFFER // 2:
            self._buffer = self._buffer + bytes(nbytes + _BUFFER // 2 - len(self._buffer))

    def _use(self, kind: int, head: bytes, number: int, length: int, start: int) -> int:
        """Use a frame, whose body begins in the buffer; return how many bytes of the body were there."""
        if kind in _MESSAGES:
            if number in self._arriving:
                raise ValueError(f"call {number} began twice")
            incoming = self._owner.begin(_MESSAGES[kind], number, decode_head(head), length)
            if length <= min(self._filled - start, PIECE):
                body = incoming.body
                if length and body is not None:
                    body[:] = memoryview(self._buffer)[start : start + length]
                incoming.finish()
                return length
            self._arriving[number] = _Arriving(incoming, length)
            return self._begin_piece(number, min(length, PIECE), start)
        if kind == Kind.DATA:
            if number not in self._arriving:
                raise ValueError(f"a piece of call {number}, which has no body that is being received")
            if head or not 0 < length <= min(PIECE, self._arriving[number].missing):
                raise ValueError(f"a piece with {len(head)} bytes of head and {length} of body")
            return self._begin_piece(number, length, start)
        if length:
            raise ValueError(f"a frame of kind {kind} with a body of {length} bytes")
        if kind == Kind.CANCEL:
            left = self._arriving.pop(number, None)
            if left is not None:
                left.incoming.leave()
        elif kind == Kind.PING:
            if not self._sink.writing():  # otherwise more is on its way, and pongs would pile up behind it
                self.send_notice(Kind.PONG)
        elif kind in (Kind.HELLO, Kind.STOP):
            self._owner.notice(Kind(kind), head)
        elif kind != Kind.PONG:
            raise ValueError(f"a frame of unknown kind {kind}")
        return 0

    def _begin_piece(self, number: int, length: int, start: int) -> int:
        """Take a piece from the buffer, and leave its rest to `_target`; return the bytes that were there."""
        message = self._arriving[number]
        body = message.incoming.body
        target = memoryview(bytearray(length)) if body is None else body[message.position : message.position + length]
        message.position += length
        present = min(length, self._filled - start)
        target[:present] = memoryview(self._buffer)[start : start + present]
        self._number = number
        self._advance(target, present)
        return present

    def _advance(self, target: memoryview, count: int) -> None:
        """Continue after `count` bytes of a piece."""
        if count < len(target):
            self._target = target[count:]
            return
        self._target = None
        message = self._arriving[self._number]
        if not message.missing:
            del self._arriving[self._number]
            message.incoming.finish()

    @property
    def is_receiving(self) -> bool:
        """Whether the rest of a body is to come."""
        return bool(self._arriving)

    # Sending

    @property
    def is_sending(self) -> bool:
        """Whether part of a frame is still unsent."""
        return not self.closed and self._sink.writing()

    def send_notice(self, kind: Kind, head: bytes = b"", number: int = 0) -> None:
        """Send a frame without a body; do nothing on a closed channel."""
        if not self.closed:
            with contextlib.suppress(OSError):
                self._sink.write(PRELUDE.pack(kind, len(head), number, 0) + head)

    def send_now(self, kind: Kind, number: int, head: bytes, parts: Sequence[codec.Part], length: int) -> bool:
        """Send a message without waiting; return False if it must be sent in pieces.

        Raises
        ------
        OSError
            If the channel is closed.
        """
        if length > PIECE or (length > _SMALL and self._turn.locked()):
            return False
        self._write(PRELUDE.pack(kind, len(head), number, length) + head, parts, length)
        return True

    async def send(self, kind: Kind, number: int, head: bytes, parts: Sequence[codec.Part], length: int) -> None:
        """Send a message in pieces; return when its last byte has been handed to the operating system.

        Raises
        ------
        OSError
            If the channel is closed.
        """
        begun = done = False
        try:
            for piece, size in _pieces(parts):
                async with self._turn:
                    if not begun:
                        start = PRELUDE.pack(kind, len(head), number, length) + head
                    else:
                        start = PRELUDE.pack(Kind.DATA, 0, number, size)
                    begun = True
                    self._write(start, piece, size)
                    await self._sink.flushed()
                    self.heard = time.monotonic()
            done = True
        finally:
            if begun and not done:
                self.send_notice(Kind.CANCEL, number=number)

    def _write(self, start: bytes, parts: Sequence[codec.Part], length: int) -> None:
        """Send the beginning of a frame and its body, of which only a short one is copied.

        The beginning never travels alone, so that its receiver is woken once.
        """
        if length <= _SMALL:
            self._sink.write(b"".join((start, *parts)))
            return
        for part in parts:
            view = memoryview(part).cast("B")
            if start:
                self._sink.write(start + view[:_SMALL])
                start, view = b"", view[_SMALL:]
            if len(view):
                self._sink.write(view)

    def close(self, error: BaseException) -> None:
        """Close the channel and drop its calls; idempotent."""
        if self.closed:
            return
        self.closed = True
        self._sink.close()
        arriving, self._arriving = self._arriving, {}
        for message in arriving.values():
            message.incoming.leave()
        self._owner.closed(error)


def _pieces(parts: Sequence[codec.Part]) -> Iterator[tuple[list[codec.Part], int]]:
    """Divide a body into pieces, each a list of parts and its size in bytes; an empty body is one piece."""
    piece: list[codec.Part] = []
    room = PIECE
    for part in parts:
        view = memoryview(part).cast("B")
        while len(view) > room:
            yield [*piece, view[:room]], PIECE
            view, piece, room = view[room:], [], PIECE
        if len(view):
            piece.append(view)
            room -= len(view)
    yield piece, PIECE - room
