"""Polling of snapshots in the background; independent of the panel that draws them."""

import threading
from abc import ABC, abstractmethod
from typing import Any

from labnet.errors import RemoteError

#: How long `renew` waits for a late answer, in seconds.
_RENEW_SECONDS = 3.0


class SnapshotPoller(ABC):
    """Polls snapshots in its own thread, so that a slow answer does not block readers.

    Parameters
    ----------
    seconds : float
        Pause between an answer and the next request.
    """

    #: Whether the source was replaced by another one.
    replaced = False

    def __init__(self, *, seconds: float):
        self._seconds = seconds
        self._newest: dict[str, Any] = {}
        self._closed = False
        self._wanted = threading.Event()
        self._turn = threading.Condition()
        self._asked = self._answered = 0
        self._take()
        self._thread = threading.Thread(target=self._follow, name="labnet-followed", daemon=True)
        self._thread.start()

    @property
    def live(self) -> bool:
        """Whether new snapshots may follow."""
        return True

    @abstractmethod
    def ask(self) -> dict[str, Any]:
        """Return a new snapshot.

        Raises
        ------
        RemoteError
            If there is none; its text becomes ``unreachable`` in the last snapshot.
        """

    def _follow(self) -> None:
        while True:
            self._wanted.wait(self._seconds)
            self._wanted.clear()
            if self._closed:
                return
            with self._turn:
                self._asked += 1
            self._take()
            with self._turn:
                self._answered = self._asked
                self._turn.notify_all()

    def _take(self) -> None:
        try:
            self._newest = self.ask()
        except RemoteError as error:
            known = {key: value for key, value in self._newest.items() if key != "unreachable"}
            self._newest = {**known, "unreachable": str(error)}

    def snapshot(self) -> dict[str, Any]:
        """Return the latest snapshot."""
        return self._newest

    def renew(self) -> None:
        """Request a snapshot at once and wait for it, unless the last request failed."""
        with self._turn:
            if self._closed or "unreachable" in self._newest or not self._thread.is_alive():
                return
            following = self._asked + 1  # an earlier request may have been answered before this call
            self._wanted.set()
            self._turn.wait_for(lambda: self._answered >= following, _RENEW_SECONDS)

    def close(self) -> None:
        """Stop polling."""
        self._closed = True
        self._wanted.set()
