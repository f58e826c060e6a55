"""Alerts: conditions of a training run that need attention, each reported once when it begins."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

log = logging.getLogger("labnet.network")

_MOST = 20
#: Weight of the newest loss in the mean that decides about a plateau.
_SMOOTHING = 0.05


class Alert(NamedTuple):
    """One alert: a kind (``"nan"``, ``"plateau"``, ``"silence"`` or ``"staleness"``), a sentence, and a time."""

    kind: str
    message: str
    time: float


class Alerts:
    """The alerts of a server. The limits are attributes that can be assigned.

    Attributes
    ----------
    plateau_updates : int
        Updates without a loss that is lower by a hundredth.
    silence_seconds : float
        Seconds without an update after some updates.
    staleness : int
        Updates between the forward and the backward of a gradient.

    Examples
    --------
    >>> alerts = Alerts()
    >>> alerts.updated(1, loss=2.0, staleness=99, now=0.0)
    >>> [alert.kind for alert in alerts.latest]
    ['staleness']
    """

    def __init__(self) -> None:
        self.plateau_updates = 1000
        self.silence_seconds = 60.0
        self.staleness = 32
        self.latest: deque[Alert] = deque(maxlen=_MOST)
        self._active: set[str] = set()
        self._callbacks: list[Callable[[Alert], Any]] = []
        self._smooth: float | None = None
        self._best: tuple[float, int] | None = None
        self._updated: float | None = None

    def subscribe(self, function: Callable[[Alert], Any]) -> Callable[[Alert], Any]:
        """Call a function with each alert, in a thread of its own."""
        if not callable(function):
            raise TypeError(f"on_alert: expected a function, got {function!r:.60}")
        self._callbacks.append(function)
        return function

    def updated(self, version: int, *, loss: float | None, staleness: int | None, now: float) -> None:
        """Check an update; `now` is in seconds of a monotonic clock."""
        self._updated = now
        self._active -= {"silence", "nan"}
        if staleness is not None and staleness > self.staleness:
            self._begin("staleness", f"a gradient was {staleness} updates old at update {version:,}")
        elif staleness is not None and staleness <= self.staleness / 2:
            self._active.discard("staleness")
        if loss is not None:
            self._look_at_loss(version, loss)

    def _look_at_loss(self, version: int, loss: float) -> None:
        mean = self._smooth = loss if self._smooth is None else self._smooth + _SMOOTHING * (loss - self._smooth)
        if self._best is None or mean < self._best[0] - abs(self._best[0]) / 100:
            self._best = (mean, version)
            self._active.discard("plateau")
        elif version - self._best[1] >= self.plateau_updates:
            since = version - self._best[1]
            self._begin("plateau", f"the loss has not fallen for {since:,} updates: {mean:.4g} at update {version:,}")

    def not_finite(self, message: str) -> None:
        """Alert about a number that is NaN or infinite."""
        self._begin("nan", message)

    def look(self, *, now: float) -> None:
        """Alert if there was no update for `silence_seconds`; `now` is in seconds of a monotonic clock."""
        if self._updated is not None and now - self._updated > self.silence_seconds:
            self._begin("silence", f"no update for {now - self._updated:.0f} s")

    def pause(self) -> None:
        """Expect no updates until the next one."""
        self._updated = None

    def summary(self) -> list[dict[str, Any]]:
        """Return the latest alerts, oldest first."""
        return [alert._asdict() for alert in tuple(self.latest)]

    def _begin(self, kind: str, message: str) -> None:
        if kind in self._active:
            return
        self._active.add(kind)
        alert = Alert(kind, message, time.time())
        self.latest.append(alert)
        if self._callbacks:
            threading.Thread(target=self._call, args=(alert,), name="labnet-alert", daemon=True).start()

    def _call(self, alert: Alert) -> None:
        for function in tuple(self._callbacks):
            try:
                function(alert)
            except Exception:
                log.warning("on_alert: %r failed", function, exc_info=True)
