"""Errors that a client raises: those that a server reports, and those for a missing reply."""

from typing import Any

import msgspec

from labnet import errors
from labnet.errors import RemoteError
from labnet.network.client.retry import Schedule
from labnet.network.transport.exchange import Response
from labnet.network.transport.pool import Address

#: Statuses of requests that are refused before the server looks up their key; they say nothing of earlier attempts.
_TURNED_AWAY = (401, 403, 404, 405, 411, 413, 415, 429, 503)


def no_reply(
    address: Address, route: str, reason: BaseException, schedule: Schedule, *, call: str | None, applied: str | None
) -> RemoteError:
    """Return the error for a request without a reply, from the reason of its last attempt."""
    tail = f" ({schedule.failures} attempts)" if schedule.failures > 1 else ""
    tail += f" (applied: {applied})" if applied else ""
    where, server = f"{address}{route}", str(address)
    if isinstance(reason, TimeoutError):
        plain = address.scheme == "https" and not schedule.connected
        hint = ", not even to TLS: does the server speak https?" if plain else ""
        text = f"{where}: no answer within {schedule.timeout:.3g} s{hint}{tail}"
        return errors.RemoteTimeout(text, server=server, route=route, call=call, applied=applied)
    reason = getattr(reason, "real_error", None) or reason
    text = f"{where}: {getattr(reason, 'strerror', None) or reason}; is the server running there?{tail}"
    return errors.Unreachable(text, server=server, route=route, call=call, applied=applied)


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
