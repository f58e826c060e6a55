"""Something that is asked for snapshots again and again, for those who draw it; knows no panel."""

import threading
from abc import ABC, abstractmethod
from typing import Any

from labnet.errors import RemoteError

#: How long `renew` waits, for those who answer late.
_RENEW_SECONDS = 3.0


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
        self._closed = False
        self._wanted = threading.Event()
        self._turn = threading.Condition()
        self._asked = self._answered = 0
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
        """Return what was told last."""
        return self._newest

    def renew(self) -> None:
        """Ask at once, and wait for the answer, unless there was none the last time."""
        with self._turn:
            if self._closed or "unreachable" in self._newest or not self._thread.is_alive():
                return
            following = self._asked + 1  # what was asked before may have been answered before
            self._wanted.set()
            self._turn.wait_for(lambda: self._answered >= following, _RENEW_SECONDS)

    def close(self) -> None:
        """Ask no more."""
        self._closed = True
        self._wanted.set()
