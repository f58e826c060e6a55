"""The latest statistics of upstream servers, for the panel.

Upstream servers may answer slowly, and a panel draws several times a second. So it draws the latest known statistics,
which are refreshed in the background once a second while a panel is open.
"""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Any

from labnet.errors import LabnetError
from labnet.network.server.routing import Failure

_INTERVAL_SECONDS = 1.0


class Upstreams:
    """The statistics of upstream servers, by their names in the handler ``statistics``.

    Parameters
    ----------
    ask : coroutine function
        Returns the whole statistics document.
    """

    def __init__(self, ask: Callable[[], Awaitable[dict[str, Any]]]):
        self._ask = ask
        self._task: asyncio.Task[None] | None = None
        self._due = 0.0
        #: The servers in the last answer.
        self.known: dict[str, Any] = {}
        #: Why the answer is incomplete; empty if it is complete.
        self.incomplete = ""

    def look(self) -> None:
        """Start a refresh in the background if one is due; runs on the I/O loop."""
        if (self._task is None or self._task.done()) and time.monotonic() >= self._due:
            self._task = asyncio.create_task(self._refresh(), context=contextvars.Context())

    def take(self, document: dict[str, Any]) -> None:
        """Store the upstream servers of a complete statistics document."""
        if not document["server"].get("incomplete"):
            self.known = {name: part for name, part in document.items() if is_server(part)}

    async def _refresh(self) -> None:
        try:
            document = await self._ask()
            self.incomplete = str(document["server"].get("incomplete", ""))
            self.take(document)
        except (LabnetError, Failure) as error:
            self.incomplete = str(error)
        except Exception as error:  # the user's handler raised: the panel says so
            self.incomplete = f"the handler 'statistics' raised {type(error).__name__}: {error}"
        self._due = time.monotonic() + _INTERVAL_SECONDS


def is_server(part: Any) -> bool:
    """Return whether a part of a statistics document is the document of another server.

    Examples
    --------
    >>> is_server({"forward": {"hits": 1}, "server": {"name": "mlp"}}), is_server({"hits": 1})
    (True, False)
    """
    return isinstance(part, dict) and isinstance(part.get("server"), dict)
