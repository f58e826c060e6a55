"""The middlewares between transport and route, in one list.

Each middleware gets the port, the route, the request and the next step. It may refuse the request, and read or replace
the reply. Middlewares are independent of HTTP.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from labnet.network.protocol.headers import COLLECT, MODE, STATISTICS
from labnet.network.protocol.op_statistics import encode
from labnet.network.server.idempotency import IdempotentRequests
from labnet.network.server.routing import Failure, Reply, Request, Route
from labnet.stats import Clients, RouteStatistics, collect

_OF_TRAINERS = ("/forward", "/optimize")


class State(Protocol):
    """The state of a port that middlewares read and update."""

    once: IdempotentRequests
    max_queue: int
    queued: int
    refused: int
    paused: bool
    statistics: dict[str, RouteStatistics]
    clients: Clients

    def failed(self, request: Request, error: Exception) -> None:
        """Record a failed request for the panel."""
        ...


Next = Callable[[], Awaitable[Reply]]
Middleware = Callable[[State, Route, Request, Next], Awaitable[Reply]]


async def deduplicate(port: State, route: Route, request: Request, proceed: Next) -> Reply:
    """Answer a repeated request with the stored reply."""
    return await port.once.answer(request, proceed)


async def limit_queue(port: State, route: Route, request: Request, proceed: Next) -> Reply:
    """Refuse a request while too many others are queued or running."""
    if port.queued >= port.max_queue:
        port.refused += 1
        raise Failure(
            429,
            "Overloaded",
            f"{port.queued} requests are waiting or being carried out, the limit of this server is "
            f"{port.max_queue}; try again, or serve with a larger max_queue",
            headers={"Retry-After": "1"},
        )
    port.queued += 1
    try:
        return await proceed()
    finally:
        port.queued -= 1


async def refuse_while_paused(port: State, route: Route, request: Request, proceed: Next) -> Reply:
    """Refuse to train while the server is paused; clients retry, and nothing is lost."""
    if not (port.paused and request.path in _OF_TRAINERS):
        return await proceed()
    if request.path == "/optimize" or (request.native and request.headers.get(MODE, "train") == "train"):
        raise Failure(429, "Overloaded", "the training is paused", headers={"Retry-After": "1"})
    return await proceed()


async def count_requests(port: State, route: Route, request: Request, proceed: Next) -> Reply:
    """Count hits, errors, bytes and seconds of the route."""
    name = route.label or request.path.strip("/")
    counters = port.statistics.get(name) or port.statistics.setdefault(name, RouteStatistics())
    counters.begin(bytes_in=len(request.body))
    began = time.perf_counter()
    bytes_out, failed = 0, True
    try:
        reply = await proceed()
        bytes_out, failed = reply.body.nbytes, False
        return reply
    except Exception as error:
        port.failed(request, error)
        raise
    finally:
        now = time.monotonic()
        counters.end(seconds=time.perf_counter() - began, now=now, bytes_out=bytes_out, failed=failed)
        port.clients.answered(request.client, bytes_in=len(request.body), bytes_out=bytes_out, failed=failed, now=now)


async def count_ops(port: State, route: Route, request: Request, proceed: Next) -> Reply:
    """Count the ops of a request if its client asks for it, and add them to the reply."""
    if COLLECT not in request.headers:
        return await proceed()
    with collect() as statistics:
        reply = await proceed()
        await asyncio.to_thread(statistics.complete)  # may wait for a GPU
    return reply._replace(headers={**reply.headers, STATISTICS: encode(statistics)})


#: The middlewares of a counted route, outermost first.
MIDDLEWARES: tuple[Middleware, ...] = (deduplicate, refuse_while_paused, limit_queue, count_requests, count_ops)


async def answer(port: State, route: Route, request: Request) -> Reply:
    """Pass a request through all middlewares to its route."""
    if not route.counted:
        return await route.answer(request)
    proceed: Next = partial(route.answer, request)
    for middleware in reversed(MIDDLEWARES):
        proceed = partial(middleware, port, route, request, proceed)
    return await proceed()
