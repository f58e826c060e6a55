"""Op statistics across the network: a client asks a server to count, and merges the counts.

A request with the header ``Labnet-Collect`` has its ops counted on the server. The reply's header ``Labnet-Statistics``
contains the counts as JSON, including those of further servers.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from labnet.network.protocol.headers import COLLECT, STATISTICS
from labnet.stats import OpStatistics
from labnet.stats.collecting import active, merge

log = logging.getLogger("labnet.network")

#: A header must be short: ops beyond these numbers are summed until it fits.
_MOST_BYTES = 1 << 15
_MOST_OPS = (256, 32, 4, 1)


def wanted() -> dict[str, str]:
    """Return the header that asks a server to count, if this process collects op statistics."""
    return {} if all(statistics.only_here for statistics in active()) else {COLLECT: "1"}


def merge_reply(headers: Mapping[str, str]) -> None:
    """Merge the counts of a reply into the active collectors.

    Raises
    ------
    ValueError
        If the header of the reply contains no op statistics.
    """
    text = headers.get(STATISTICS)
    if text is None or not active():
        return
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"header {STATISTICS}: {error}") from error
    merge(OpStatistics.read(data))


def encode(statistics: OpStatistics) -> str:
    """Encode statistics as one line of ASCII that is short enough for a header."""
    for most in _MOST_OPS:
        text = to_ascii(statistics.summary(most=most))
        if len(text) <= _MOST_BYTES:
            return text
    return to_ascii(statistics.everywhere.summary(most=1))


def to_ascii(data: Any) -> str:
    """Return JSON in ASCII."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False)
