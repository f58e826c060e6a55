"""NumPy's own file format, ``.npy``: one array as bytes.

NumPy writes the header. Its reader would evaluate a literal of any kind and warn of old spellings, so headers are read
here: bounded, and matched by a pattern of NumPy's exact output. Objects, records, text and complex numbers are refused.
This module is independent of tensors and HTTP.
"""

import io
import math
import re
import struct
from typing import Any

import numpy as np
from numpy.lib import format as numpy_format

from labnet.codec import Array, Part, view_of
from labnet.errors import DTypeError, WireError

_MAGIC = numpy_format.MAGIC_PREFIX
_MAX_HEADER_BYTES = 10_000  # NumPy's own limit
_MAX_DIMENSIONS = 64
_LENGTHS = {(1, 0): struct.Struct("<H"), (2, 0): struct.Struct("<I"), (3, 0): struct.Struct("<I")}
_DTYPES = {name: np.dtype(name) for name in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")}
_ITEM = re.compile(
    r" *'(?P<key>descr|fortran_order|shape)' *: *"
    r"(?:'(?P<descr>[<>|][a-z]\d{1,2})'|(?P<order>True|False)|\((?P<shape>[0-9, ]*)\)) *(?:,|(?=\}))",
    re.ASCII,
)
_SHAPE = re.compile(r"(?:\d{1,19}, ?)*(?:\d{1,19})?", re.ASCII)
_KIND = {"descr": "descr", "fortran_order": "order", "shape": "shape"}


def encode(array: Array) -> list[Part]:
    """Encode an array as parts of a file; C-contiguous data is not copied.

    Raises
    ------
    DTypeError
        If the format has no portable name for its dtype.

    Examples
    --------
    >>> import io
    >>> np.load(io.BytesIO(b"".join(encode(np.arange(3, dtype="int8")))), allow_pickle=False)
    array([0, 1, 2], dtype=int8)
    """
    if f"{array.dtype.kind}{array.dtype.itemsize}" not in _DTYPES:
        raise DTypeError(f"dtype {array.dtype} cannot be sent as .npy: expected bool, a real integer or float")
    plain = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    header = io.BytesIO()
    numpy_format.write_array_header_1_0(header, numpy_format.header_data_from_array_1_0(plain))
    parts: list[Part] = [header.getvalue()]
    if plain.nbytes:
        parts.append(plain.reshape(-1).view(np.uint8).data)
    return parts


def decode(buffer: bytes | bytearray | memoryview) -> Array:
    """Decode the array of a file, as a view of the buffer if its byte order allows it.

    Raises
    ------
    WireError
        If the file is malformed or does not contain plain numbers.
    """
    view = memoryview(buffer)
    version = tuple(view[len(_MAGIC) : len(_MAGIC) + 2])
    if bytes(view[: len(_MAGIC)]) != _MAGIC or version not in _LENGTHS:
        raise WireError(
            f"the body is not .npy of version 1.0, 2.0 or 3.0: it begins with {bytes(view[:8])!r}, "
            f"expected {_MAGIC!r} and the version"
        )
    size, start = _LENGTHS[version], len(_MAGIC) + 2
    if len(view) < start + size.size:
        raise WireError(f"the .npy body of {len(view)} bytes ends in its header")
    (length,) = size.unpack_from(view, start)
    end = start + size.size + length
    if length > _MAX_HEADER_BYTES or end > len(view):
        raise WireError(
            f"the .npy header of {length} bytes does not fit: at most {_MAX_HEADER_BYTES} are read, "
            f"and the body has {len(view)} bytes"
        )
    dtype, fortran, shape = _parse(bytes(view[start + size.size : end]))
    return _array(view[end:], dtype, fortran, shape)


def _parse(header: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    """Parse dtype, order and shape from a header, which must match NumPy's for plain numbers."""
    text = header.decode("latin-1").strip(" \n")
    found: dict[str, str] = {}
    position = 1
    while text.startswith("{") and (match := _ITEM.match(text, position)):
        key = match["key"]
        value = match[_KIND[key]]
        if value is None or key in found:
            break
        found[key], position = value, match.end()
    if found.keys() != _KIND.keys() or text[position:].strip(" ") != "}":
        raise WireError(
            f"the .npy header is {text!r:.120}: expected "
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } with a plain dtype"
        )
    return _dtype(found["descr"]), found["fortran_order"] == "True", _shape(found["shape"].strip())


def _dtype(text: str) -> np.dtype[Any]:
    dtype = _DTYPES.get(text[1:])
    if dtype is None or (text[0] == "|" and dtype.itemsize > 1):
        raise WireError(f"dtype {text!r} of the .npy body is not accepted: expected one of {', '.join(_DTYPES)}")
    return dtype.newbyteorder(">" if text[0] == ">" else "<")


def _shape(text: str) -> tuple[int, ...]:
    numbers = [part for part in text.replace(" ", "").split(",") if part]
    single = len(numbers) == 1 and not text.endswith(",")  # (3) is no tuple in Python
    if not _SHAPE.fullmatch(text) or single or len(numbers) > _MAX_DIMENSIONS:
        raise WireError(f"shape ({text:.80}) of the .npy body is not a tuple of at most {_MAX_DIMENSIONS} sizes")
    return tuple(map(int, numbers))


def _array(data: memoryview, dtype: np.dtype[Any], fortran: bool, shape: tuple[int, ...]) -> Array:
    bound = math.prod(max(length, 1) for length in shape) * dtype.itemsize
    expected = math.prod(shape) * dtype.itemsize
    if bound >= 1 << 63 or expected != len(data):
        raise WireError(f"shape {shape} and dtype {dtype} take {expected} bytes of data: the .npy body has {len(data)}")
    array = view_of(data, dtype, shape[::-1] if fortran else shape)
    return (array.T if fortran else array).astype(dtype.newbyteorder("="), copy=False)
