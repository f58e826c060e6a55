"""The readable form of a tensor: nested brackets, a colon and the dtype, as in ``[[1.0, 2.0]]:float32``.

Every element has as many digits as are needed to read it back exactly. If the brackets of an empty tensor do not
determine its shape, a second colon and the shape follow: ``[]:float32:0x3``.
"""

import math
import re
from collections.abc import Callable, Iterator

import numpy as np

from labnet.errors import DTypeError, ShapeError, WireError
from labnet.tensor import Tensor, as_dtype, on_host, wrap

_TEXT = re.compile(r"(?P<values>[^:]*)(?::\s*(?P<dtype>\w+)\s*)?(?::\s*(?P<shape>\d+(?:x\d+)*)\s*)?", re.ASCII)
_TOKEN = re.compile(r"[\[\],]|[^\s\[\],]+")
_BOOLEAN = re.compile("true|false")
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf|nan)", re.ASCII | re.IGNORECASE)
#: For each kind of dtype: name, pattern and conversion of an element.
_ELEMENTS: dict[str, tuple[str, re.Pattern[str], Callable[[str], float]]] = {
    "b": ("true or false", _BOOLEAN, "true".__eq__),
    "i": ("an integer", _INTEGER, int),
    "u": ("an integer", _INTEGER, int),
    "f": ("a number", _NUMBER, float),
}
_MOST_DIMENSIONS = 64  # NumPy's own limit


def format(tensor: Tensor) -> str:
    """Format a tensor as text that `parse` reads back exactly.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.io.format(ln.asarray([[1, 2], [3, 4]]))
    '[[1, 2], [3, 4]]:int64'
    >>> ln.io.format(ln.asarray(0.1)), ln.io.format(ln.zeros((0, 3)))
    ('0.1:float32', '[]:float32:0x3')
    """
    array = on_host(tensor)
    elements = iter([str(element) for element in array.flat])
    text = f"{_nested(elements, array.shape)}:{array.dtype.name}"
    hidden = 0 in array.shape[:-1]
    return (
        (f"{text}:{'x'.join(map(str, array.shape))}" if hidden else text)
        .replace("True", "true")
        .replace("False", "false")
    )


def _nested(elements: Iterator[str], shape: tuple[int, ...]) -> str:
    if not shape:
        return next(elements)
    return f"[{', '.join(_nested(elements, shape[1:]) for _ in range(shape[0]))}]"


def parse(text: str) -> Tensor:
    """Parse a tensor from its readable form.

    Parameters
    ----------
    text : str
        Numbers in nested brackets, then optionally a colon and a dtype, in letters of any case. Without a dtype,
        integers become int64, other numbers float32, and ``true`` and ``false`` bool.

    Raises
    ------
    WireError
        If brackets, commas or an element cannot be read.
    ShapeError
        If rows differ in length or depth, or do not fit the shape.
    DTypeError
        If there is no such dtype, or an element does not fit it.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.io.parse("[[1, 2]]:float32")
    Tensor([[1., 2.]], dtype=float32)
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise WireError(f"parse: expected VALUES:DTYPE, such as '[[1, 2]]:float32', got {text!r:.80}")
    elements, shape = _read(match["values"])
    if match["shape"] is not None:
        given = tuple(int(length) for length in match["shape"].split("x"))
        if given[: len(shape)] != shape or math.prod(given) != len(elements) or not _possible(given):
            raise ShapeError(f"parse: values of shape {shape} do not fit the shape {given}")
        shape = given
    return wrap(_convert(elements, match["dtype"]).reshape(shape))


def _possible(shape: tuple[int, ...]) -> bool:
    """Return whether an array can have this shape."""
    try:
        np.broadcast_to(np.empty((), "uint8"), shape)
    except ValueError:
        return False
    return True


def _read(values: str) -> tuple[list[str], tuple[int, ...]]:
    """Parse nested brackets into elements and shape."""
    elements: list[str] = []
    lengths: list[int | None] = []  # of the rows at each depth, after the first one is complete
    counts: list[int] = []  # lengths of the open rows so far
    before = ""
    for match in _TOKEN.finditer(values):
        token = match.group()
        expected = "a value" if before in ("[", ",", "") else "a comma or bracket"
        wrong = WireError(f"parse: expected {expected} at position {match.start()}, got {token!r:.20}")
        closed = before not in ("[", ",", "")
        if token == "]":
            if not counts or before == ",":
                raise wrong
            depth, length = len(counts), counts.pop()
            known = lengths[depth - 1]
            if known is not None and known != length:
                raise ShapeError(f"parse: rows of {known} and of {length} elements at depth {depth}")
            lengths[depth - 1] = length
        elif token == ",":
            if not counts or not closed:
                raise wrong
        elif closed:
            raise wrong
        else:
            if counts:
                counts[-1] += 1
            if token == "[":
                counts.append(0)
                if len(counts) > len(lengths):
                    if elements or len(counts) > _MOST_DIMENSIONS:
                        raise ShapeError(f"parse: a row at depth {len(counts)}, where elements are expected")
                    lengths.append(None)
            else:
                if len(counts) != len(lengths):
                    raise ShapeError(f"parse: element {token!r:.20} at depth {len(counts)}, others at {len(lengths)}")
                elements.append(token)
        before = token
    if counts or before in ("", ","):
        raise WireError(f"parse: the text ends with {len(counts)} open brackets: {values[-20:]!r}")
    return elements, tuple(length or 0 for length in lengths)


def _convert(elements: list[str], dtype: str | None) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    lowered = [element.lower() for element in elements]
    if dtype is None:
        if elements and all(map(_BOOLEAN.fullmatch, lowered)):
            dtype = "bool"
        else:
            dtype = "int64" if elements and all(map(_INTEGER.fullmatch, elements)) else "float32"
    wanted = as_dtype(dtype.lower())
    words, pattern, convert = _ELEMENTS[wanted.kind]
    for element in lowered:
        if not pattern.fullmatch(element):
            raise DTypeError(f"parse: expected {words} for {wanted}, got {element!r:.40}")
    try:
        with np.errstate(over="ignore"):
            return np.array([convert(element) for element in lowered], wanted)
    except OverflowError as error:
        raise DTypeError(f"parse: an element does not fit {wanted}: {error}") from None
