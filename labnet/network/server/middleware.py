"""The steps that every request passes through between its route and its transport, in one list.

Each step gets the port, the route, the request and the next step; it may refuse the request, look at the reply or
replace it. Steps know nothing of HTTP.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from labnet.network.protocol.op_statistics import COLLECT, STATISTICS, encode
from labnet.network.server.idempotency import Once
from labnet.network.server.routing import Failure, Reply, Request, Route
from labnet.stats import RouteStatistics, collect


class State(Protocol):
    """What the steps read and count at a port."""

    once: Once
    max_queue: int
    queued: int
    refused: int
    statistics: dict[str, RouteStatistics]


Next = Callable[[], Awaitable[Reply]]
Middleware = Callable[[State, Route, Request, Next], Awaitable[Reply]]


async def deduplicate(port: State, route: Route, request: Request, proceed: Next) -> Reply:
    """Answer a request whose key is known with the stored reply."""
    return await port.once.answer(request, proceed)


async def limit_queue(port: State, route: Route, request: Request, proceed: Next) -> Reply:
    """Refuse a request while too many others wait or run."""
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
    finally:
        counters.end(seconds=time.perf_counter() - began, now=time.monotonic(), bytes_out=bytes_out, failed=failed)


async def count_ops(port: State, route: Route, request: Request, proceed: Next) -> Reply:
    """Count the ops of the request if its client asks for that, and add them to the reply."""
    if COLLECT not in request.headers:
        return await proceed()
    with collect() as statistics:
        reply = await proceed()
        await asyncio.to_thread(statistics.complete)  # a GPU may have to be waited for
    return reply._replace(headers={**reply.headers, STATISTICS: encode(statistics)})


#: The steps of a counted route, the outermost first.
MIDDLEWARES: tuple[Middleware, ...] = (deduplicate, limit_queue, count_requests, count_ops)


async def answer(port: State, route: Route, request: Request) -> Reply:
    """Pass a request through all steps to its route."""
    if not route.counted:
        return await route.answer(request)
    proceed: Next = partial(route.answer, request)
    for middleware in reversed(MIDDLEWARES):
        proceed = partial(middleware, port, route, request, proceed)
    return await proceed()
