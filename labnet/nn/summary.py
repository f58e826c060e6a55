"""Summaries of modules as tables of layers and parameter counts."""

from collections.abc import Iterable
from html import escape

from labnet.pictures import table
from labnet.tensor import Tensor

#: A layer: indented name, kind, shapes of its own parameters, parameter count.
Row = tuple[str, str, str, str]

_ROWS = 40


def summary_html(kind: str, parameters: Iterable[Tensor], layers: Iterable[Row]) -> str:
    """Return the HTML of a module: its layers with parameter counts, in a bounded number of rows.

    Parameters
    ----------
    kind : str
        Name of the module's class.
    parameters : iterable of Tensor
        All parameters of the module, each once.
    layers : iterable of Row
        The inner layers, outer ones first.

    Examples
    --------
    >>> import labnet as ln
    >>> html = ln.nn.Sequential(ln.nn.Linear(64, 10), ln.nn.relu)._repr_html_()
    >>> "650 parameters" in html, "Linear(64, 10)" in html, "relu" in html
    (True, True, True)
    """
    counted = list(parameters)
    count, nbytes = sum(tensor.size for tensor in counted), sum(tensor.nbytes for tensor in counted)
    head = f"<b>{escape(kind)}</b> &middot; {count:,} parameters &middot; {_size(nbytes)}"
    lines = list(layers)
    if not lines:
        return f'<div class="labnet-module">{head}</div>'
    rows = lines[:_ROWS]
    if len(lines) > _ROWS:
        rows.append((f"… {len(lines) - _ROWS:,} more", "", "", ""))
    columns = ("name", "layer", "shapes", "parameters")
    return f'<div class="labnet-module">{head}{table(columns, rows, words=3)}</div>'


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
