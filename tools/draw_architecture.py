"""Draw ``docs/architecture.svg``: one training step over the network, and the modules that it passes through.

Run it after moving a module that the picture names: ``python tools/draw_architecture.py``. A test keeps the file true.
"""

from html import escape
from pathlib import Path
from typing import NamedTuple

TARGET = Path(__file__).parent.parent / "docs" / "architecture.svg"

WIDTH, ROW = 250, 84
LEFT, RIGHT, TOP = 40, 510, 92
#: Fill and stroke of each side.
CLIENT, SERVER, DISK = ("#e8f0fb", "#2563c9"), ("#fdf0e4", "#c46a1b"), ("#eef3ea", "#5d8a3c")


class Box(NamedTuple):
    """One step: its place, what happens there, and the module that does it, as a path below ``labnet``."""

    column: int
    row: int
    title: str
    module: str
    colours: tuple[str, str]


BOXES = (
    Box(0, 0, "loss of a remote model", "network/client/remote_model", CLIENT),
    Box(0, 1, "one request until it is answered", "network/client/session", CLIENT),
    Box(0, 2, "bodies: tensors to bytes", "wire", CLIENT),
    Box(0, 3, "connections of this process", "network/transport/client", CLIENT),
    Box(0, 4, "backward: a node of the graph", "network/client/remote_call", CLIENT),
    Box(0, 5, "panel, plots, magics", "jupyter/panel", CLIENT),
    Box(1, 0, "HTTP, token, Host and Origin", "network/server/handler", SERVER),
    Box(1, 1, "each key once, queue, counters", "network/server/middleware", SERVER),
    Box(1, 2, "/forward and /optimize", "network/model/served", SERVER),
    Box(1, 3, "graphs between the two", "network/model/calls", SERVER),
    Box(1, 4, "journal first, then weights", "network/model/updates", SERVER),
    Box(1, 5, "statistics and snapshots", "network/server_statistics", SERVER),
    Box(2, 2, "ops, eager or compiled", "ops/core/registry", DISK),
    Box(2, 3, "backward through the graph", "autograd", DISK),
    Box(2, 4, "journal and checkpoints", "store/training", DISK),
)
#: From box to box, by column and row, with what travels.
ARROWS = (
    ((0, 0), (0, 1), "inputs"),
    ((0, 1), (0, 2), ""),
    ((0, 2), (0, 3), "frame"),
    ((0, 3), (1, 0), "request, key, digest"),
    ((1, 0), (1, 1), ""),
    ((1, 1), (1, 2), ""),
    ((1, 2), (2, 2), "worker thread"),
    ((1, 2), (1, 3), "keep"),
    ((1, 3), (2, 3), ""),
    ((1, 3), (1, 4), "gradients"),
    ((1, 4), (2, 4), "before the weights"),
    ((0, 4), (0, 3), "gradient of the output"),
    ((1, 5), (0, 5), "4 times a second"),
)


def left(column: int) -> int:
    """Return the x of a column."""
    return LEFT + column * (RIGHT - LEFT - 90)


def box(one: Box) -> str:
    """Return the SVG of a box."""
    x, y, (fill, stroke) = left(one.column), TOP + one.row * ROW, one.colours
    return (
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="52" rx="7" fill="{fill}" stroke="{stroke}"/>'
        f'<text x="{x + WIDTH / 2}" y="{y + 22}" text-anchor="middle" font-weight="600">{escape(one.title)}</text>'
        f'<text x="{x + WIDTH / 2}" y="{y + 40}" text-anchor="middle" font-family="monospace" font-size="11" '
        f'fill="#555">{escape(one.module)}</text>'
    )


def arrow(start: tuple[int, int], end: tuple[int, int], label: str) -> str:
    """Return the SVG of an arrow between two boxes, from side to side or from bottom to top."""
    (c0, r0), (c1, r1) = start, end
    y0, y1 = TOP + r0 * ROW, TOP + r1 * ROW
    if c0 == c1:
        x = left(c0) + WIDTH / 2
        a, b = ((x, y0 + 52), (x, y1)) if r1 > r0 else ((x, y0), (x, y1 + 52))
        text = (x + 8, (a[1] + b[1]) / 2 + 4, "start")
    else:
        forward = c1 > c0
        a = (left(c0) + (WIDTH if forward else 0), y0 + 26)
        b = (left(c1) + (0 if forward else WIDTH), y1 + 26)
        text = (a[0] + 8, a[1] + 16, "start") if r0 != r1 else ((a[0] + b[0]) / 2, a[1] - 8, "middle")
    words = (
        f'<text x="{text[0]}" y="{text[1]}" text-anchor="{text[2]}" font-size="11" fill="#333">{escape(label)}</text>'
    )
    return f'<path d="M{a[0]} {a[1]}L{b[0]} {b[1]}" stroke="#555" fill="none" marker-end="url(#head)"/>{words}'


def picture() -> str:
    """Return the whole picture."""
    width, height = left(2) + WIDTH + LEFT, TOP + 6 * ROW
    heads = ("the process that trains", "the process that serves", "computing and keeping")
    titles = "".join(
        f'<text x="{left(c) + WIDTH / 2}" y="66" text-anchor="middle" font-size="15" font-weight="600">{head}</text>'
        for c, head in enumerate(heads)
    )
    parts = "".join(arrow(*one) for one in ARROWS) + "".join(map(box, BOXES))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13" fill="#222">'
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" '
        'markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="#555"/></marker></defs>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
        f'<text x="{LEFT}" y="34" font-size="19" font-weight="700">One training step over the network</text>'
        f"{titles}{parts}</svg>\n"
    )


if __name__ == "__main__":
    TARGET.write_text(picture())
    print(f"wrote {TARGET}")
