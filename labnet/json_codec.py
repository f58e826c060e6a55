"""JSON in pieces, so that no single call blocks all threads for long.

`decode` and `encode` give what msgspec's give, and split long lists of numbers. A text that cannot be split is decoded
in one call, which also reports its errors. This module is independent of tensors and HTTP.
"""

import contextlib
import itertools
import math
import operator
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

Array = np.ndarray[Any, Any]
Buffer = bytes | bytearray | memoryview

#: Shorter texts are decoded in one call, in bytes.
LARGE = 1 << 16
#: Size of a piece: bytes of text, and numbers.
_PIECE = 1 << 18
_NUMBERS = 1 << 15
#: How many numbers a list counts as: the garbage collector looks at lists.
_PER_LIST = 8
_MAX_DIMENSIONS = 64  # NumPy's own limit
_OPEN, _CLOSE, _COMMA = b"[],"
_OTHERS = (b'"', b"{", b"}")
_SCALARS = frozenset({int, float, bool, type(None)})
_EXACT = {np.dtype(bool), np.dtype(np.int64), np.dtype(np.float64)}


class _Whole(Exception):
    """The text cannot be decoded in pieces."""


def decode(buffer: Buffer, *, arrays: bool = False) -> Any:
    """Decode JSON.

    Parameters
    ----------
    arrays : bool
        Whether a text that is a long list of numbers, or an object of them, may be decoded as arrays: float32 if any
        number is a float, else int64 or bool.

    Raises
    ------
    msgspec.DecodeError, RecursionError, UnicodeDecodeError
        If it is not JSON.

    Examples
    --------
    >>> decode(b'{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """
    if len(buffer) > LARGE:
        unsplittable = (_Whole, ValueError, TypeError, IndexError, OverflowError, RecursionError, msgspec.DecodeError)
        with contextlib.suppress(*unsplittable, FloatingPointError):
            return _in_pieces(memoryview(buffer), arrays=arrays)
    return msgspec.json.decode(buffer)


def _in_pieces(view: memoryview, *, arrays: bool) -> Any:
    """Decode long lists in pieces, and the rest of the text with placeholders for them."""
    mark = secrets.token_hex(16)
    found: list[Any] = []
    rest: list[Buffer] = []
    done = 0
    for start, end in _spans(view):
        while end - start > LARGE:
            opening = _find_list(view, start, end)
            made = _Numbers() if arrays else _Lists()
            start = opening
            for piece, text, depth in _pieces(view, opening, end):
                made.add(piece, text, depth)
                start += len(text) + bool(depth)  # and the comma before it
            if start - opening < LARGE // 2:
                raise _Whole
            rest += [view[done:opening], f'["{mark}",{len(found)}]'.encode()]
            found.append(made.value())
            done = start
    if not found:
        raise _Whole
    decoded = msgspec.json.decode(b"".join([*rest, view[done:]]))
    if not arrays:
        return _restored(decoded, mark, found)
    values = decoded if isinstance(decoded, dict) else {mark: decoded}
    places = {name: value[1] for name, value in values.items() if _is_placeholder(value, mark)}
    if len(places) < len(found):  # some are deeper
        raise _Whole
    values |= {name: found[place] for name, place in places.items()}
    return values if values is decoded else values[mark]


def _is_placeholder(value: Any, mark: str) -> bool:
    return type(value) is list and len(value) == 2 and value[0] == mark


def _restored(value: Any, mark: str, found: list[Any]) -> Any:
    """Put the decoded lists in the places of their placeholders."""
    if _is_placeholder(value, mark):
        return found[value[1]]
    if type(value) is list:
        return [_restored(item, mark, found) for item in value]
    if type(value) is dict:
        return {name: _restored(item, mark, found) for name, item in value.items()}
    return value


def _spans(view: memoryview) -> Iterator[tuple[int, int]]:
    """Find the long spans of a text without strings and objects."""
    begin = 0
    for at in range(0, len(view), LARGE):
        window = bytes(view[at : at + LARGE])
        marks = [position for other in _OTHERS if (position := window.find(other)) >= 0]
        if marks:
            if at + min(marks) - begin > LARGE:
                yield begin, at + min(marks)
            begin = at + max(map(window.rfind, _OTHERS)) + 1
    if len(view) - begin > LARGE:
        yield begin, len(view)


def _find_list(view: memoryview, start: int, end: int) -> int:
    for at in range(start, end, LARGE):
        position = bytes(view[at : min(at + LARGE, end)]).find(b"[")
        if position >= 0:
            return at + position
    raise _Whole


def _pieces(view: memoryview, start: int, end: int) -> Iterator[tuple[list[Any], bytes, int]]:
    """Cut a list at commas into lists that are decoded alone.

    Yield the value of each piece, its text, and how many lists are open before the text.
    """
    at, depth, ends = start, 0, False
    while not ends:
        text = bytes(view[at : min(at + _PIECE, end)])
        stop = _closing(text, depth)
        ends = stop >= 0
        if not ends and at + len(text) == end:
            raise _Whole
        text = text[: stop if ends else max(text.rfind(b","), 0)]
        after = depth + _count(text, _OPEN) - _count(text, _CLOSE)
        plain = text.strip()
        # next to a cut, the added brackets would make a list without elements of a missing one
        if not plain or plain.startswith(b"]") or plain.endswith(b"[") or not 0 <= after <= _MAX_DIMENSIONS:
            raise _Whole
        yield msgspec.json.decode(b"[" * depth + text + b"]" * after), text, depth
        at += len(text) + 1
        depth = after


def _count(text: bytes, character: int) -> int:
    """Count a frequent character, for which this is faster than `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == character))


def _closing(text: bytes, depth: int) -> int:
    """Return the end of the list of which `depth` brackets are open before a text; -1 if it does not end there."""
    if _count(text, _CLOSE) < max(depth, 1):
        return -1
    characters = np.frombuffer(text, np.uint8)
    steps = (characters == _OPEN).astype(np.int8) - (characters == _CLOSE).astype(np.int8)
    ends = np.flatnonzero(np.cumsum(steps, dtype=np.int32) == -depth)
    closing = ends[steps[ends] < 0] if len(ends) else ends
    return int(closing[0]) + 1 if len(closing) else -1


class _Lists:
    """A list of anything, put together from its pieces."""

    def __init__(self) -> None:
        self._value: list[Any] = []

    def add(self, piece: list[Any], text: bytes, depth: int) -> None:
        """Append a piece, whose first elements continue the lists that are open."""
        into = self._value
        for _ in range(depth - 1):
            deeper, first = into[-1], piece[0]
            into.extend(piece[1:])
            into, piece = deeper, first
        into.extend(piece)

    def value(self) -> list[Any]:
        """Return the list."""
        return self._value


class _Numbers:
    """A list of numbers in rows of equal length, as an array."""

    def __init__(self) -> None:
        self._parts: list[Array] = []
        self._count = self._ndim = 0
        #: For each opening bracket, the index of the number that follows.
        self._openings: list[Array] = []

    def add(self, piece: list[Any], text: bytes, depth: int) -> None:
        """Append a piece."""
        if not depth:
            first: Any = piece
            while type(first) is list:
                first = first[0]
                self._ndim += 1
        for _ in range(self._ndim - 1):
            piece = list(itertools.chain.from_iterable(piece))
        numbers = np.asarray(piece)
        if numbers.ndim != 1 or numbers.dtype not in _EXACT or len(numbers) != _count(text, _COMMA) + 1:
            raise _Whole
        if b"[" in text:
            characters = np.frombuffer(text, np.uint8)
            commas, openings = np.flatnonzero(characters == _COMMA), np.flatnonzero(characters == _OPEN)
            self._openings.append(np.searchsorted(commas, openings) + self._count)
        self._parts.append(numbers)
        self._count += len(numbers)

    def value(self) -> Array:
        """Return the array."""
        shape = self._shape()
        if any(part.dtype == np.float64 for part in self._parts):
            with np.errstate(over="raise"):
                parts = [part.astype(np.float64, copy=False).astype(np.float32) for part in self._parts]
        else:
            parts = self._parts
        return np.concatenate(parts).reshape(shape)

    def _shape(self) -> tuple[int, ...]:
        """Return the shape, after checking that all rows are of equal length."""
        count, ndim, openings = self._count, self._ndim, np.concatenate(self._openings)
        inner = openings[ndim:]
        sizes = [1]  # of a number, a row, a matrix and so on
        for level in range(1, ndim):
            starts = inner[: len(inner) - level + 1]
            together = np.flatnonzero(starts == inner[level - 1 :])  # where so many lists begin at once
            sizes.append(int(starts[together[0]]) if len(together) else count)
        sizes.append(count)
        shape = tuple(longer // shorter for shorter, longer in itertools.pairwise(sizes))
        expected = [np.zeros(ndim, np.int64), *(np.arange(size, count, size) for size in sizes[1:-1])]
        if math.prod(shape) != count or not np.array_equal(openings, np.sort(np.concatenate(expected))):
            raise _Whole
        return shape[::-1]


def encode(
    value: Any,
    *,
    hook: Callable[[Any], Any],
    types: tuple[type, ...] = (),
    array_of: Callable[[Any], Array] = np.asarray,
) -> list[bytes]:
    """Encode a value as parts of a JSON text.

    Parameters
    ----------
    hook : callable
        Converts values that msgspec does not encode.
    types : tuple of type, optional
        Types of values that are encoded as nested lists; they have a ``shape``.
    array_of : callable, optional
        Returns the array of a value of these types.

    Raises
    ------
    TypeError, RecursionError
        If a value cannot be encoded.

    Examples
    --------
    >>> encode([1, None], hook=repr)
    [b'[1,null]']
    """
    joined: list[bytes] = []
    short: list[bytes] = []
    for part in _Encoder(hook, types, array_of).parts(value):
        short.append(part)
        if len(part) > LARGE:
            joined.append(b"".join(short))
            short = []
    return [*joined, b"".join(short)] if short else joined


def is_long(value: Any, types: tuple[type, ...] = ()) -> bool:
    """Return whether encoding a value takes about as long as a text of `LARGE` bytes.

    Examples
    --------
    >>> is_long([1, 2]), is_long([[1]] * 10_000)
    (False, True)
    """
    return _size([value], types) > _NUMBERS // 8


class _Encoder:
    """Encodes long lists and arrays in pieces."""

    def __init__(self, hook: Callable[[Any], Any], types: tuple[type, ...], array_of: Callable[[Any], Array]):
        self._types, self._array_of = types, array_of
        self._text = msgspec.json.Encoder(enc_hook=hook).encode

    def parts(self, value: Any, depth: int = _MAX_DIMENSIONS) -> Iterator[bytes]:
        """Encode a value."""
        kind = type(value)
        if not depth or _size([value], self._types) <= _NUMBERS:
            yield self._text(value)
        elif isinstance(value, self._types):
            yield from self._of_array(self._array_of(value))
        elif kind is dict:
            names = iter(value)
            groups = self._groups(list(value.values()))
            yield from _enclosed(b"{}", (self._of_entries(names, group, depth - 1) for group in groups))
        elif kind in (list, tuple):
            yield from _enclosed(b"[]", (self._of_items(group, depth - 1) for group in self._groups(value)))
        else:
            yield self._text(value)

    def _of_array(self, array: Array) -> Iterator[bytes]:
        lengths = [max(size, 1) for size in array.shape[1:]]
        lists = sum(itertools.accumulate(lengths[:-1], operator.mul, initial=1)) if lengths else 0  # in a row
        rows = max(_NUMBERS // (math.prod(lengths) + _PER_LIST * lists), 1)
        if len(array) <= rows and (rows > 1 or array.ndim == 1):
            yield self._text(array.tolist())
        elif rows > 1 or array.ndim == 1:
            pieces = (array[start : start + rows] for start in range(0, len(array), rows))
            yield from _enclosed(b"[]", ([self._text(piece.tolist())[1:-1]] for piece in pieces))
        else:
            yield from _enclosed(b"[]", map(self._of_array, array))

    def _of_items(self, items: Sequence[Any], depth: int) -> Iterator[bytes]:
        if len(items) == 1:
            return self.parts(items[0], depth)
        return iter([self._text(items)[1:-1]])

    def _of_entries(self, names: Iterator[Any], values: Sequence[Any], depth: int) -> Iterator[bytes]:
        entries = dict(zip(itertools.islice(names, len(values)), values, strict=True))
        if len(entries) > 1:
            return iter([self._text(entries)[1:-1]])
        (name,) = entries
        return itertools.chain([self._text({name: None})[1:-5]], self.parts(values[0], depth))

    def _groups(self, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Split values so that each group is short, or one value."""
        for start in range(0, len(values), _NUMBERS):
            left = [values[start : start + _NUMBERS]]
            while left:
                group = left.pop()
                if len(group) == 1 or _size(group, self._types) <= _NUMBERS:
                    yield group
                else:
                    left += [group[len(group) // 2 :], group[: len(group) // 2]]


def _size(values: Any, types: tuple[type, ...], depth: int = _MAX_DIMENSIONS) -> int:
    """Estimate how many numbers take as long to encode as some values, up to the size of a piece."""
    total = len(values)
    kinds = set(map(type, values))
    for kind in kinds - _SCALARS:
        chosen: Any = values if len(kinds) == 1 else [value for value in values if type(value) is kind]
        if kind in (list, tuple, dict):
            total += sum(map(len, chosen))
            if total > _NUMBERS or not depth:
                break
            inner = [item.values() for item in chosen] if kind is dict else chosen
            total += _size(list(itertools.chain.from_iterable(inner)), types, depth - 1)
        elif kind in (str, bytes):
            total += sum(map(len, chosen)) // 16
        elif issubclass(kind, types):
            total += sum(value.size or math.prod(max(size, 1) for size in value.shape) for value in chosen)
    return total


def _enclosed(brackets: bytes, entries: Any) -> Iterator[bytes]:
    """Separate entries, which are iterables of parts, by commas."""
    head = brackets[:1]
    for entry in entries:
        for part in entry:
            yield head + part
            head = b""
        head = b","
    yield (head if head == brackets[:1] else b"") + brackets[1:]
