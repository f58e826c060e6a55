"""Several runs in one picture: a widget in a notebook, and a plot with matplotlib."""

from collections.abc import Sequence
from html import escape
from importlib.metadata import entry_points
from typing import Any

from labnet.runs.run import Run, Runs, get
from labnet.stats.curve import thinned

_BINS = 512


class Comparison:
    """Curves of several runs, in the interface of a panel's source."""

    live = replaced = False

    def __init__(self, runs: Sequence[Run], *, metric: str = "loss"):
        self.runs = Runs(runs)
        self.metric = metric
        self._curves = [run.metrics for run in runs]
        if not any(metric in curves for curves in self._curves):
            known = sorted({name for curves in self._curves for name in curves})
            raise LookupError(f"compare: no run has the metric {metric!r}; they have {', '.join(known) or 'none'}")

    def plot(self, axes: Any = None) -> Any:
        """Draw with matplotlib one line per run over the updates, counted from the start of each run."""
        axes = _panel().axes() if axes is None else axes
        for label, curves in zip(self._labels(), self._curves, strict=True):
            steps, values = curves.get(self.metric, ([], []))
            axes.plot([step - steps[0] + 1 for step in steps], values, label=label)
        axes.set(xlabel="update", ylabel=self.metric)
        axes.legend()
        return axes

    def _labels(self) -> list[str]:
        names = [run.name for run in self.runs]
        return [run.name if names.count(run.name) == 1 else f"{run.name} ({run.id})" for run in self.runs]

    def snapshot(self) -> dict[str, Any]:
        """Return the data of the widget."""
        every = sorted(
            {name for curves in self._curves for name in curves}, key=lambda name: (name != self.metric, name)
        )
        return {"comparison": {name: self._lines(name) for name in every}, "runs": self._labels(), "running": False}

    def _lines(self, metric: str) -> list[dict[str, Any]]:
        lines = []
        for label, curves in zip(self._labels(), self._curves, strict=True):
            steps, values = curves.get(metric, ([], []))
            steps, values = thinned((step - steps[0] + 1 for step in steps), values, _BINS)
            lines.append({"name": label, "steps": steps, "values": values})
        return lines

    def renew(self) -> None:
        """Do nothing: runs that are compared do not change."""

    def capability(self) -> None:
        """Return None: there is no server."""

    def stop(self) -> None:
        """Do nothing: there is no server."""

    def control(self, action: str, value: str) -> None:
        """Do nothing: there is no server."""

    def close(self) -> None:
        """Do nothing: there is no polling."""

    def panel(self) -> Any:
        """Return the widget."""
        return _panel()(self)

    def _ipython_display_(self) -> None:
        self.panel()._ipython_display_()

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.runs._repr_html_()}"

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self._labels())}, metric={self.metric!r})"


def _panel() -> Any:
    """Return the class of panels, which knows notebooks and matplotlib."""
    (view,) = entry_points(group="labnet.views", name="panel")
    return view.load()


def compare(*which: str | int, metric: str = "loss") -> Comparison:
    """Compare runs, each given by its name (the latest one of it) or number.

    The result is a widget in a notebook; ``.plot()`` draws it with matplotlib.

    Raises
    ------
    LookupError
        If there is no such run or metric.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.runs.compare("no such run")
    Traceback (most recent call last):
    LookupError: no run is named 'no such run'; ln.runs.all() lists them
    """
    return Comparison([get(each) for each in which], metric=metric)
