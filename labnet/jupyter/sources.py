"""Sources of snapshots for panels: a server of this process, or any server by its URL."""

from typing import Any, Protocol

from labnet.errors import RemoteError
from labnet.network import Server, remote_model
from labnet.network.monitor.polling import SnapshotPoller

_INTERVAL_SECONDS = 0.2
_TIMEOUT_SECONDS = 2.0


class Source(Protocol):
    """The source of a panel's snapshots; no method raises if the server is gone."""

    @property
    def live(self) -> bool:
        """Whether new snapshots may follow."""
        ...

    @property
    def replaced(self) -> bool:
        """Whether another server has replaced this one."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return the latest snapshot at once, with ``unreachable`` if the server did not answer."""
        ...

    def renew(self) -> None:
        """Update the snapshot to the present or later."""
        ...

    def capability(self) -> str | None:
        """Return a capability to stop the server, or None if this process has no token."""
        ...

    def stop(self) -> None:
        """Stop the server."""
        ...

    def control(self, action: str, value: str) -> None:
        """Carry out an action of the panel."""
        ...

    def close(self) -> None:
        """Stop polling."""
        ...


class Local:
    """A server of this process."""

    def __init__(self, server: Server):
        self._server = server

    @property
    def live(self) -> bool:
        """Whether the server runs under this handle."""
        return self._server.running

    @property
    def replaced(self) -> bool:
        """Whether another handle serves its port."""
        return not self._server.running and not self._server.wait(0)

    def snapshot(self) -> dict[str, Any]:
        """Return a current snapshot."""
        return self._server.snapshot()

    def renew(self) -> None:
        """Do nothing: snapshots are always current."""

    def capability(self) -> str | None:
        """Return a capability to stop the server, or None if it does not run."""
        return self._server.stop_capability() if self._server.running else None

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop()

    def control(self, action: str, value: str) -> None:
        """Carry out an action of the panel."""
        self._server.control(action, value)

    def close(self) -> None:
        """Do nothing: there is no polling."""

    def __repr__(self) -> str:
        return repr(self._server)


class Remote(SnapshotPoller):
    """A server at a URL."""

    def __init__(self, url: str):
        self._model = remote_model(url, timeout=_TIMEOUT_SECONDS, blocking=True)
        super().__init__(seconds=_INTERVAL_SECONDS)

    def ask(self) -> dict[str, Any]:
        """Request a snapshot from the server."""
        snapshot: dict[str, Any] = self._model.snapshot()
        return snapshot

    def capability(self) -> str | None:
        """Return a capability to stop the server, or None without its token or a connection."""
        if "unreachable" in self._newest:
            return None
        try:
            return str(self._model.stop_capability())
        except RemoteError:
            return None

    def stop(self) -> None:
        """Stop the server if it is reachable and this process has its token."""
        self._model.stop()

    def control(self, action: str, value: str) -> None:
        """Carry out an action of the panel if the server is reachable and this process has its token."""
        self._model.control(action, value)

    def __repr__(self) -> str:
        return repr(self._model)


class Ended:
    """The last snapshot of an ended source, without references to the server and its model."""

    live = replaced = False

    def __init__(self, last: dict[str, Any], name: str):
        self._last = last
        self._name = name

    def snapshot(self) -> dict[str, Any]:
        """Return the last snapshot."""
        return self._last

    def renew(self) -> None:
        """Do nothing: the source has ended."""

    def capability(self) -> None:
        """Return None: there is nothing to stop."""

    def stop(self) -> None:
        """Do nothing."""

    def control(self, action: str, value: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        return self._name
