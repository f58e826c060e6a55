"""What the servers that a server is composed of have told last, for its panel.

Asking them takes as long as they take, and a panel draws several times a second: it is shown what is known, and
they are asked again in the background, once a second while somebody looks.
"""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Any

from labnet.errors import LabnetError
from labnet.network.server.routing import Failure

_INTERVAL_SECONDS = 1.0


class Branches:
    """The statistics of other servers, by the names that the handler ``statistics`` gives them.

    Parameters
    ----------
    ask : coroutine function
        Returns the whole document of statistics.
    """

    def __init__(self, ask: Callable[[], Awaitable[dict[str, Any]]]):
        self._ask = ask
        self._task: asyncio.Task[None] | None = None
        self._due = 0.0
        #: The servers of the last answer.
        self.known: dict[str, Any] = {}
        #: Why that is not all, or empty.
        self.incomplete = ""

    def look(self) -> None:
        """Ask anew in the background if that is due; runs on the I/O loop."""
        if (self._task is None or self._task.done()) and time.monotonic() >= self._due:
            self._task = asyncio.create_task(self._refresh(), context=contextvars.Context())

    def take(self, document: dict[str, Any]) -> None:
        """Keep what a document of statistics tells of them, if it is whole: somebody else may have asked for it."""
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
    """Tell whether a part of a document of statistics is the document of another server.

    Examples
    --------
    >>> is_server({"forward": {"hits": 1}, "server": {"name": "mlp"}}), is_server({"hits": 1})
    (True, False)
    """
    return isinstance(part, dict) and isinstance(part.get("server"), dict)
