"""The panel as a static picture in plain HTML, for saved and exported notebooks, without scripts.

While the server runs, the address links to its live page: after a reload while a cell blocks the kernel, there is
only the picture. Curves are images with embedded data, because inline SVG is removed from untrusted notebooks.
"""

import math
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import Any

from labnet.network.monitor.upstreams import is_server

_CELL = "padding:3px 8px;text-align:right;white-space:nowrap"
_FIRST = "padding:3px 8px 3px 0;text-align:left;font-weight:500"
_CARD = (
    "border:1px solid #8a94a5;border-radius:8px;padding:12px 14px;max-width:900px;font:13px/1.45 sans-serif;"
    "overflow-x:auto"
)
_COLUMNS = ("hits", "errors", "received", "sent", "p50", "p90", "p99", "last minute")
#: Training forwards without an update from which on the panel says so.
MANY_FORWARDS = 20
_MOST_POINTS = 160
_MOST_LEVELS = 8
_MOST_OPS = 8
#: Hides the placeholder of a widget without a kernel; only notebook front ends apply it.
_STYLE = "<style>.jp-OutputArea:has(.labnet-picture) .lm-Panel.jp-OutputArea-output:not(:has(*)){display:none}</style>"


def duration(seconds: float) -> str:
    """Format a duration for display.

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


def size(nbytes: float) -> str:
    """Format a number of bytes for display.

    Examples
    --------
    >>> size(0), size(999), size(1500), size(2.5e9)
    ('0 B', '999 B', '1.5 KB', '2.5 GB')
    """
    for unit in ("B", "KB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            break
        nbytes /= 1000
    return f"{nbytes:.3g} {unit}"


def is_logarithmic(values: Sequence[float]) -> bool:
    """Return whether the range of values calls for a logarithmic scale."""
    return min(values) > 0 and max(values) / min(values) > 100


def polyline(xs: Sequence[float], ys: Sequence[float], *, width: int, height: int, label: str = "") -> str:
    """Draw a line as an image, scaled to its box from the lesser of 0 and the minimum to the maximum.

    Examples
    --------
    >>> polyline([0, 1], [0, 2], width=10, height=10, label="up").startswith('<img alt="up" width="10"')
    True
    """
    every = -(-len(xs) // _MOST_POINTS)
    xs, ys = [*xs[:-1:every], xs[-1]], [*ys[:-1:every], ys[-1]]
    if is_logarithmic(ys):
        ys = [math.log10(y / min(ys)) for y in ys]
    low, high = min(0.0, *ys), max(*ys, 0.0)
    span, extent = (xs[-1] - xs[0]) or 1, (high - low) or 1
    points = " ".join(
        f"{(x - xs[0]) / span * width:.1f},{height - 1 - (y - low) / extent * (height - 2):.1f}"
        for x, y in zip(xs, ys, strict=True)
    )
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<polyline points="{points}" fill="none" stroke="#4380e0" stroke-width="1.5"/></svg>'
    )
    source = b64encode(drawing.encode()).decode()
    return (
        f'<img alt="{escape(label)}" width="{width}" height="{height}" style="max-width:100%;display:inline" '
        f'src="data:image/svg+xml;base64,{source}">'
    )


def picture(snapshot: dict[str, Any], *, when: str = "") -> str:
    """Draw a snapshot of a server as HTML with its time; all text is escaped."""
    opening = f'<div class="labnet-picture" data-panel="{escape(snapshot.get("panel", ""))}" style="{_CARD}">'
    trouble = f"unreachable: {snapshot['unreachable']}" if "unreachable" in snapshot else ""
    if "statistics" not in snapshot:
        return f"{_STYLE}{opening}{escape(trouble)}</div>"
    server = snapshot["statistics"]["server"]
    state = snapshot.get("state") or ("running" if snapshot["running"] else "stopped")
    live = snapshot["running"] and not trouble
    state = trouble or ("last seen " if live and when else "") + state + (f" at {when}" if when else "")
    address = escape(snapshot["url"])
    if live and address.startswith("http"):  # a cluster has no page
        address = f'live: <a href="{address}/" target="_blank" rel="noopener">{address}</a>'
    version = f"&ensp; {server['version']:,} updates" if "version" in server else ""
    return (
        f"{_STYLE}{opening}<b>{escape(server['name'])}</b> &ensp;{escape(state)}&ensp; {address}"
        f"{version}{_facts(server)}{_table(snapshot)}{_kernels(server)}{_curves(snapshot)}{_tree(snapshot)}</div>"
    )


def _facts(server: dict[str, Any]) -> str:
    graphs, seen = server.get("graphs"), server.get("staleness_histogram")
    facts = []
    if server.get("unused_forwards", 0) >= MANY_FORWARDS:
        facts.append(f"{server['unused_forwards']:,} forwards, 0 updates: is an `await loss.backward()` missing?")
    if graphs:
        facts.append(f"kept graphs {graphs['count']:,} ({size(graphs['bytes'])})")
    if seen:
        most = [*seen][-1].rpartition("-")[2]
        facts.append("staleness 0" if most == "0" else f"staleness {server['staleness']}, at most {most}")
    if place := server.get("device"):
        facts.append(f"device {place['name']}, {size(place['used'])} of {size(place['total'])}")
    return f'<div style="font-size:12px">{escape(" · ".join(facts))}</div>' if facts else ""


def _table(snapshot: dict[str, Any]) -> str:
    if not snapshot["recent"]:
        return ""
    head = "".join(f'<th style="{_CELL};font-weight:500">{title}</th>' for title in _COLUMNS)
    rows = []
    for name, recent in snapshot["recent"].items():
        route, latency = snapshot["statistics"][name], recent["latency"]
        label = f"latency of {name} in the last minute, at most {duration(max(latency))}"
        cells = [
            *(f"{route[key]:,}" for key in ("hits", "errors")),
            *(size(route[key]) for key in ("bytes_in", "bytes_out")),
            *(duration(route["latency"][key]) for key in ("p50", "p90", "p99")),
            polyline(range(len(latency)), latency, width=120, height=22, label=label) if any(latency) else "",
        ]
        texts = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells)
        rows.append(f'<tr><th style="{_FIRST}">{escape(name)}</th>{texts}</tr>')
    return (
        f'<table style="margin-top:6px"><thead><tr><th style="{_FIRST}">route</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _kernels(server: dict[str, Any]) -> str:
    """List the ops with the most GPU time."""
    kernels = server.get("device", {}).get("kernels")
    if not kernels or not kernels["seconds"]:
        return ""
    found = sorted(kernels["ops"].items(), key=lambda item: -item[1]["seconds"])[:_MOST_OPS]
    texts = [f"{name} {duration(op['seconds'])} ({op['seconds'] / kernels['seconds']:.0%})" for name, op in found]
    return f'<div style="margin-top:6px;font-size:12px">time on the GPU: {escape(" · ".join(texts))}</div>'


def _curves(snapshot: dict[str, Any]) -> str:
    norms = snapshot.get("norms", {})
    curves = {"loss": snapshot["loss"], "gradient norm": norms.get("gradient"), "weight norm": norms.get("weights")}
    drawn = "".join(_curve(title, curve) for title, curve in curves.items() if curve and len(curve["steps"]) > 1)
    return f"<div>{drawn}</div>" if drawn else ""


def _curve(title: str, curve: dict[str, list[float]]) -> str:
    steps, values = curve["steps"], curve["values"]
    width = 400 if title == "loss" else 150
    text = f"{values[-1]:.4g} after update {steps[-1]:,}, greatest {max(values):.4g}"
    line = polyline(steps, values, width=width, height=100, label=f"{title} {text}")
    shown = text if title == "loss" else f"{values[-1]:.4g}"
    return (
        f'<div style="display:inline-block;margin:8px 16px 0 0;vertical-align:top;max-width:100%">'
        f"{title}{' (log)' if is_logarithmic(values) else ''} <b>{shown}</b><br>{line}</div>"
    )


def _tree(snapshot: dict[str, Any]) -> str:
    branches = snapshot.get("branches", {})
    trouble = escape(branches.get("incomplete", ""))
    items = _items(branches.get("known", {}), _MOST_LEVELS)
    if not (items or trouble):
        return ""
    heard = "" if snapshot["running"] else ", as last heard"
    title = escape(branches.get("title", "composed of"))
    return f'<div style="margin-top:8px">{title}, with median latency{heard}{items}{trouble}</div>'


def _items(document: dict[str, Any], levels: int) -> str:
    items = []
    for name, part in document.items():
        if not is_server(part):
            continue
        routes = {
            key: route
            for key, route in part.items()
            if isinstance(route, dict) and route.get("hits") and "latency" in route
        }
        texts = [
            f"{key} {duration(route['latency']['p50'])} ({route['hits']:,} calls)" for key, route in routes.items()
        ]
        below = _items(part, levels - 1) if levels > 1 else ""
        called = str(part["server"].get("name", name))
        where = "" if called == name else f" → {escape(called)}{' ·' if texts else ''}"
        items.append(f"<li><b>{escape(name)}</b>{where} {escape(' · '.join(texts))}{below}</li>")
    return f'<ul style="margin:2px 0;padding-left:18px">{"".join(items)}</ul>' if items else ""
