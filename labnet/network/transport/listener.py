"""The listening socket of a server."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable

#: How many connections are accepted before open ones are served.
_ACCEPTS = 16
#: Seconds to wait when the file limit is reached and no connection can be closed.
_PAUSE_SECONDS = 1.0


class Acceptor:
    """Accepts connections on a listening socket until it is closed.

    Parameters
    ----------
    sock : socket
        Listening, non-blocking.
    accept : callable
        Called with each new socket, which is non-blocking.
    make_room : callable
        Closes a connection when the file limit is reached; returns whether there was one to close.
    """

    def __init__(self, sock: socket.socket, accept: Callable[[socket.socket], None], *, make_room: Callable[[], bool]):
        self._sock = sock
        self._accept = accept
        self._make_room = make_room
        self._loop = asyncio.get_running_loop()
        self._resuming: asyncio.TimerHandle | None = None
        self._resume()

    def _resume(self) -> None:
        self._resuming = None
        self._loop.add_reader(self._sock.fileno(), self._acceptable)

    def _acceptable(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._make_room():
                    continue
                self._loop.remove_reader(self._sock.fileno())
                self._resuming = self._loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accept(sock)

    def close(self) -> None:
        """Stop accepting and close the listening socket."""
        if self._resuming is not None:
            self._resuming.cancel()
        self._loop.remove_reader(self._sock.fileno())
        with contextlib.suppress(OSError):  # some systems support it for connections only
            self._sock.shutdown(socket.SHUT_RDWR)  # a process that was just forked may share the socket
        self._sock.close()
