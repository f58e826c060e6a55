"""The servers that ``benchmarks/roundtrip.py`` measures, each a process of its own: ``roundtrip_servers.py KIND``.

Prints its port and serves until its standard input is closed. Every one of them answers with the numbers that
it was sent.
"""

import asyncio
import os
import sys
import threading

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

MAX_BYTES = 1 << 29


def announce(port: int) -> None:
    print(port, flush=True)


def labnet() -> None:
    import labnet as ln

    server = ln.network.serve_model(lambda x: x * 1.0, port=0, max_body=MAX_BYTES)
    busy = CELLS[sys.argv[2]]() if len(sys.argv) > 2 else None
    announce(server.port)
    if busy is None:
        sys.stdin.read()
    else:  # as a cell that does not end, in the main thread
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
        while True:
            busy()
    server.stop()


def in_python():
    """Return a second of plain Python."""
    return lambda: sum(i * i for i in range(10_000_000))


def in_numpy():
    """Return products of matrices, which let other threads run."""
    import numpy as np

    matrix = np.ones((1000, 1000), "float32")
    return lambda: matrix @ matrix


def in_compiled_code():
    """Return a compiled kernel of about a second that lets other threads run."""
    import numba

    @numba.njit(nogil=True)
    def work(n):
        total = 0.0
        for i in range(n):
            total += (i % 7) * 0.5
        return total

    work(1)
    return lambda: work(500_000_000)


CELLS = {"python": in_python, "numpy": in_numpy, "compiled code": in_compiled_code}


def tornado() -> None:
    """Echo of the body by Tornado's streams, without a handler: as little as a Tornado server can do."""
    from tornado.httpserver import HTTPServer
    from tornado.httputil import (
        HTTPHeaders,
        HTTPMessageDelegate,
        HTTPServerConnectionDelegate,
        ResponseStartLine,
    )
    from tornado.netutil import bind_sockets

    class Echo(HTTPMessageDelegate):
        def __init__(self, connection) -> None:
            self.connection = connection
            self.received = 0

        def headers_received(self, start_line, headers):
            self.kind = headers["Content-Type"]
            self.body = bytearray(int(headers["Content-Length"]))

        def data_received(self, chunk):
            end = self.received + len(chunk)
            self.body[self.received : end] = chunk
            self.received = end

        def finish(self):
            headers = HTTPHeaders({"Content-Type": self.kind, "Content-Length": str(len(self.body))})
            small = len(self.body) < 1 << 16
            self.connection.write_headers(
                ResponseStartLine("HTTP/1.1", 200, "OK"), headers, bytes(self.body) if small else None
            )
            if not small:
                self.connection.write(memoryview(self.body))
            self.connection.finish()

    class Application(HTTPServerConnectionDelegate):
        def start_request(self, server_connection, request_connection):
            return Echo(request_connection)

    async def serve() -> None:
        server = HTTPServer(Application(), max_body_size=MAX_BYTES, max_buffer_size=MAX_BYTES)
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        announce(sockets[0].getsockname()[1])
        await closed()

    asyncio.run(serve())


def aiohttp() -> None:
    import numpy as np
    from aiohttp import web

    async def echo(request: web.Request) -> web.Response:
        numbers = np.frombuffer(await request.read(), "float32") * np.float32(1)
        return web.Response(body=numbers.data.cast("B"), content_type="application/octet-stream")

    async def serve() -> None:
        application = web.Application(client_max_size=MAX_BYTES)
        application.router.add_post("/echo", echo)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        announce(site._server.sockets[0].getsockname()[1])
        await closed()
        await runner.cleanup()

    asyncio.run(serve())


def grpc() -> None:
    import grpc
    import grpc.aio
    import numpy as np

    async def echo(body: bytes, context) -> bytes:
        return (np.frombuffer(body, "float32") * np.float32(1)).tobytes()

    async def serve() -> None:
        limit = [("grpc.max_receive_message_length", MAX_BYTES), ("grpc.max_send_message_length", MAX_BYTES)]
        server = grpc.aio.server(options=limit)
        handlers = grpc.method_handlers_generic_handler("echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
        server.add_generic_rpc_handlers((handlers,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        announce(port)
        await closed()
        await server.stop(None)

    asyncio.run(serve())


def torch() -> None:
    import torch.distributed.rpc as rpc

    port = sys.argv[2]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    rpc.init_rpc("server", rank=1, world_size=2)
    rpc.shutdown()


async def closed() -> None:
    """Wait until the standard input is closed."""
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    {f.__name__: f for f in (labnet, tornado, aiohttp, grpc, torch)}[sys.argv[1]]()
