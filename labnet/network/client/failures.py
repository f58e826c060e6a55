"""Errors that a client raises: those that a server reports, and those for a missing reply."""

import errno
import os
import ssl as tls
from typing import Any

import msgspec

from labnet import errors
from labnet.errors import RemoteError
from labnet.network.client.retry import Schedule
from labnet.network.transport.address import Address
from labnet.network.transport.response import Response

#: OpenSSL's names of the error for an answer that is not TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
#: Statuses of requests that are refused before the server looks up their key; they say nothing of earlier attempts.
_TURNED_AWAY = (401, 403, 404, 405, 411, 413, 415, 429, 503)


def no_reply(
    address: Address,
    route: str,
    reason: BaseException,
    schedule: Schedule,
    *,
    call: str | None,
    applied: str | None,
    trouble: str = "",
) -> RemoteError:
    """Return the error for a request without a reply; `trouble` is what a directory knows of the server."""
    tail = f" ({schedule.failures} attempts)" if schedule.failures > 1 else ""
    tail += f" (applied: {applied})" if applied else ""
    where, server = f"{address}{route}", str(address)
    if isinstance(reason, TimeoutError):
        plain = address.scheme == "https" and not schedule.connected
        hint = ", not even to TLS: does the server speak https?" if plain else f"; {trouble}" * bool(trouble)
        text = f"{where}: no answer within {schedule.timeout:.3g} s{hint}{tail}"
        return errors.RemoteTimeout(text, server=server, route=route, call=call, applied=applied)
    hint = "does the server speak https?" if is_without_tls(reason) else trouble or "is the server running there?"
    text = f"{where}: {cause_of(reason)}; {hint}{tail}"
    return errors.Unreachable(text, server=server, route=route, call=call, applied=applied)


def cause_of(trouble: BaseException | Response) -> str:
    """Return why an attempt failed: the error of the connection, or the message of the reply."""
    if isinstance(trouble, Response):
        try:
            return f"status {trouble.status}: {msgspec.json.decode(trouble.body)['message']}"
        except (msgspec.DecodeError, KeyError, TypeError):
            return f"status {trouble.status}"
    reason = getattr(trouble, "real_error", None) or trouble
    if isinstance(reason, ConnectionRefusedError):
        return os.strerror(reason.errno or errno.ECONNREFUSED)
    return str(getattr(reason, "strerror", None) or reason or "no answer in time")


def is_without_tls(error: BaseException) -> bool:
    """Return whether no connection was opened because the server answered the beginning of TLS with something else."""
    reason = getattr(error, "reason", None)
    return isinstance(reason, tls.SSLError) and reason.reason in _NO_TLS


def stopped(address: Address, route: str, *, applied: str | None) -> RemoteError:
    """Return the error for a request to a server that was stopped on purpose."""
    tail = f" (applied: {applied})" if applied else ""
    return errors.ServerStopped(
        f"{address}{route}: the server was stopped{tail}", server=str(address), route=route, applied=applied
    )


def named(address: Address, route: str, response: Response, *, at_stake: bool, in_doubt: bool) -> RemoteError:
    """Return the error that a server reports; a reply of another system says nothing about the server.

    Parameters
    ----------
    at_stake : bool
        Whether the request may have an effect.
    in_doubt : bool
        Whether an earlier attempt may have had it already.
    """
    try:
        document: Any = msgspec.json.decode(response.body)
        name, message, call = document["error"], document["message"], document.get("call")
        details = {key: document[key] for key in ("applied", "servers") if key in document}
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return errors.ProtocolMismatch(
            f"{address}{route}: status {response.status} without labnet's error document "
            f"(content type {response.headers.get('Content-Type')!r:.60})",
            server=str(address),
            route=route,
            applied="unknown" if at_stake else None,
        )
    if at_stake and in_doubt and response.status in _TURNED_AWAY:
        details["applied"] = "unknown"
        message = f"{message}; an earlier attempt had no reply (applied: unknown)"
    kind = getattr(errors, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, RemoteError)):
        kind = errors.RemoteFailure
    if not issubclass(kind, errors.PartialUpdate):
        details.pop("servers", None)
    text = f"{address}{route} ({response.status}): {message}"
    return kind(text, server=str(address), route=route, call=call, **details)
