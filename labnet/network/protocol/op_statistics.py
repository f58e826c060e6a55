"""Op statistics across the network: a client asks a server to count, and takes in what it counted.

A request with the header ``Labnet-Collect`` has its ops counted on the server; the reply's header
``Labnet-Statistics`` holds them as JSON, with those of the servers that this one called for it.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from labnet.stats import OpStatistics
from labnet.stats.collecting import active, merge

log = logging.getLogger("labnet.network")

#: Header of a request whose ops are to be counted, and of the reply that says what they were.
COLLECT = "Labnet-Collect"
STATISTICS = "Labnet-Statistics"

#: A header must be short: ops beyond these numbers are added up, until it is.
_MOST_BYTES = 1 << 15
_MOST_OPS = (256, 32, 4, 1)


def wanted() -> dict[str, str]:
    """Return the header that asks a server to count, if anybody counts here."""
    return {} if all(statistics.only_here for statistics in active()) else {COLLECT: "1"}


def take_in(headers: Mapping[str, str]) -> None:
    """Merge what a server has counted for a call into whatever counts here.

    Raises
    ------
    ValueError
        If the header of the reply holds no op statistics.
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
    """Write statistics in one line of ASCII that is short enough for a header."""
    for most in _MOST_OPS:
        text = to_ascii(statistics.summary(most=most))
        if len(text) <= _MOST_BYTES:
            return text
    return to_ascii(statistics.everywhere.summary(most=1))


def to_ascii(data: Any) -> str:
    """Return JSON in ASCII."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False)
