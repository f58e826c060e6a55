"""Plots of a server's loss and latency, with matplotlib."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from labnet.network import RemoteModel, Server, remote_model
from labnet.network.loops import IO

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A server of this process, a remote model, an address, or a snapshot that was taken before.
Source = Server | RemoteModel | str | Mapping[str, Any]
_QUANTILES = ("p50", "p90", "p99", "max")


def plot_loss(
    source: Source | Sequence[float], *, axes: "Axes | None" = None, label: str | None = None, smooth: int = 1
) -> "Axes":
    """Draw the loss of a server over its updates.

    Parameters
    ----------
    source : Server, RemoteModel, str, snapshot or sequence of float
        A server, its address, what its ``snapshot()`` returned, or losses of your own.
    axes : matplotlib axes, optional
        Where to draw; a new figure otherwise.
    label : str, optional
        Words for the legend.
    smooth : int
        Draw the mean of so many neighbours; the values themselves stay visible, pale.

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> import labnet as ln
    >>> ln.jupyter.plot_loss([4.0, 2.0, 1.0]).get_ylabel()
    'loss'
    """
    if isinstance(source, Server | RemoteModel | str | Mapping):
        curve = _snapshot(source)["loss"]
        steps, values = curve["steps"], curve["values"]
    else:
        values = [float(value) for value in source]
        steps = range(1, len(values) + 1)
    if smooth < 1:
        raise ValueError(f"plot_loss: smooth must be 1 or more, got {smooth}")
    axes = axes or _new_axes()
    width = min(smooth, len(values))
    if width > 1:
        (pale,) = axes.plot(steps, values, alpha=0.25, linewidth=1)
        axes.plot(steps[width - 1 :], _means(values, width), color=pale.get_color(), label=label)
    else:
        axes.plot(steps, values, label=label)
    axes.set(xlabel="update", ylabel="loss")
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    if label is not None:
        axes.legend()
    return axes


def plot_latency(source: Source, *, axes: "Axes | None" = None) -> "Axes":
    """Draw how long the requests to each route of a server took: median, 90 %, 99 % and the longest.

    Parameters
    ----------
    source : Server, RemoteModel, str or snapshot
        A server, its address, or what its ``snapshot()`` returned.
    axes : matplotlib axes, optional
        Where to draw; a new figure otherwise.

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.network.serve({"double": lambda x: 2 * x}, port=0) as server:
    ...     y = ln.network.tfetch(server.url + "/double", ln.ones(1), blocking=True)
    ...     axes = ln.jupyter.plot_latency(server)
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['double']
    """
    statistics = _snapshot(source)["statistics"]
    routes = {name: row["latency"] for name, row in statistics.items() if name != "server" and row.get("hits")}
    axes = axes or _new_axes(height=1.2 + 0.5 * len(routes))
    for position, latency in enumerate(routes.values()):
        milliseconds = [latency[quantile] * 1e3 for quantile in _QUANTILES]
        axes.plot(milliseconds, [position] * len(milliseconds), color="#9aa4b5", linewidth=1, zorder=1)
        axes.scatter(milliseconds, [position] * len(milliseconds), c=range(len(milliseconds)), cmap="viridis", zorder=2)
        for quantile, value in zip(_QUANTILES, milliseconds, strict=True):
            axes.annotate(quantile, (value, position), (0, 6), textcoords="offset points", ha="center", fontsize=7)
    axes.set_yticks(range(len(routes)), list(routes))
    axes.set(xlabel="milliseconds", ylim=(len(routes) - 0.4, -0.6))
    if routes:
        axes.set_xscale("log")
    return axes


def _snapshot(source: Source) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    asked = remote_model(source, blocking=True) if isinstance(source, str) else source
    found = asked.snapshot()
    return cast(Mapping[str, Any], IO.run(found) if inspect.iscoroutine(found) else found)


def _new_axes(*, height: float = 2.8) -> "Axes":
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(8, height), layout="constrained")[1]


def _means(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of every `width` neighbours."""
    return [sum(values[start : start + width]) / width for start in range(len(values) - width + 1)]
