"""HTML pictures of arrays for notebooks, and tables, at a cost independent of the array's size.

This module is independent of tensors. A large array is shown by a sample, marked as such.
"""

import base64
import struct
import zlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Arrays of at most this many elements are shown as numbers.
_FEW = 12
_SIDE = 48  # longest side of a map of one matrix, in cells
_SMALL_SIDE = 24  # and of each of several matrices
_MATRICES = 8
_BARS = 32
_SAMPLE = 1 << 14
_LOW, _MIDDLE, _HIGH, _NOT_FINITE = (33, 102, 172), (247, 247, 247), (178, 24, 43), (255, 196, 0)


def describe_array(array: Array, *, device: str, requires_grad: bool, text: str) -> str:
    """Describe an array as HTML: shape, dtype, device, range, and a map or a histogram of its values.

    Parameters
    ----------
    array : ndarray
    device : str
    requires_grad : bool
    text : str
        The array as text, shown for few elements.

    Examples
    --------
    >>> html = describe_array(np.eye(30), device="cpu", requires_grad=False, text="")
    >>> "(30, 30)" in html, "<img" in html, len(html) < 4000
    (True, True, True)
    """
    facts = [f"<b>Tensor</b> {escape(str(array.shape))}", array.dtype.name, escape(device)]
    if requires_grad:
        facts.append("requires_grad")
    if array.size <= _FEW:
        return _box(facts, f'<pre style="margin:2px 0">{escape(text)}</pre>')
    sample = _sample(array)
    finite = sample[np.isfinite(sample)]
    facts += _range(finite, sampled=sample.size < array.size, lost=sample.size - finite.size)
    if array.ndim >= 2 and min(array.shape[-2:]) > 1:
        return _box(facts, _maps(array))
    return _box(facts, _histogram(finite) if finite.size else "")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Return an escaped HTML table; all columns after the first `words` are right-aligned numbers.

    Examples
    --------
    >>> "&lt;b&gt;" in table(["name"], [["<b>"]])
    True
    """

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(
            f'<{tag} style="text-align:{"left" if position < words else "right"};padding:1px 10px;white-space:pre">'
            f"{escape(cell)}</{tag}>"
            for position, cell in enumerate(cells)
        ) + "</tr>"  # fmt: skip

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', columns)}</thead><tbody>{body}</tbody></table>"


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as text, with every column as wide as its longest cell.

    Examples
    --------
    >>> print(text_table(["name", "hits"], [["mlp", "7"]]))
    name  hits
    mlp   7
    """
    lines = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _box(facts: Sequence[str], inside: str) -> str:
    return f'<div class="labnet-tensor"><div>{" &middot; ".join(facts)}</div>{inside}</div>'


def _range(finite: Array, *, sampled: bool, lost: int) -> list[str]:
    """Return the range of the values as text."""
    words = []
    if finite.size:
        spread = f"{finite.min():.4g} to {finite.max():.4g}, mean {finite.mean():.4g}"
        words.append(f"about {spread}" if sampled else spread)
    if lost:
        words.append(f"<b>{lost:,} not finite</b>" + (" in a sample" if sampled else ""))
    return words


def _sample(array: Array) -> Array:
    """Return an even sample of a few thousand elements at most, as float64."""
    if array.size <= _SAMPLE:
        return array.astype(np.float64).ravel()
    positions = np.linspace(0, array.size - 1, _SAMPLE).astype(np.int64)
    return array[np.unravel_index(positions, array.shape)].astype(np.float64)


def _maps(array: Array) -> str:
    """Draw the first matrices of an array side by side on one colour scale."""
    count = int(np.prod(array.shape[:-2], dtype=np.int64))
    side = _SIDE if count == 1 else _SMALL_SIDE
    places = [np.unravel_index(position, array.shape[:-2]) for position in range(min(count, _MATRICES))]
    matrices = [_thin(array[place], side) for place in places]
    values = np.concatenate([matrix[np.isfinite(matrix)] for matrix in matrices])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if low < 0 < high:
        low, high = -max(-low, high), max(-low, high)  # white is zero
    images = "".join(_image(_colours(matrix, low, high), side) for matrix in matrices)
    more = f" &hellip; {count - len(matrices):,} more" if count > len(matrices) else ""
    return f'<div style="margin:4px 0">{images}{more}</div>'


def _thin(matrix: Array, side: int) -> Array:
    """Return an even sample of at most `side` rows and columns of a matrix."""
    rows, columns = (
        np.unique(np.linspace(0, length - 1, min(length, side)).astype(np.int64)) for length in matrix.shape
    )
    return matrix[np.ix_(rows, columns)].astype(np.float64)


def _colours(matrix: Array, low: float, high: float) -> Array:
    """Return RGB colours: blue over white to red if there are negative values, else white to blue."""
    with np.errstate(all="ignore"):
        share = np.clip(np.nan_to_num((matrix / 2 - low / 2) / ((high / 2 - low / 2) or 1.0)), 0.0, 1.0)[..., None]
    middle, top, bottom = (np.array(colour, dtype=np.float64) for colour in (_MIDDLE, _HIGH, _LOW))
    if low < 0:
        colours = np.where(share < 0.5, bottom + (middle - bottom) * share * 2, top + (middle - top) * (1 - share) * 2)
    else:
        colours = middle + (bottom - middle) * share
    colours[~np.isfinite(matrix)] = _NOT_FINITE
    return colours.astype(np.uint8)


def _image(colours: Array, side: int) -> str:
    """Return an HTML image with embedded data."""
    height, width = colours.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), colours.reshape(height, width * 3)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    scale = max(1, (144 if side == _SIDE else 64) // max(height, width))
    return (
        f'<img alt="map of {height} by {width} values" width="{width * scale}" height="{height * scale}" '
        'style="image-rendering:pixelated;display:inline-block;margin:0 4px 0 0" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )


def _histogram(finite: Array) -> str:
    """Draw a histogram of the values as SVG."""
    with np.errstate(all="ignore"):
        scaled = finite / max(1.0, float(np.abs(finite).max()))  # the range of the largest floats overflows
    counts, _ = np.histogram(scaled, bins=_BARS)
    top = int(counts.max())
    bars = "".join(
        f'<rect x="{position * 6}" y="{40 - height}" width="5" height="{height}"/>'
        for position, height in enumerate(int(np.ceil(40 * count / top)) for count in counts)
    )
    label = f"histogram from {finite.min():.4g} to {finite.max():.4g}"
    return (
        f'<svg width="{_BARS * 6}" height="40" role="img" aria-label="{label}" fill="#2563c9" '
        f'style="margin:4px 0;display:block">{bars}</svg>'
    )
