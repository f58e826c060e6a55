"""The run of a served model: its metrics, alerts, record, and the curves of earlier runs of the same name."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

from labnet.eviction import BoundedMap
from labnet.network.monitor.alerts import Alerts
from labnet.network.monitor.norms import Norms
from labnet.runs.recording import Recorder
from labnet.stats import Curve, Metrics
from labnet.stats.curve import thinned

_EARLIER = 3
_BINS = 128
_DESCRIPTION = 4000

#: Loss curves of ended runs of this process, by the name of the server.
_ended: BoundedMap[str, list[dict[str, Any]]] = BoundedMap(count=64)


class Trained(Protocol):
    """What is observed of a served model."""

    losses: Curve

    @property
    def version(self) -> int:
        """How often the weights were updated."""
        ...

    @property
    def norms(self) -> Norms:
        """Norms of gradients and weights."""
        ...

    @property
    def last_staleness(self) -> int | None:
        """Staleness of the last gradient."""
        ...


class RunMonitor:
    """Observes one server from `serve` to its end or replacement.

    Attributes
    ----------
    metrics : Metrics
        What users log.
    """

    def __init__(self, name: str, model: Trained | None, *, description: str, optimizer: Any, metrics: Metrics):
        self._name, self._model = name, model
        self.metrics, self.alerts = metrics, Alerts()
        self._recorder = Recorder(
            name, model=description[:_DESCRIPTION], optimizer="" if optimizer is None else repr(optimizer)
        )
        self._optimizer = optimizer
        self._started = time.strftime("%H:%M:%S")
        self.earlier = _ended.get(name) or []
        self._norms: dict[str, int] = {}

    def updated(self) -> None:
        """Observe an update."""
        model = self._model
        if model is None:
            return
        version, latest = model.version, model.losses.latest
        loss = latest[1] if latest is not None and latest[0] == version else None
        self.alerts.updated(version, loss=loss, staleness=model.last_staleness, now=time.monotonic())
        values = {} if loss is None else {"loss": loss}
        for name, curve in (("gradient norm", model.norms.gradient), ("weight norm", model.norms.weights)):
            measured = curve.latest
            if measured is not None and measured[0] != self._norms.get(name):
                self._norms[name] = measured[0]
                values[name] = measured[1]
        if values:
            self._recorder.add(version, values)

    def log(self, values: Mapping[str, Any]) -> None:
        """Log metrics at the present version of the weights, or else one after the other.

        Raises
        ------
        TypeError, ValueError
            As `Metrics.log`.
        """
        step = self._model.version if self._model is not None else self._next_step()
        numbers = self.metrics.log(step, values)
        self._recorder.add(step, {name: value for name, value in numbers.items() if value - value == 0})
        for name, value in numbers.items():
            if value - value != 0:
                self.alerts.not_finite(f"{name} is {value} at step {step:,}")

    def _next_step(self) -> int:
        self._steps = getattr(self, "_steps", 0) + 1
        return self._steps

    @property
    def learning_rate(self) -> float | None:
        """Learning rate of the optimizer, if it has one."""
        rate = getattr(self._optimizer, "lr", None)
        return float(rate) if isinstance(rate, int | float) else None

    def end(self) -> None:
        """Keep the loss curve for later runs of the name, and end the record; idempotent."""
        model, self._model, self._optimizer = self._model, None, None
        self._recorder.end()
        if model is None:
            return
        steps, values = model.losses.points()
        if len(steps) > 1:
            steps, values = thinned([step - steps[0] for step in steps], values, _BINS)
            run = {"name": f"{self._name} {self._started}", "steps": steps, "values": values}
            _ended.put(self._name, [*(_ended.get(self._name) or []), run][-_EARLIER:])
