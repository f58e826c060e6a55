"""``labnet statistics``: the counters of a server and of its upstream servers as a table."""

import argparse
import json
import sys
import time
from typing import Any

from labnet.cli.targets import connect

_COLUMNS = ("route", "hits", "hits/s", "errors", "now", "p50 ms", "p99 ms", "MB in", "MB out")
#: With the indent they fit a terminal of 80 columns.
_WIDTHS = (15, 10, 9, 8, 5, 8, 8, 7, 8)
_CLEAR = "\x1b[H\x1b[J"
_LONGEST = 60


def statistics(options: argparse.Namespace) -> int:
    """Print the statistics of a server, once or repeatedly."""
    remote = connect(options.url, options.timeout)
    if options.watch is None:
        print(table(remote.statistics(), remote.url))
        return 0
    before: dict[str, Any] = {}
    try:
        while True:
            document = remote.statistics()
            text = table(document, remote.url, before=before)
            before = document
            print((_CLEAR if sys.stdout.isatty() else "") + text, flush=True)
            time.sleep(options.watch)
    except KeyboardInterrupt:
        return 0


def table(document: dict[str, Any], title: str, indent: str = "", *, before: dict[str, Any] | None = None) -> str:
    """Format statistics as text: a line about the server, its routes, custom fields and upstream servers.

    Rates are those since the statistics `before`, or else since the server started.

    Examples
    --------
    >>> print(table({"server": {"name": "mlp", "version": 3}, "accuracy": 0.9}, "localhost:3000"))
    localhost:3000: mlp, version 3
      accuracy = 0.9
    """
    earlier = before or {}
    lines = [f"{indent}{title}: {_about(document.get('server', {}))}"]
    routes = {name: value for name, value in document.items() if _is_route(value)}
    if routes:
        lines.append(f"{indent}  {_row(_COLUMNS, indent)}")
        seconds = _uptime(document) - _uptime(earlier)
        for name, value in routes.items():
            hits = value["hits"] - (earlier[name]["hits"] if _is_route(earlier.get(name)) else 0)
            rate = hits / seconds if seconds > 0 else 0.0
            lines.append(f"{indent}  {_row((name, *_figures(value, rate)), indent)}")
    parts = []
    for name, value in document.items():
        if name == "server" or name in routes:
            continue
        if isinstance(value, dict) and isinstance(value.get("server"), dict):
            parts.append(table(value, name, indent + "    ", before=earlier.get(name)))
        else:
            lines.append(f"{indent}  {name} = {json.dumps(value):.{_LONGEST}}")
    return "\n".join([*lines, *parts])


def _uptime(document: dict[str, Any]) -> float:
    return float(document.get("server", {}).get("uptime", 0.0))


def _about(server: dict[str, Any]) -> str:
    words = [str(server.get("name", "?"))]
    if "version" in server:
        words.append(f"version {server['version']}")
    if server.get("loss") is not None:
        words.append(f"loss {server['loss']:.6g}")
    if "graphs" in server:
        words.append(f"{server['graphs']['count']} graphs kept")
    if "uptime" in server:
        words.append(f"up {server['uptime']:.0f} s")
    if "incomplete" in server:
        words.append(f"incomplete: {server['incomplete']}")
    return ", ".join(words)


def _is_route(value: Any) -> bool:
    return isinstance(value, dict) and {"hits", "seconds", "latency"} <= value.keys()


def _figures(route: dict[str, Any], rate: float) -> tuple[str, ...]:
    return (
        f"{route['hits']:,}",
        f"{rate:,.1f}",
        f"{route['errors']:,}",
        f"{route['in_flight']:,}",
        *(f"{route['latency'][key] * 1e3:.2f}" for key in ("p50", "p99")),
        *(f"{route[key] / 1e6:.2f}" for key in ("bytes_in", "bytes_out")),
    )


def _row(cells: tuple[str, ...], indent: str) -> str:
    (name, width), *others = zip(cells, _WIDTHS, strict=True)
    width = max(8, width - len(indent))
    name = name if len(name) <= width else f"{name[: width - 1]}…"
    return f"{name:<{width}}" + "".join(f"{cell:>{width}}" for cell, width in others)
