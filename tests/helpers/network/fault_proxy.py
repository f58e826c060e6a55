"""A TCP proxy that does to a part of the requests what networks do to them, in an order set by a seed.

It passes on HTTP messages, and the frames of channels, each over a connection of its own to the server.
"""

import collections
import contextlib
import random
import socket
import struct
import threading
import time
from typing import NamedTuple

import msgspec

from labnet.network.protocol.frames import PATH, PIECE, PRELUDE, Head, Kind, headers_of

#: Seconds after which an end of a connection that says nothing is given up.
SECONDS = 10.0
FAULTS = (
    "refuse",  # the connection is closed and nothing is passed on
    "cut request",  # half of the request arrives
    "lose reply",  # the server answers, nobody hears it
    "cut reply",  # half of the reply arrives
    "duplicate",  # the request arrives twice at once
    "late",  # the request arrives again after the client got its reply and went on
    "reset",  # the connection breaks after the request was passed on
    "trickle",  # the reply arrives in small pieces
    "flip request",  # one bit of the body is another
    "flip reply",
)
#: Faults that cost time: not among those that every proxy brings by itself.
SLOW = ("delay",)  # request or reply is held for 5 to 200 ms


class Message(NamedTuple):
    """A request or a reply, of HTTP or of a channel.

    Attributes
    ----------
    head : bytes
        As in HTTP; of a frame, what HTTP would say.
    data : bytes
        The whole message as it was sent.
    upgrade : Message or None
        The request for the channel of a frame.
    """

    head: bytes
    body: bytes
    data: bytes
    upgrade: "Message | None" = None


class Proxy:
    """Passes requests on to a port of this machine and counts what it did.

    Parameters
    ----------
    share : float
        How many of the requests meet a fault.
    at : int
        Port of its own.
    latency : float
        Seconds by which each exchange is held, half of them on the way there.
    """

    def __init__(self, port, *, seed=0, share=0.4, faults=FAULTS, at=0, latency=0.0):
        self._target = port
        self.latency = latency
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.share = share
        self._faults = faults
        self.counts = collections.Counter()
        self._late = []
        self._threads = []
        self._sockets = set()
        self._listener = socket.create_server(("127.0.0.1", at))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            with self._lock:
                self._sockets.add(client)
                self._threads = [t for t in self._threads if t.is_alive()] + [thread]
            thread.start()

    def _choose(self):
        with self._lock:
            fault = self._random.choice(self._faults) if self._random.random() < self.share else "none"
            self.counts[fault] += 1
            return fault

    def _bit(self, length):
        with self._lock:
            return self._random.randrange(length * 8)

    def _serve(self, client):
        client.settimeout(SECONDS)
        try:
            with client, client.makefile("rb") as file, contextlib.suppress(OSError):
                while self._exchange(client, file):
                    pass
        finally:
            with self._lock:
                self._sockets.discard(client)

    def _exchange(self, client, file):
        """Pass on one request and its reply; tell whether the connection goes on."""
        request = read_message(file)
        if request is None:
            return False
        if request.head.startswith(f"GET {PATH} ".encode()) or f"{PATH} HTTP/1.1".encode() in request.head:
            return self._tunnel(client, file, request)
        return self._pass_on(client, request)

    def _pass_on(self, client, request):
        return getattr(self, "_do_" + self._choose().replace(" ", "_"))(client, request)

    def _tunnel(self, client, file, upgrade):
        """Pass on the frames of a channel, each in a thread, because calls may wait for each other."""
        with self._connect(upgrade) as server, server.makefile("rb") as replies:
            server.sendall(upgrade.data)
            accepted = read_message(replies)
            if accepted is None:
                return False
            if b" 101 " not in accepted.head.partition(b"\r\n")[0]:
                client.sendall(accepted.data)
                return True
            hello = read_frames(replies, upgrade)
        if hello is None:
            return False
        client.sendall(accepted.data + hello.data)
        sending, threads = _Locked(client), []
        while (request := read_frames(file, upgrade)) is not None:
            threads.append(threading.Thread(target=self._pass_on_frame, args=(sending, request)))
            threads[-1].start()
        for thread in threads:
            thread.join(SECONDS)
        return False

    def _pass_on_frame(self, client, request):
        goes_on = False
        with contextlib.suppress(OSError):
            goes_on = self._pass_on(client, request)
        if not goes_on:
            client.end()

    @contextlib.contextmanager
    def _connect(self, request):
        """Open a connection to the server on which the bytes of a request can be sent."""
        with socket.create_connection(("127.0.0.1", self._target), SECONDS) as server:
            if request.upgrade is not None:
                with server.makefile("rb", 0) as file:
                    server.sendall(request.upgrade.data)
                    if read_message(file) is None or read_frames(file, request.upgrade) is None:
                        raise ConnectionResetError("the server is gone")
            yield server

    def _ask(self, request):
        """Send a request to the server on a connection of its own and return the whole reply."""
        time.sleep(self.latency / 2)
        with self._connect(request) as server, server.makefile("rb") as file:
            server.sendall(request.data)
            reply = read_message(file) if request.upgrade is None else read_frames(file, request.upgrade)
        if reply is None:
            raise ConnectionResetError("the server is gone")
        time.sleep(self.latency / 2)
        return reply

    def _do_none(self, client, request):
        reply = self._ask(request)
        client.sendall(reply.data)
        self._deliver_late()
        return True

    def _do_refuse(self, client, request):
        return False

    def _do_cut_request(self, client, request):
        with self._connect(request) as server:
            server.sendall(request.data[: len(request.data) // 2])
        return False

    def _do_lose_reply(self, client, request):
        self._ask(request)
        return False

    def _do_cut_reply(self, client, request):
        data = self._ask(request).data
        client.sendall(data[: len(data) // 2])
        return False

    def _do_duplicate(self, client, request):
        other = threading.Thread(target=self._quietly, args=(request,))
        other.start()
        reply = self._ask(request)
        other.join()
        client.sendall(reply.data)
        return True

    def _do_late(self, client, request):
        with self._lock:
            self._late.append(request)
        client.sendall(self._ask(request).data)
        return True

    def _do_reset(self, client, request):
        with self._connect(request) as server:
            server.sendall(request.data)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def _do_trickle(self, client, request):
        data = self._ask(request).data
        for start in range(0, len(data), 199):
            client.sendall(data[start : start + 199])
        return True

    def _do_delay(self, client, request):
        with self._lock:
            seconds, there = self._random.uniform(0.005, 0.2), self._random.random() < 0.5
        time.sleep(seconds if there else 0.0)
        reply = self._ask(request)
        time.sleep(0.0 if there else seconds)
        client.sendall(reply.data)
        return True

    def _do_flip_request(self, client, request):
        client.sendall(self._ask(self._flipped(request)).data)
        return True

    def _do_flip_reply(self, client, request):
        client.sendall(self._flipped(self._ask(request)).data)
        return True

    def _flipped(self, message):
        if not message.body:
            return message
        flipped = bytearray(message.data)
        bit = self._bit(min(len(message.body), PIECE))
        flipped[-(bit // 8) - 1] ^= 1 << bit % 8
        return message._replace(data=bytes(flipped))

    def _quietly(self, request):
        with contextlib.suppress(OSError):
            self._ask(request)

    def _deliver_late(self):
        """Deliver what was held back two requests ago or earlier."""
        with self._lock:
            due, self._late = self._late[:-1], self._late[-1:]
        for request in due:
            self._quietly(request)

    def close(self):
        """Deliver what is still held back, and end."""
        for request in self._late:
            self._quietly(request)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        with self._lock:
            sockets, threads = list(self._sockets), list(self._threads)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class _Locked:
    """A client's socket for the threads that answer its calls."""

    def __init__(self, sock):
        self._sock = sock
        self._lock = threading.Lock()

    def sendall(self, data):
        with self._lock:
            self._sock.sendall(data)

    def setsockopt(self, *arguments):
        self._sock.setsockopt(*arguments)

    def end(self):
        """Break the connection: the thread that reads from it sees that."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def read_message(file):
    """Read a request or reply of HTTP; None where the connection ended instead."""
    head, length = file.readline(), 0
    if not head:
        return None
    while (field := file.readline()) not in (b"\r\n", b""):
        head += field
        name, _, value = field.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = file.read(length) if length else b""
    head += b"\r\n"
    return Message(head, body, head + body) if len(body) == length else None


def read_frames(file, upgrade):
    """Read the frames of a request or reply, or a frame without a call; None where the connection ended instead."""
    data, body, missing, head = b"", b"", None, b""
    while missing is None or missing > 0:
        prelude = _read_exactly(file, PRELUDE.size)
        if prelude is None:
            return None
        kind, head_bytes, _, length = PRELUDE.unpack(prelude)
        piece = min(length, PIECE)
        rest = _read_exactly(file, head_bytes + piece)
        if rest is None:
            return None
        if kind in (Kind.PING, Kind.PONG, Kind.CANCEL, Kind.STOP):
            continue
        data += prelude + rest
        body += rest[head_bytes:]
        if missing is None:
            missing, head = length, rest[:head_bytes]
        missing -= piece
    return Message(_http_head(head), body, data, upgrade)


def _read_exactly(file, size):
    data = b""
    while len(data) < size:
        chunk = file.read(size - len(data))
        if not chunk:
            return None
        data += chunk
    return data


def _http_head(text):
    """Return what HTTP would say in place of the head of a frame."""
    try:
        head = msgspec.json.decode(text, type=Head)
    except msgspec.MsgspecError:
        return b""
    first = f"HTTP/1.1 {head.status} X" if head.status is not None else f"{head.method} {head.path} HTTP/1.1"
    lines = [first, *(f"{name}: {value}" for name, value in headers_of(head).items())]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
