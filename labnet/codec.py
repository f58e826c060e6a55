"""The safetensors layout: named arrays as bytes, without copies.

A u64 little-endian header length, a JSON header ``{name: {dtype, shape, data_offsets}, "__metadata__": {...}}``
padded with spaces to a multiple of 8, then the row-major buffers without holes. Decoding validates the header before it
reads the data, and never executes anything. This module is independent of tensors and HTTP.
"""

import functools
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from labnet.errors import DTypeError, WireError

#: safetensors' names of the dtypes.
NAMES = {
    "BOOL": np.dtype("bool"),
    "I8": np.dtype("int8"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("uint8"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_NAME_OF = {dtype: name for name, dtype in NAMES.items()}
#: bfloat16 exists in encoded form only: NumPy has no such dtype, and float32 represents every value.
BFLOAT16 = "BF16"
_STORED = {**NAMES, BFLOAT16: np.dtype("<u2")}
_METADATA = "__metadata__"
_MAX_HEADER_BYTES = 1 << 20
_MAX_DIMENSIONS = 64  # NumPy's own limit
_LENGTH = struct.Struct("<Q")
#: Headers up to these sizes, in tensors and in bytes, are cached.
_FEW, _SHORT = 8, 2048

Array = np.ndarray[Any, Any]
Part = bytes | memoryview


def encode(
    arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None, *, bfloat16: bool = False
) -> list[Part]:
    """Encode a message as parts to send in order; array data is not copied.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Arrays in any memory order; non-contiguous ones are copied.
    metadata : mapping of str to str, optional
    bfloat16 : bool
        Whether float32 is rounded to bfloat16, which takes half the bytes.

    Raises
    ------
    DTypeError
        If the layout does not support a dtype.
    WireError
        If an array has the name that the layout reserves.

    Examples
    --------
    >>> parts = encode({"x": np.zeros(2, "float32")}, {"form": "tensor"})
    >>> decode(b"".join(parts))
    ({'x': array([0., 0.], dtype=float32)}, {'form': 'tensor'})
    """
    if _METADATA in arrays:
        raise WireError(f"a tensor cannot be named {_METADATA!r}: the layout keeps that name for metadata")
    stored = [(name, *_stored(name, array, bfloat16=bfloat16)) for name, array in arrays.items()]
    entries = tuple((name, dtype, arrays[name].shape, plain.nbytes) for name, dtype, plain in stored)
    described = tuple((metadata or {}).items())
    make = _known_head if len(entries) + len(described) <= _FEW else _head
    # widest elements first, so that every buffer is aligned to its element size
    plains = [plain for _, _, plain in sorted(stored, key=lambda item: -item[2].dtype.itemsize)]
    return [make(entries, described), *[plain.reshape(-1).view(np.uint8).data for plain in plains if plain.nbytes]]


def _head(entries: tuple[tuple[str, str, tuple[int, ...], int], ...], metadata: tuple[tuple[str, str], ...]) -> bytes:
    """Encode length and header of a message; entries are (name, dtype, shape, bytes)."""
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    header |= {name: None for name, *_ in entries}  # in the given order, independent of the order of buffers
    offset = 0
    for name, dtype, shape, nbytes in sorted(entries, key=lambda entry: -_STORED[entry[1]].itemsize):
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text


#: Cached, because a client repeats the same shapes.
_known_head = functools.lru_cache(256)(_head)


def _stored(name: str, array: Array, *, bfloat16: bool) -> tuple[str, Array]:
    """Return the dtype's name in the layout, and the array in its encoded form."""
    dtype = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    if dtype not in _NAME_OF:
        raise DTypeError(f"dtype {array.dtype} of {name!r:.80} cannot be sent: expected one of {', '.join(NAMES)}")
    plain = np.ascontiguousarray(array, dtype=dtype)
    if bfloat16 and dtype == np.float32:
        return BFLOAT16, to_bfloat16(plain)
    return _NAME_OF[dtype], plain


def decode(
    buffer: bytes | bytearray | memoryview, *, max_header: int = _MAX_HEADER_BYTES
) -> tuple[dict[str, Array], dict[str, str]]:
    """Decode a message; return its arrays, as views of the buffer, and its metadata.

    Raises
    ------
    WireError
        If it is malformed: lengths, JSON, duplicate names, dtypes, shapes, overlaps, holes.
    """
    view = memoryview(buffer)
    if len(view) < _LENGTH.size:
        raise WireError(f"message of {len(view)} bytes is too short: expected at least {_LENGTH.size}")
    (length,) = _LENGTH.unpack_from(view)
    start = _LENGTH.size + length
    if length > max_header or start > len(view):
        raise WireError(f"header of {length} bytes does not fit a message of {len(view)} bytes")
    read = _known_layout if length <= _SHORT else _layout
    names, entries, metadata = read(bytes(view[_LENGTH.size : start]))
    data = view[start:]
    arrays: dict[str, Array] = {}
    end_of_last = 0
    for begin, end, name, dtype, shape in entries:
        if end > len(data):
            raise WireError(f"{name!r:.80} does not fit: it ends at byte {end} of {len(data)}")
        if begin != end_of_last:
            raise WireError(
                f"data of {name!r:.80} begins at byte {begin}: expected {end_of_last}, without holes or overlaps"
            )
        stored = view_of(data[begin:end], _STORED[dtype], shape)
        arrays[name] = from_bfloat16(stored) if dtype == BFLOAT16 else stored
        end_of_last = end
    if end_of_last != len(data):
        raise WireError(f"the tensors take {end_of_last} bytes of data, the message has {len(data)}")
    return {name: arrays[name] for name in names}, dict(metadata)


Layout = tuple[tuple[str, ...], tuple[tuple[int, int, str, str, tuple[int, ...]], ...], tuple[tuple[str, str], ...]]


def _layout(text: bytes) -> Layout:
    """Parse a header; return its names in order, its entries in data order, and its metadata."""
    header = _parse_header(text)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WireError(f"{_METADATA} must map strings to strings")
    entries = tuple(sorted(_entry(name, entry) for name, entry in header.items()))
    return tuple(header), entries, tuple(metadata.items())


#: Cached, because short headers repeat byte for byte.
_known_layout = functools.lru_cache(256)(_layout)


def _parse_header(text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise WireError("a name appears twice in the header")
        return found

    def refuse(constant: str) -> None:
        raise WireError(f"{constant} in the header is not JSON")

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except WireError:
        raise
    except (ValueError, RecursionError) as error:
        raise WireError(f"the header is not JSON: {error!s:.200}") from None
    if not isinstance(header, dict):
        raise WireError(f"the header is a {type(header).__name__}: expected an object")
    return header


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _entry(name: str, entry: Any) -> tuple[int, int, str, str, tuple[int, ...]]:
    """Validate one entry of the header."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise WireError(f"entry {name!r:.80} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _STORED:
        raise WireError(f"dtype {dtype!r:.80} of {name!r:.80} is unknown: expected one of {', '.join(_STORED)}")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise WireError(f"shape of {name!r:.80} must be a list of at most {_MAX_DIMENSIONS} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise WireError(f"data_offsets of {name!r:.80} must be two sizes")
    begin, end = offsets
    # a zero must not hide huge lengths: bound the product of the non-zero lengths
    bound = math.prod(max(length, 1) for length in shape) * _STORED[dtype].itemsize
    if bound >= 1 << 63 or math.prod(shape) * _STORED[dtype].itemsize != end - begin:
        raise WireError(f"{name!r:.80} of shape {tuple(shape)} and dtype {dtype} does not fit bytes {begin} to {end}")
    return begin, end, name, dtype, tuple(shape)


def view_of(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return bytes as an array, without a copy if they are aligned.

    Raises
    ------
    WireError
        If a bool is neither 0 nor 1.

    Examples
    --------
    >>> view_of(memoryview(bytes([1, 0, 2, 0])), np.dtype("<u2"), (2,))
    array([1, 2], dtype=uint16)
    """
    if not len(data):
        return np.empty(shape, dtype)
    array = np.frombuffer(data, dtype)
    if not array.flags.aligned:
        array = array.copy()
    if dtype == np.bool_ and array.view(np.uint8).max() > 1:
        raise WireError("a bool must be the byte 0 or 1")
    return array.reshape(shape)


def to_bfloat16(array: Array) -> Array:
    """Round float32 numbers to bfloat16 bits, to nearest, ties to even; NaN stays NaN.

    Examples
    --------
    >>> [hex(bits) for bits in to_bfloat16(np.array([1.0, -2.0, 1.00390625], "float32"))]
    ['0x3f80', '0xc000', '0x3f80']
    """
    bits = array.view(np.uint32)
    upper = bits >> np.uint32(16)
    with np.errstate(over="ignore"):  # overflows for NaN only, whose sum is not used
        rounded = (bits + (np.uint32(0x7FFF) + (upper & np.uint32(1)))) >> np.uint32(16)
    narrow: Array = np.where(np.isnan(array), upper | np.uint32(0x40), rounded).astype("<u2")
    return narrow


def from_bfloat16(bits: Array) -> Array:
    """Convert bfloat16 bits to float32 numbers, exactly.

    Examples
    --------
    >>> from_bfloat16(np.array([0x3F80, 0xC000], "<u2"))
    array([ 1., -2.], dtype=float32)
    """
    wide = np.left_shift(bits, np.uint32(16), dtype=np.uint32)
    return np.asarray(wide).view(np.float32)
