"""Plots of a server's loss and latency, with matplotlib.

New figures have a pale background, in the style ``labnet.jupyter.neutral``, which is readable in light and dark
notebooks.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from labnet.network import RemoteModel, Server, remote_model
from labnet.network.threads import IO

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A server of this process, a remote model, an address, or an earlier snapshot.
Source = Server | RemoteModel | str | Mapping[str, Any]
_QUANTILES = ("p50", "p90", "p99", "max")
#: Alternating positions above and below, because neighbours are often close together.
_PLACES: tuple[dict[str, Any], ...] = tuple(
    {"xytext": (0, up), "ha": "center", "va": "bottom" if up > 0 else "top"} for up in (5, -6, 5, -6)
)
_STYLE = "labnet.jupyter.neutral"


def plot_loss(
    source: Source | Sequence[float], *, axes: "Axes | None" = None, label: str | None = None, smooth: int = 1
) -> "Axes":
    """Draw the loss of a server over its updates.

    Parameters
    ----------
    source : Server, RemoteModel, str, snapshot or sequence of float
        A server, its address, its ``snapshot()``, or a sequence of losses.
    axes : matplotlib axes, optional
        Where to draw; a new figure otherwise.
    label : str, optional
        Label in the legend.
    smooth : int
        Width of the centred moving average; the values themselves are drawn in a pale colour.

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
    width = min(smooth, len(values))
    with drawing(axes) as drawn:
        if width > 1:
            (pale,) = drawn.plot(steps, values, alpha=0.3, linewidth=1)
            middles = steps[(width - 1) // 2 : len(steps) - width // 2]  # where the mean of neighbours belongs
            drawn.plot(middles, _means(values, width), color=pale.get_color(), label=label)
        else:
            drawn.plot(steps, values, label=label)
        drawn.set(xlabel="update", ylabel="loss")
        if values and min(values) > 0 and max(values) > 20 * min(values):
            drawn.set_yscale("log")
        if label is not None:
            drawn.legend()
    return drawn


def plot_latency(source: Source, *, axes: "Axes | None" = None) -> "Axes":
    """Draw the latency of each route of a server: median, 90 %, 99 % and maximum.

    Parameters
    ----------
    source : Server, RemoteModel, str or snapshot
        A server, its address, or its ``snapshot()``.
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
    with drawing(axes, height=1.2 + 0.5 * len(routes)) as drawn:
        for position, latency in enumerate(routes.values()):
            _draw_latency(drawn, position, latency)
        drawn.set_yticks(range(len(routes)), list(routes))
        drawn.set(xlabel="milliseconds", ylim=(len(routes) - 0.4, -0.6))
        if routes:
            drawn.set_xscale("log")
            drawn.xaxis.set_major_formatter("{x:g}")
        else:
            drawn.text(0.5, 0.5, "no requests yet", transform=drawn.transAxes, ha="center", va="center")
    return drawn


def _draw_latency(axes: "Axes", position: int, latency: Mapping[str, float]) -> None:
    """Draw the quantiles of one route as points on a line."""
    milliseconds = [latency[quantile] * 1e3 for quantile in _QUANTILES]
    (line,) = axes.plot(milliseconds, [position] * len(milliseconds), alpha=0.6, linewidth=1.5, zorder=1)
    axes.scatter(milliseconds, [position] * len(milliseconds), color=line.get_color(), zorder=2)
    for quantile, value, place in zip(_QUANTILES, milliseconds, _PLACES, strict=True):
        axes.annotate(quantile, (value, position), textcoords="offset points", fontsize=9, **place)


def _snapshot(source: Source) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    asked = remote_model(source, blocking=True) if isinstance(source, str) else source
    found = asked.snapshot()
    return cast(Mapping[str, Any], IO.run(found) if inspect.iscoroutine(found) else found)


@contextlib.contextmanager
def drawing(axes: "Axes | None", *, height: float = 2.8) -> "Iterator[Axes]":
    """Draw into the given axes, or into a new figure in colours for light and dark notebooks."""
    if axes is not None:
        yield axes
        return
    from matplotlib import pyplot

    # outside the style, whose end would undo settings that the first figure makes
    figure = pyplot.figure(figsize=(8, height), layout="constrained")
    with pyplot.style.context(_STYLE):
        figure.set_facecolor(pyplot.rcParams["figure.facecolor"])
        yield figure.subplots()


def _means(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of every `width` neighbours."""
    return [sum(values[start : start + width]) / width for start in range(len(values) - width + 1)]
