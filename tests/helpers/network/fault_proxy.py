"""A TCP proxy that does to a part of the requests what networks do to them, in an order set by a seed."""

import collections
import contextlib
import random
import socket
import struct
import threading
import time

from tests.helpers.constants import SECONDS

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
        return getattr(self, "_do_" + self._choose().replace(" ", "_"))(client, request)

    def _ask(self, request):
        """Send a request to the server on a connection of its own and return the whole reply."""
        time.sleep(self.latency / 2)
        with socket.create_connection(("127.0.0.1", self._target), SECONDS) as server, server.makefile("rb") as file:
            server.sendall(b"".join(request))
            reply = read_message(file)
        if reply is None:
            raise ConnectionResetError("the server is gone")
        time.sleep(self.latency / 2)
        return reply

    def _do_none(self, client, request):
        reply = self._ask(request)
        client.sendall(b"".join(reply))
        self._deliver_late()
        return True

    def _do_refuse(self, client, request):
        return False

    def _do_cut_request(self, client, request):
        data = b"".join(request)
        with socket.create_connection(("127.0.0.1", self._target), SECONDS) as server:
            server.sendall(data[: len(data) // 2])
        return False

    def _do_lose_reply(self, client, request):
        self._ask(request)
        return False

    def _do_cut_reply(self, client, request):
        data = b"".join(self._ask(request))
        client.sendall(data[: len(data) // 2])
        return False

    def _do_duplicate(self, client, request):
        other = threading.Thread(target=self._quietly, args=(request,))
        other.start()
        reply = self._ask(request)
        other.join()
        client.sendall(b"".join(reply))
        return True

    def _do_late(self, client, request):
        with self._lock:
            self._late.append(request)
        client.sendall(b"".join(self._ask(request)))
        return True

    def _do_reset(self, client, request):
        with socket.create_connection(("127.0.0.1", self._target), SECONDS) as server:
            server.sendall(b"".join(request))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def _do_trickle(self, client, request):
        data = b"".join(self._ask(request))
        for start in range(0, len(data), 199):
            client.sendall(data[start : start + 199])
        return True

    def _do_delay(self, client, request):
        with self._lock:
            seconds, there = self._random.uniform(0.005, 0.2), self._random.random() < 0.5
        time.sleep(seconds if there else 0.0)
        reply = self._ask(request)
        time.sleep(0.0 if there else seconds)
        client.sendall(b"".join(reply))
        return True

    def _do_flip_request(self, client, request):
        client.sendall(b"".join(self._ask(self._flipped(request))))
        return True

    def _do_flip_reply(self, client, request):
        client.sendall(b"".join(self._flipped(self._ask(request))))
        return True

    def _flipped(self, message):
        head, body = message
        if not body:
            return message
        flipped = bytearray(body)
        bit = self._bit(len(body))
        flipped[bit // 8] ^= 1 << bit % 8
        return head, bytes(flipped)

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


def read_message(file):
    """Read a request or reply as (head, body); None where the connection ended instead."""
    head, length = file.readline(), 0
    if not head:
        return None
    while (field := file.readline()) not in (b"\r\n", b""):
        head += field
        name, _, value = field.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = file.read(length)
    return (head + b"\r\n", body) if len(body) == length else None
