"""Requests to one server: sent, sent again where that can help, and every failure turned into one specific error."""

import asyncio
import os
import socket
import ssl as tls
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from tornado.iostream import StreamClosedError

from labnet import errors, wire
from labnet.errors import WireError
from labnet.network import discovery
from labnet.network.client import failures
from labnet.network.client.identity import identity_of
from labnet.network.client.location import Fixed, Gone, Whereabouts
from labnet.network.client.replay import refuse_in_replay
from labnet.network.client.retry import OF_PROXIES, UNKNOWN_SECONDS, Backoff, Schedule, passes, seconds_asked
from labnet.network.protocol import keys, op_statistics, trail
from labnet.network.protocol.digest import (
    CONTENT_DIGEST,
    WANT_CONTENT_DIGEST,
    WANTED,
    content_digest,
    digest_of,
    mismatch,
)
from labnet.network.protocol.headers import ASK, CALL, CLIENT, EPOCH, EPOCH_REQUIRED, PROTOCOL, TOKEN_HEADER
from labnet.network.protocol.keys import Ticket
from labnet.network.transport.exchange import Response, Stage
from labnet.network.transport.pool import Address, pool

#: Bodies from here on are given the whole timeout in one attempt: sending them takes its time.
_LARGE = 1 << 20
#: Routes whose replies are in the format of the request, where nothing else is asked for.
_OF_MODELS = ("/forward", "/optimize")
#: Routes that change nothing.
_WITHOUT_EFFECT = ("/forward", "/settle")
_ACCEPT = f"{wire.NATIVE}{{}}, {wire.JSON};q=0.9, */*;q=0.1"

#: Replies of a server that was never asked for, where the one that was has gone: another may have its port now.
_OF_STRANGERS, _NOT_FOUND = (401, 403), (404, 405)

#: The incarnation of each server that has answered, by address and path, or by name where it moves; of so many that
#: answered last.
_answered: dict[str, str | None] = {}
_MOST_ANSWERED = 1024


def _check_headers(headers: Mapping[str, str]) -> None:
    """Raise for headers that cannot be sent; their values may be secret, and are not shown."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping from names to texts, got {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            kinds = f"{type(name).__name__} to {type(value).__name__}"
            raise TypeError(f"headers must be a mapping from names to texts, got one from {kinds}")
        if any(character in name + value for character in "\r\n\0"):
            raise ValueError(f"the header {name!r:.40} has a line break in it, which no header can have")


class Caller:
    """Sends requests to one server and turns every failure into one specific error.

    Parameters
    ----------
    where : Address or Whereabouts
        Where it is; asked again after a failure where it may have moved. The keys of requests stay the same.
    """

    def __init__(
        self,
        where: Address | Whereabouts,
        *,
        timeout: float,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        ssl: tls.SSLContext | None = None,
        client: str | None = None,
        backoff: Backoff | None = None,
        wire_dtype: str | None = None,
        state: str | os.PathLike[str] | None = None,
    ):
        if wire_dtype not in (None, "bfloat16"):
            raise ValueError(f"wire_dtype must be None or 'bfloat16', got {wire_dtype!r:.40}")
        if not isinstance(timeout, int | float | np.number):
            raise TypeError(f"timeout must be a number of seconds, got {type(timeout).__name__} {timeout!r:.40}")
        if not timeout > 0:
            raise ValueError(f"timeout must be positive seconds, got {timeout}")
        if not isinstance(token, str | None):
            raise TypeError(f"token must be text or None, got {type(token).__name__}")
        if not isinstance(ssl, tls.SSLContext | None):
            raise TypeError(f"ssl must be an ssl.SSLContext, got {type(ssl).__name__}")
        _check_headers(headers or {})
        self.where: Whereabouts = Fixed(where, token, ssl) if isinstance(where, Address) else where
        self._timeout = timeout
        self._published: str | None = None
        self._headers = dict(headers or {})
        self._identity = None if state is None else identity_of(state)
        self._client = client or (self._identity.client if self._identity is not None else None)
        self._backoff = backoff or Backoff()
        #: Whether float32 travels as bfloat16, in both directions.
        self.bfloat16 = wire_dtype == "bfloat16"

    @property
    def address(self) -> Address:
        """Where the server is."""
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
        """Send a request, again where that can help, and return the reply, which is a success.

        Parameters
        ----------
        ticket : Ticket, optional
            Key of the request, which the server carries out once however often it comes. A POST always has one.

        Raises
        ------
        RemoteError
            Of the class that says what went wrong.
        """
        refuse_in_replay(method, self._where(route))
        if ticket is None and method == "POST":
            ticket = self.ticket(route)
        extra = dict(headers or {})
        if ticket is not None:
            extra |= ticket.headers()
        if body is not None:  # the reply then has a digest too
            extra[CONTENT_DIGEST] = content_digest(body)
        else:
            extra[WANT_CONTENT_DIGEST] = WANTED
        trail.check(self.address.host)
        at_stake = ticket is not None and route not in _WITHOUT_EFFECT
        schedule = Schedule(self._backoff, timeout=trail.limited(self._timeout))
        response = await self._persist(method, route, body, extra, schedule, at_stake=at_stake)
        self._check_protocol(route, response)
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
        self._take_in(route, response)
        self.where.heard(route, response.headers)
        return response

    def _take_in(self, route: str, response: Response) -> None:
        """Add what the server's ops have cost, where this process collects that."""
        try:
            op_statistics.take_in(response.headers)
        except ValueError as error:
            raise errors.ProtocolMismatch(
                f"{self._where(route)}: the reply's op statistics are malformed: {error}",
                server=str(self.address),
                route=route,
            ) from error

    def _check_protocol(self, route: str, response: Response) -> None:
        given = response.headers.get(PROTOCOL, wire.PROTOCOL)
        if given != wire.PROTOCOL:
            raise errors.ProtocolMismatch(
                f"{self._where(route)}: the server speaks version {given!r:.20} of the protocol, this client version "
                f"{wire.PROTOCOL!r}: install the same version of labnet on both sides",
                server=str(self.address),
                route=route,
            )

    async def _persist(
        self,
        method: str,
        route: str,
        body: wire.Body | None,
        extra: Mapping[str, str],
        schedule: Schedule,
        *,
        at_stake: bool,
    ) -> Response:
        """Send a request until there is a reply that will not change, or no time is left."""
        reason: BaseException | None = None
        epoch = _answered.get(self._known)
        while True:
            asks = at_stake and epoch is None  # the server tells its epoch first, and carries nothing out
            if asks or (at_stake and schedule.in_doubt):
                extra = {**extra, EPOCH: epoch or ASK}  # another incarnation cannot know what became of the request
            try:
                if schedule.failures and self.where.moves:
                    await self._look_up_again(schedule)
                response = await self._authorized(method, route, body, extra, schedule)
                if asks and response.status == EPOCH_REQUIRED and (epoch := response.headers.get(EPOCH)) is not None:
                    extra = {name: value for name, value in extra.items() if name != EPOCH}
                    continue
                moved = await self._is_elsewhere(response, schedule)
                if not moved and not passes(response.status, _error_name(response), own=PROTOCOL in response.headers):
                    return response
                if response.status in OF_PROXIES:  # which may have passed the request on
                    schedule.in_doubt = True
                wait = schedule.next_wait(at_least=seconds_asked(response.headers.get("Retry-After")))
                if wait is None:
                    return response
            except (OSError, StreamClosedError) as error:
                schedule.in_doubt = schedule.in_doubt or schedule.connected
                if reason is None or schedule.left > 0 or not isinstance(error, TimeoutError):
                    reason = error
                wait = schedule.next_wait(patience=self._patience(error))
                if wait is None:
                    applied = None if not at_stake else "unknown" if schedule.in_doubt else "no"
                    call = extra.get(CALL)
                    raise failures.no_reply(self.address, route, reason, schedule, call=call, applied=applied) from None
            await asyncio.sleep(wait)

    async def _is_elsewhere(self, response: Response, schedule: Schedule) -> bool:
        """Tell whether a reply comes from another server, which has the port of the one that is meant now."""
        if not self.where.moves:
            return False
        if response.status in _OF_STRANGERS or PROTOCOL not in response.headers:
            return True  # the server that is meant knows this token
        return response.status in _NOT_FOUND and await self._look_up_again(schedule)

    async def _look_up_again(self, schedule: Schedule) -> bool:
        """Ask where the server is now, and tell whether that has changed."""
        try:
            async with asyncio.timeout(max(0.0, schedule.left)):
                return await self.where.look_up()
        except TimeoutError:
            return False

    async def _authorized(
        self, method: str, route: str, body: wire.Body | None, extra: Mapping[str, str], schedule: Schedule
    ) -> Response:
        token = self.where.token or self._published or self._look_up()
        response = await self._send(method, route, body, extra, token, schedule)
        if response.status == 401 and self.where.token is None:
            # the server may have been started anew since, with another token
            response = await self._send(method, route, body, extra, self._look_up(), schedule)
        return response

    def _look_up(self) -> str | None:
        """Return the token that a server of this user on this machine has published, and remember it."""
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
        if self.bfloat16 or route not in _OF_MODELS:  # a model answers as it is asked
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
        connections = await pool()
        async with asyncio.timeout(schedule.left if is_large else schedule.attempt) as limit:

            def reached(stage: Stage) -> None:
                schedule.connected = True
                if stage == "answered" and not limit.expired():
                    limit.reschedule(asyncio.get_running_loop().time() + schedule.left)

            path, parts = self.address.prefix + route, body.parts if body is not None else []
            response = await connections.request(
                self.address, method, path, headers, parts, context=self.where.ssl, reached=reached
            )
        self._remember(response.headers.get(EPOCH))
        _check_digest(response)
        return response

    def _remember(self, epoch: str | None) -> None:
        """Take note that the server has answered, and which incarnation of it."""
        if self._known not in _answered and len(_answered) >= _MOST_ANSWERED:
            _answered.pop(next(iter(_answered)), None)
        _answered[self._known] = epoch

    @property
    def _known(self) -> str:
        """Under what the server is remembered."""
        return self.where.known

    def _patience(self, error: BaseException) -> float | None:
        """Return for how many seconds to go on after a failure, None for the whole timeout."""
        reason = getattr(error, "reason", None)
        if isinstance(error, Gone) or isinstance(reason, tls.SSLCertVerificationError):
            return 0.0
        if reason is None or self.where.moves or self._known in _answered:
            return None
        return 0.0 if isinstance(reason, socket.gaierror) else UNKNOWN_SECONDS

    def _where(self, route: str) -> str:
        return f"{self.address}{route}"

    def decode(self, route: str, response: Response) -> Any:
        """Decode the body of a reply; a malformed one is the server's fault."""
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
    """Raise a `ConnectionError` for a reply that was damaged on its way."""
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
    """Return the name of the error where it decides about another attempt."""
    if response.status != 400:
        return None
    try:
        name = msgspec.json.decode(response.body)["error"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
    return str(name)
