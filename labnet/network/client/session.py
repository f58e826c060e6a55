"""Requests to one server, with retries, and one specific error for every failure."""

import asyncio
import logging
import socket
import ssl as tls
import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any

import msgspec
from tornado.iostream import StreamClosedError

from labnet import errors, wire
from labnet.errors import RemoteError, WireError
from labnet.eviction import BoundedMap
from labnet.network import discovery
from labnet.network.client import failures
from labnet.network.client.identity import identity_of
from labnet.network.client.location import FixedLocation, Gone, Location
from labnet.network.client.options import ClientOptions
from labnet.network.client.replay import refuse_in_replay
from labnet.network.client.retry import (
    OF_PROXIES,
    REPORTED_SECONDS,
    UNKNOWN_SECONDS,
    Backoff,
    Schedule,
    passes,
    seconds_asked,
)
from labnet.network.protocol import keys, op_statistics, trail
from labnet.network.protocol.digest import (
    WANTED,
    content_digest,
    digest_of,
    mismatch,
)
from labnet.network.protocol.frames import split_headers
from labnet.network.protocol.headers import (
    ASK,
    CALL,
    CLIENT,
    CONTENT_DIGEST,
    EPOCH,
    EPOCH_REQUIRED,
    LINEAGE,
    PROTOCOL,
    STATISTICS,
    TOKEN_HEADER,
    WANT_CONTENT_DIGEST,
)
from labnet.network.protocol.keys import Ticket
from labnet.network.threads import begins_here, in_task, leave_thread
from labnet.network.transport.address import Address
from labnet.network.transport.client import opens_channels, pool
from labnet.network.transport.response import Response, Stage
from labnet.network.transport.thread_channel import channel_of_thread

log = logging.getLogger("labnet.network")

#: Bodies of this size and more get the whole timeout in one attempt, because sending them takes long.
_LARGE = 1 << 20
#: Routes whose replies have the format of the request by default.
_OF_MODELS = ("/forward", "/optimize")
#: Routes without an effect.
_WITHOUT_EFFECT = ("/forward", "/settle")
_ACCEPT = f"{wire.NATIVE}{{}}, {wire.JSON};q=0.9, */*;q=0.1"

#: Statuses that a different server may send which now has the port of the intended one.
_OF_STRANGERS, _NOT_FOUND = (401, 403), (404, 405)

#: The incarnation of each server that has answered, by address and path, or by name if it may move; the most recent
#: ones only.
_answered: BoundedMap[str, str | None] = BoundedMap(count=1024)
_answering = threading.Lock()
#: Servers whose present outage was reported.
_reported: BoundedMap[str, bool] = BoundedMap(count=1024)


class Caller:
    """Sends requests to one server and turns every failure into one specific error.

    Parameters
    ----------
    where : Address or Location
        Where the server is; resolved again after a failure if it may move. The keys of requests stay the same.
    options : ClientOptions
        A location has its own token and TLS settings.
    """

    def __init__(self, where: Address | Location, options: ClientOptions):
        self.where: Location = FixedLocation(where, options.token, options.ssl) if isinstance(where, Address) else where
        self._timeout = options.timeout
        self._published: str | None = None
        self._headers = dict(options.headers or {})
        self._identity = None if options.state is None else identity_of(options.state)
        self._client = options.client or (self._identity.client if self._identity is not None else None)
        self._backoff = options.backoff or Backoff()
        #: Whether float32 travels as bfloat16, in both directions.
        self.bfloat16 = options.wire_dtype == "bfloat16"
        self._paths = {"/forward": f"/{options.forward.strip('/')}", "/optimize": f"/{options.backward.strip('/')}"}
        self._on_error = options.on_error

    @property
    def address(self) -> Address:
        """Current address of the server."""
        return self.where.address

    def ticket(self, route: str, content: bytes = b"", *, counted: bool = True) -> Ticket:
        """Return a key for a request to a route; `content` and `counted` as for `keys.take`."""
        return keys.take(f"{self.where.name}{route}", self._identity, content=content, counted=counted)

    def own_ticket(self) -> Ticket:
        """Return a fresh key that is not derived from another one."""
        return (self._identity or keys.of_process()).take()

    async def call(
        self,
        method: str,
        route: str,
        body: wire.Body | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        ticket: Ticket | None = None,
    ) -> Response:
        """Send a request, with retries, and return its successful reply.

        Parameters
        ----------
        route : str
            ``/forward`` and ``/optimize`` stand for the routes that the options name.
        ticket : Ticket, optional
            Idempotency key: the server carries out the request once. A POST always has one.

        Raises
        ------
        RemoteError
            Of the class that says what went wrong.
        """
        try:
            return await self._call(method, route, body, headers, ticket=ticket)
        except RemoteError as error:
            if self._on_error is not None:
                self._on_error(error)
            raise

    async def _call(
        self,
        method: str,
        route: str,
        body: wire.Body | None,
        headers: Mapping[str, str] | None,
        *,
        ticket: Ticket | None,
    ) -> Response:
        if method != "GET":
            refuse_in_replay(lambda: self._where(route))
        if ticket is None and method == "POST":
            ticket = self.ticket(route)
        extra = dict(headers or {})
        if ticket is not None:
            extra |= ticket.headers()
        if body is not None:  # the reply then also has a digest
            extra[CONTENT_DIGEST] = content_digest(body)
        else:
            extra[WANT_CONTENT_DIGEST] = WANTED
        trail.check(self.address.host)
        at_stake = ticket is not None and (route not in _WITHOUT_EFFECT or self._path(route) != route)
        schedule = Schedule(self._backoff, timeout=trail.limited(self._timeout))
        response = await self._send_until_answered(method, route, body, extra, schedule, at_stake=at_stake)
        if response.headers.get(PROTOCOL, wire.PROTOCOL) != wire.PROTOCOL:
            raise self._other_protocol(route, response)
        if response.status >= 300:
            raise failures.named(self.address, route, response, at_stake=at_stake, in_doubt=schedule.in_doubt)
        if PROTOCOL not in response.headers:
            raise errors.ProtocolMismatch(
                f"{self._where(route)}: answered without the header {PROTOCOL} and with content type "
                f"{response.headers.get('Content-Type')!r:.60}: not a labnet server, or a proxy that asks for a login",
                server=str(self.address),
                route=route,
                applied="unknown" if at_stake else None,
            )
        if STATISTICS in response.headers:
            self._merge_op_statistics(route, response)
        self.where.on_reply(route, response.headers)
        return response

    def _merge_op_statistics(self, route: str, response: Response) -> None:
        """Merge the server's op statistics into the active collectors."""
        try:
            op_statistics.merge_reply(response.headers)
        except ValueError as error:
            raise errors.ProtocolMismatch(
                f"{self._where(route)}: the reply's op statistics are malformed: {error}",
                server=str(self.address),
                route=route,
            ) from error

    def _other_protocol(self, route: str, response: Response) -> errors.ProtocolMismatch:
        return errors.ProtocolMismatch(
            f"{self._where(route)}: the server speaks version {response.headers[PROTOCOL]!r:.20} of the protocol, this "
            f"client version {wire.PROTOCOL!r}: install the same version of labnet on both sides",
            server=str(self.address),
            route=route,
        )

    async def _send_until_answered(
        self,
        method: str,
        route: str,
        body: wire.Body | None,
        extra: Mapping[str, str],
        schedule: Schedule,
        *,
        at_stake: bool,
    ) -> Response:
        """Send a request until there is a final reply or no time is left."""
        reason: BaseException | None = None
        epoch = _answered.get(self._known)
        while True:
            # another incarnation carries out nothing: it refuses a request in doubt, and else tells its epoch
            asks = at_stake and (epoch is None or not schedule.in_doubt)
            if at_stake:
                extra = {**extra, EPOCH: f"{epoch or ''}{ASK if asks else ''}"}
            try:
                if schedule.failures and self.where.moves:
                    await self._resolve_again(schedule)
                response = await self._authorized(method, route, body, extra, schedule)
                if asks and response.status == EPOCH_REQUIRED and EPOCH in response.headers:
                    epoch = response.headers[EPOCH]
                    continue
                moved = self.where.moves and await self._is_elsewhere(response, schedule)
                if response.status < 300 and not moved:
                    return response
                name = _error_name(response)
                if name == "ServerStopped" and not self.where.moves:
                    return response
                if not moved and not passes(response.status, name, own=PROTOCOL in response.headers):
                    return response
                if response.status in OF_PROXIES:  # the proxy may have forwarded the request
                    schedule.in_doubt = True
                wait = schedule.next_wait(at_least=seconds_asked(response.headers.get("Retry-After")))
                if wait is None:
                    return response
                trouble = failures.cause_of(response)
                await leave_thread()
            except (OSError, StreamClosedError) as error:
                await leave_thread()
                schedule.in_doubt = schedule.in_doubt or schedule.connected
                refused = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
                if not self.where.moves and (
                    (refused and self._stopped_here) or (await pool()).has_stopped(self.address)
                ):
                    applied = None if not at_stake else "unknown" if schedule.in_doubt else "no"
                    raise failures.stopped(self.address, route, applied=applied) from None
                if reason is None or schedule.left > 0 or not isinstance(error, TimeoutError):
                    reason = error
                wait = schedule.next_wait(patience=self._patience(error))
                if wait is None:
                    applied = None if not at_stake else "unknown" if schedule.in_doubt else "no"
                    call = extra.get(CALL)
                    self._end_report()
                    raise failures.no_reply(
                        self.address, route, reason, schedule, call=call, applied=applied, trouble=self.where.trouble
                    ) from None
                trouble = failures.cause_of(error)
            await self._pause(wait, route, trouble, schedule)

    async def _pause(self, seconds: float, route: str, trouble: str, schedule: Schedule) -> None:
        """Wait between two attempts; log once per outage if they have taken more than `REPORTED_SECONDS`."""
        quiet = min(seconds, max(0.0, REPORTED_SECONDS - schedule.elapsed))
        await asyncio.sleep(quiet)
        if schedule.elapsed >= REPORTED_SECONDS and self._first_report():
            log.warning(
                "%s: no success for %.0f s (%s); trying for another %.0f s",
                self._where(route),
                schedule.elapsed,
                trouble,
                schedule.left,
            )
        await asyncio.sleep(seconds - quiet)

    def _first_report(self) -> bool:
        """Return whether the present outage of the server was not reported before."""
        with _answering:
            before = self._known in _reported
            _reported.put(self._known, True)
        return not before

    def _end_report(self) -> None:
        if len(_reported):
            with _answering:
                _reported.pop(self._known)

    async def _is_elsewhere(self, response: Response, schedule: Schedule) -> bool:
        """Return whether a reply comes from a different server at the old address of the intended one."""
        if response.status in _OF_STRANGERS or PROTOCOL not in response.headers:
            return True  # the intended server accepts this token
        return response.status in _NOT_FOUND and await self._resolve_again(schedule)

    async def _resolve_again(self, schedule: Schedule) -> bool:
        """Resolve the location again; return whether it has changed."""
        try:
            async with asyncio.timeout(max(0.0, schedule.left)):
                return await self.where.resolve()
        except TimeoutError:
            return False

    async def _authorized(
        self, method: str, route: str, body: wire.Body | None, extra: Mapping[str, str], schedule: Schedule
    ) -> Response:
        token = self.where.token or self._published or self._find_token()
        response = await self._send(method, route, body, extra, token, schedule)
        if response.status == 401 and self.where.token is None:
            # the server may have been restarted with another token
            response = await self._send(method, route, body, extra, self._find_token(), schedule)
        return response

    def _find_token(self) -> str | None:
        """Return and cache the token that a server of this user on this machine has published."""
        entry = discovery.lookup(self.address.port) if discovery.is_loopback(self.address.authority) else None
        self._published = entry.token if entry else None
        return self._published

    def _head(self, route: str, body: wire.Body | None, extra: Mapping[str, str], token: str | None) -> dict[str, str]:
        """Return the headers of one attempt."""
        headers = {
            "Host": self.address.authority,
            PROTOCOL: wire.PROTOCOL,
            CLIENT: self._client or keys.of_process().client,
            **op_statistics.wanted(),
            **trail.headers(),
            **extra,
            **self._headers,
        }
        if token is not None:
            headers[TOKEN_HEADER] = token
        if self.bfloat16 or route not in _OF_MODELS:  # a model replies in the format of the request
            headers.setdefault("Accept", _ACCEPT.format(";floats=bfloat16" if self.bfloat16 else ""))
        if body is not None:
            headers |= {"Content-Type": str(body.content_type), "Content-Length": str(body.nbytes)}
        return headers

    async def _send(
        self,
        method: str,
        route: str,
        body: wire.Body | None,
        extra: Mapping[str, str],
        token: str | None,
        schedule: Schedule,
    ) -> Response:
        """Make one attempt."""
        headers = self._head(route, body, extra, token)
        is_large = body is not None and body.nbytes >= _LARGE
        schedule.connected = False
        if begins_here():
            seconds = schedule.left if is_large else schedule.attempt
            response = self._send_from_here(method, route, body, headers, seconds, schedule)
            if response is not None:
                return response
            await leave_thread()
        await in_task()
        own, others = split_headers(headers)
        key, connections = (self.address, self.where.ssl, others), await pool()
        clock = asyncio.get_running_loop().time
        limit = clock() + (schedule.left if is_large else schedule.attempt)
        opened = connections.open_channel(key)
        if opened is None:
            async with asyncio.timeout_at(limit):
                opened = await connections.channel(key)
        if opened is None:
            response = await self._send_by_http(method, route, body, headers, schedule, limit)
            if PROTOCOL in response.headers:
                connections.expect_channel(key)
        else:
            schedule.connected = True
            head = {"method": method, "path": self._path(route), **own}
            parts = body.parts if body is not None else []
            response = await opened.request(head, parts, begin=limit, end=clock() + schedule.left)
        return self._checked(response, route)

    async def _send_by_http(
        self,
        method: str,
        route: str,
        body: wire.Body | None,
        headers: Mapping[str, str],
        schedule: Schedule,
        limit: float,
    ) -> Response:
        """Make one attempt by HTTP, whose reply must begin before the limit."""
        async with asyncio.timeout_at(limit) as timer:

            def reached(stage: Stage) -> None:
                schedule.connected = True
                if stage == "answered" and not timer.expired():
                    timer.reschedule(asyncio.get_running_loop().time() + schedule.left)

            path, parts = self.address.prefix + self._path(route), body.parts if body is not None else []
            return await (await pool()).request(
                self.address, method, path, headers, parts, context=self.where.ssl, reached=reached
            )

    def _send_from_here(
        self,
        method: str,
        route: str,
        body: wire.Body | None,
        headers: Mapping[str, str],
        seconds: float,
        schedule: Schedule,
    ) -> Response | None:
        """Make one attempt on this thread; return None if it has no channel to the server."""
        if self.where.moves or self.address.scheme != "http":
            return None
        own, others = split_headers(headers)
        if not opens_channels((self.address, self.where.ssl, others)):
            return None
        channel = channel_of_thread((self.address, others))
        if channel is None:
            return None
        schedule.connected = True
        deadline = time.monotonic() + seconds
        head = {"method": method, "path": self._path(route), **own}
        response = channel.request(head, body.parts if body else [], deadline)
        return self._checked(response, route)

    def _checked(self, response: Response, route: str) -> Response:
        """Return a reply that arrived undamaged, and record who has sent it."""
        _check_digest(response)
        if response.status < 300:
            self._end_report()
        self._remember(response.headers.get(EPOCH), route)
        return response

    def _remember(self, epoch: str | None, route: str) -> None:
        """Record the incarnation of the server that answered; warn if it has lost the weights of the previous one."""
        before = _answered.get(self._known)
        if before == epoch and epoch is not None:
            return
        with _answering:
            _answered.put(self._known, epoch)
        lost = before is not None and epoch is not None and before[:LINEAGE] != epoch[:LINEAGE]
        if lost and route in _OF_MODELS and not self.where.moves:
            warnings.warn(
                f"{self.address}: server restarted (seen at {time.strftime('%H:%M')}), its weights are new or those of "
                "its last checkpoint",
                RuntimeWarning,
                stacklevel=2,
            )

    @property
    def _stopped_here(self) -> bool:
        """Whether this process has stopped the server for good."""
        port = self.address.port
        return port in discovery.stopped_ports and discovery.is_loopback(self.address.authority)

    @property
    def _known(self) -> str:
        """Key under which the incarnation of the server is cached."""
        return self.where.known

    def _patience(self, error: BaseException) -> float | None:
        """Return for how many seconds to retry after a failure; None for the whole timeout."""
        reason = getattr(error, "reason", None)
        if isinstance(error, Gone) or isinstance(reason, tls.SSLCertVerificationError):
            return 0.0
        if failures.is_without_tls(error):
            return 0.0
        if reason is None or self.where.moves or self._known in _answered:
            return None
        return 0.0 if isinstance(reason, socket.gaierror) else UNKNOWN_SECONDS

    def _path(self, route: str) -> str:
        return self._paths.get(route, route)

    def _where(self, route: str) -> str:
        return f"{self.address}{self._path(route)}"

    def decode(self, route: str, response: Response) -> Any:
        """Decode the body of a reply; raise `ProtocolMismatch` for a malformed one."""
        if response.status == 204:
            return None
        try:
            return wire.decode_value(response.headers.get("Content-Type", ""), response.body)
        except WireError as error:
            raise errors.ProtocolMismatch(
                f"{self._where(route)}: the reply is malformed: {error}",
                server=str(self.address),
                route=route,
                applied="unknown",
            ) from error


def _check_digest(response: Response) -> None:
    """Raise `ConnectionError` for a reply that was damaged in transit."""
    announced = response.headers.get(CONTENT_DIGEST)
    if announced is None:
        return
    try:
        wrong = mismatch(announced, response.body, digest_of([response.body]))
    except ValueError as error:
        wrong = str(error)
    if wrong is not None:
        raise ConnectionError(f"the reply was changed on its way: {wrong}")


def _error_name(response: Response) -> str | None:
    """Return the error name of a reply if it decides about a retry."""
    if response.status not in (400, 503):
        return None
    try:
        name = msgspec.json.decode(response.body)["error"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
    return str(name)
