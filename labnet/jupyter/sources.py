"""Where a panel gets its snapshots: from a server of this process, or from any server by its URL."""

from typing import Any, Protocol

from labnet.errors import RemoteError
from labnet.network import Server, remote_model
from labnet.network.monitor.polling import SnapshotPoller

_INTERVAL_SECONDS = 0.2
_TIMEOUT_SECONDS = 2.0


class Source(Protocol):
    """A server as the panel knows it. None of these raises because a server is gone."""

    @property
    def live(self) -> bool:
        """Whether there may be something new to show."""
        ...

    @property
    def replaced(self) -> bool:
        """Whether another server has taken the place of this one."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return the newest snapshot, at once; with ``unreachable`` if it could not be had."""
        ...

    def renew(self) -> None:
        """Have the next snapshot be one of now or later."""
        ...

    def capability(self) -> str | None:
        """Return what stops the server once and soon, or None where this process has no right to that."""
        ...

    def stop(self) -> None:
        """Stop the server."""
        ...

    def close(self) -> None:
        """Ask no more."""
        ...


class Local:
    """A server of this process."""

    def __init__(self, server: Server):
        self._server = server

    @property
    def live(self) -> bool:
        """Whether the server runs, under this handle."""
        return self._server.running

    @property
    def replaced(self) -> bool:
        """Whether its port is served by another handle."""
        return not self._server.running and not self._server.wait(0)

    def snapshot(self) -> dict[str, Any]:
        """Return a snapshot of now."""
        return self._server.snapshot()

    def renew(self) -> None:
        """Do nothing: a snapshot is always one of now."""

    def capability(self) -> str | None:
        """Return what stops the server, while it runs."""
        return self._server.stop_capability() if self._server.running else None

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop()

    def close(self) -> None:
        """Do nothing: nobody is asked in the background."""

    def __repr__(self) -> str:
        return repr(self._server)


class Remote(SnapshotPoller):
    """A server at a URL."""

    def __init__(self, url: str):
        self._model = remote_model(url, timeout=_TIMEOUT_SECONDS, blocking=True)
        super().__init__(seconds=_INTERVAL_SECONDS)

    def ask(self) -> dict[str, Any]:
        """Ask the server."""
        snapshot: dict[str, Any] = self._model.snapshot()
        return snapshot

    def capability(self) -> str | None:
        """Return what stops the server, if this process has its token and the server is there."""
        if "unreachable" in self._newest:
            return None
        try:
            return str(self._model.stop_capability())
        except RemoteError:
            return None

    def stop(self) -> None:
        """Stop the server, if it can be reached and this process has its token."""
        self._model.stop()

    def __repr__(self) -> str:
        return repr(self._model)


class Ended:
    """What is left of a source: what it said last, and nothing of the server and its model."""

    live = replaced = False

    def __init__(self, last: dict[str, Any], name: str):
        self._last = last
        self._name = name

    def snapshot(self) -> dict[str, Any]:
        """Return what it said last."""
        return self._last

    def renew(self) -> None:
        """Do nothing: there is nothing new."""

    def capability(self) -> None:
        """Return None: there is nothing to stop."""

    def stop(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        return self._name
