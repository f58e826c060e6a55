"""A channel without labnet's client: frames by hand, as docs/protocol.md describes them."""

import contextlib
import json
import struct
from dataclasses import dataclass

from tests.helpers.network.raw_http import TOKEN, connection, head, read_reply

PRELUDE = struct.Struct("<BxxxIQQ")
PIECE = 1048576
HELLO, REQUEST, REPLY, DATA, CANCEL, PING, PONG, STOP = range(1, 9)


@dataclass(frozen=True)
class Frame:
    """A frame as it came over the socket; `length` is the number in its prelude."""

    kind: int
    number: int
    head: dict
    length: int
    body: bytes


def prelude(kind, number=0, *, head_bytes=0, length=0):
    """Return the first 24 bytes of a frame."""
    return PRELUDE.pack(kind, head_bytes, number, length)


def frame(kind, number=0, body=b"", *, length=None, **fields):
    """Return a frame; `length` announces a body that continues in pieces."""
    text = json.dumps(fields).encode() if fields else b""
    announced = len(body) if length is None else length
    return prelude(kind, number, head_bytes=len(text), length=announced) + text + body


def pieces(body):
    """Divide a body as frames carry it."""
    return [body[begin : begin + PIECE] for begin in range(0, len(body), PIECE)] or [b""]


def request(number, path, body=b"", *, method=None, **fields):
    """Return the frames of a request."""
    first, *others = pieces(body)
    fields = {"method": method or ("POST" if body else "GET"), "path": path, **fields}
    frames = [frame(REQUEST, number, first, length=len(body), **fields)]
    return frames + [frame(DATA, number, piece) for piece in others]


class RawChannel:
    """An open channel on a socket."""

    def __init__(self, sock, file):
        self.socket = sock
        self._file = file

    def send(self, *frames):
        """Send frames."""
        for data in frames:
            self.socket.sendall(data)

    def receive(self):
        """Read one frame; None where the connection ended instead."""
        try:
            start = self._file.read(PRELUDE.size)
        except ConnectionResetError:
            return None
        if not start:
            return None
        kind, head_bytes, number, length = PRELUDE.unpack(start)
        text = self._file.read(head_bytes)
        body = self._file.read(min(length, PIECE))
        return Frame(kind, number, json.loads(text) if text else {}, length, body)

    def reply(self, number=None):
        """Read one whole reply; gives its head and its body."""
        first = self.receive()
        assert first.kind == REPLY
        assert number in (None, first.number)
        body = bytearray(first.body)
        while len(body) < first.length:
            more = self.receive()
            assert (more.kind, more.number, more.head) == (DATA, first.number, {})
            body += more.body
        return first.head, bytes(body)

    def call(self, number, path, body=b"", **fields):
        """Make a call and read its reply."""
        self.send(*request(number, path, body, **fields))
        return self.reply(number)

    @property
    def is_closed(self):
        """Whether nothing but the end of the connection follows."""
        return self.receive() is None


def upgrade(server, **more):
    """Return the request for a channel; a value of None leaves a header out."""
    fields = {TOKEN: server.token, "Connection": "Upgrade", "Upgrade": "labnet-channel"}
    return head(server.port, "GET", "/channel", fields | {name.replace("_", "-"): x for name, x in more.items()})


@contextlib.contextmanager
def channel(server, behind=b"", **more):
    """Open a channel to a server of this process; `behind` follows the request at once."""
    with connection(server.port) as (sock, file):
        sock.sendall(upgrade(server, **more) + behind)
        answer = read_reply(file)
        assert (answer.status, answer.headers["upgrade"]) == (101, "labnet-channel")
        opened = RawChannel(sock, file)
        hello = opened.receive()
        assert (hello.kind, hello.head["protocol"]) == (HELLO, "1")
        yield opened
