"""A TLS proxy for a server: accepts encrypted connections from the cluster's network and forwards them.

Model servers speak plain HTTP. In a cluster with certificates they listen on loopback only, behind this proxy. Clients
must present a certificate of the cluster's authority, as Dask requires.
"""

import asyncio
import contextlib
import ssl as tls

_CHUNK = 1 << 18
_HANDSHAKE_SECONDS = 10.0


class TlsProxy:
    """A TLS listener that forwards to one port of this machine.

    Attributes
    ----------
    port : int
        Listening port, available after `open`.
    """

    def __init__(self, target: int):
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def open(self, host: str, context: tls.SSLContext) -> None:
        """Start listening on a free port."""
        self._server = await asyncio.start_server(
            self._connected, host, 0, ssl=context, ssl_handshake_timeout=_HANDSHAKE_SECONDS, limit=_CHUNK
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:  # cancelled by `close`; asyncio would log the cancellation
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target, limit=_CHUNK)
        except OSError:
            return
        try:
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
        finally:
            inner_writer.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Forward a stream in one direction until it ends."""
    with contextlib.suppress(OSError):
        while chunk := await source.read(_CHUNK):
            sink.write(chunk)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.close()
