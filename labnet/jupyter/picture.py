"""The panel as a still picture: plain HTML with inline SVG, for saved and exported notebooks."""

from collections.abc import Sequence
from html import escape
from typing import Any

_CELL = "padding:3px 8px;text-align:right;white-space:nowrap"
_CARD = "border:1px solid #9aa4b5;border-radius:8px;padding:12px 14px;max-width:900px;font:13px/1.45 sans-serif"
_COLUMNS = ("hits", "errors", "p50", "p99", "latency, last minute")


def duration(seconds: float) -> str:
    """Write a time for people.

    Examples
    --------
    >>> duration(0), duration(0.00025), duration(0.0123), duration(2.5)
    ('–', '250 µs', '12.3 ms', '2.50 s')
    """
    if not seconds:
        return "–"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def polyline(xs: Sequence[float], ys: Sequence[float], *, width: int, height: int) -> str:
    """Draw a line as SVG, scaled to the box; values from 0, or less if there is less, to the greatest.

    Examples
    --------
    >>> polyline([0, 1], [0, 2], width=10, height=10).count("points")
    1
    """
    low, high = min(0.0, *ys), max(*ys, 0.0)
    span, extent = (xs[-1] - xs[0]) or 1, (high - low) or 1
    points = " ".join(
        f"{(x - xs[0]) / span * width:.1f},{height - 1 - (y - low) / extent * (height - 2):.1f}"
        for x, y in zip(xs, ys, strict=True)
    )
    return (
        f'<svg width="{width}" height="{height}" role="img">'
        f'<polyline points="{points}" fill="none" stroke="#2563c9" stroke-width="1.5"/></svg>'
    )


def picture(snapshot: dict[str, Any]) -> str:
    """Draw a snapshot of a server as HTML; every text in it is escaped."""
    statistics = dict(snapshot["statistics"])
    server = statistics.pop("server")
    head = "".join(f'<th style="{_CELL};font-weight:500">{title}</th>' for title in ("route", *_COLUMNS))
    rows = []
    for name, route in statistics.items():
        latency = snapshot["recent"][name]["latency"]
        cells = [
            escape(name),
            f"{route['hits']:,}",
            f"{route['errors']:,}",
            duration(route["latency"]["p50"]),
            duration(route["latency"]["p99"]),
            polyline(range(len(latency)), latency, width=140, height=22) if any(latency) else "",
        ]
        rows.append("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>")
    steps, values = snapshot["loss"]["steps"], snapshot["loss"]["values"]
    loss = ""
    if len(steps) > 1:
        loss = (
            f'<div style="margin-top:8px">loss <b>{values[-1]:.4g}</b> after update {steps[-1]:,}, '
            f"greatest {max(values):.4g}</div>{polyline(steps, values, width=600, height=110)}"
        )
    state = "running" if snapshot["running"] else "stopped"
    return (
        f'<div class="labnet-picture" style="{_CARD}"><b>{escape(server["name"])}</b> &ensp;{state}&ensp; '
        f'{escape(snapshot["url"])}<table style="margin-top:6px"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{loss}</div>"
    )
