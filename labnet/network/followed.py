"""Something that is asked for snapshots again and again, for those who draw it; knows no panel."""

import threading
from abc import ABC, abstractmethod
from typing import Any

from labnet.errors import RemoteError


class Followed(ABC):
    """Asks in a thread of its own, so that a slow answer holds up nobody who wants the newest.

    Parameters
    ----------
    seconds : float
        Between an answer and the next question.
    """

    #: Whether another has taken the place of what is asked.
    replaced = False

    def __init__(self, *, seconds: float):
        self._seconds = seconds
        self._newest: dict[str, Any] = {}
        self._closed = threading.Event()
        self._take()
        self._thread = threading.Thread(target=self._follow, name="labnet-followed", daemon=True)
        self._thread.start()

    @property
    def live(self) -> bool:
        """Whether there may be something new."""
        return True

    @abstractmethod
    def ask(self) -> dict[str, Any]:
        """Return a new snapshot.

        Raises
        ------
        RemoteError
            If there is none; its text becomes ``unreachable`` of what was known before.
        """

    def _follow(self) -> None:
        while not self._closed.wait(self._seconds):
            self._take()

    def _take(self) -> None:
        try:
            self._newest = self.ask()
        except RemoteError as error:
            known = {key: value for key, value in self._newest.items() if key != "unreachable"}
            self._newest = {**known, "unreachable": str(error)}

    def snapshot(self) -> dict[str, Any]:
        """Return what was told last."""
        return self._newest

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()
