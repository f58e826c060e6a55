"""Summaries of modules as tables of layers and parameter counts."""

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from labnet.pictures import table

if TYPE_CHECKING:
    from labnet.nn.modules import Module

_ROWS = 40


def describe_module(module: "Module") -> str:
    """Describe a module as HTML: its layers with parameter counts, in a bounded number of rows.

    Examples
    --------
    >>> import labnet as ln
    >>> html = describe_module(ln.nn.Sequential(ln.nn.Linear(64, 10), ln.nn.relu))
    >>> "650 parameters" in html, "Linear(64, 10)" in html, "relu" in html
    (True, True, True)
    """
    parameters = list(module.parameters())
    count, nbytes = sum(tensor.size for tensor in parameters), sum(tensor.nbytes for tensor in parameters)
    head = f"<b>{escape(type(module).__name__)}</b> &middot; {count:,} parameters &middot; {_size(nbytes)}"
    lines = list(_lines(module, depth=0))
    if not lines:
        return f'<div class="labnet-module">{head}</div>'
    rows = lines[:_ROWS]
    if len(lines) > _ROWS:
        rows.append((f"… {len(lines) - _ROWS:,} more", "", "", ""))
    columns = ("name", "layer", "shapes", "parameters")
    return f'<div class="labnet-module">{head}{table(columns, rows, words=3)}</div>'


def _lines(module: "Module", *, depth: int) -> Iterator[tuple[str, str, str, str]]:
    """Iterate over the inner layers, outer ones first; plain functions are layers too."""
    for name, inner in module._parts():
        if not hasattr(inner, "_parts"):
            yield ("  " * depth + name, getattr(inner, "__name__", type(inner).__name__), "", "–")
            continue
        own = inner._parameters.values()
        shapes = ", ".join("×".join(map(str, tensor.shape)) for tensor in own)
        count = sum(tensor.size for tensor in inner.parameters())
        yield (
            "  " * depth + name,
            f"{type(inner).__name__}({inner._describe()})",
            shapes,
            f"{count:,}" if count else "–",
        )
        yield from _lines(inner, depth=depth + 1)


def _size(nbytes: int) -> str:
    """Format a number of bytes.

    Examples
    --------
    >>> _size(12), _size(2600), _size(3 << 20)
    ('12 B', '2.5 KiB', '3.0 MiB')
    """
    if nbytes < 1 << 10:
        return f"{nbytes} B"
    return f"{nbytes / 2**10:.1f} KiB" if nbytes < 1 << 20 else f"{nbytes / 2**20:.1f} MiB"
