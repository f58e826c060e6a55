"""Bodies of requests and replies: conversion between values of handlers and bytes with a content type.

This module is independent of sockets, routes and calls. Nothing from a body is ever executed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from labnet import codec, json_codec, npy
from labnet.errors import DTypeError, ShapeError, WireError
from labnet.tensor import Tensor, on_host, wrap

NATIVE = "application/x-labnet"
JSON = "application/json"
NPY = "application/x-npy"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

#: Content types of tensors, in order of preference.
MESSAGES = (NATIVE, JSON, NPY)
#: Version of the protocol, sent with every message.
PROTOCOL = "1"
#: Name of the tensor in a message of one unnamed tensor.
SINGLE = "tensor"

_LAYOUT = "form"  # the metadata that tells one tensor from several
_ARRAYS = (Tensor, np.ndarray)
_PLAIN = (*_ARRAYS, np.generic)
_SMALL = 1 << 16


class Body:
    """Bytes to send, in parts, with their content type; None for no body.

    Attributes
    ----------
    nbytes : int
        Length in bytes.
    digest : bytes or None
        Digest of the bytes, if it was computed.
    """

    __slots__ = ("content_type", "digest", "nbytes", "parts")

    def __init__(self, content_type: str | None, parts: list[codec.Part]):
        self.content_type = content_type
        self.parts = parts
        self.nbytes = sum(map(len, parts))
        self.digest: bytes | None = None


@dataclass(frozen=True)
class Format:
    """The format of tensors in a reply.

    Attributes
    ----------
    content_type : str
        One of `MESSAGES`.
    bfloat16 : bool
        Whether float32 is rounded to bfloat16, in the native layout.
    """

    content_type: str = NATIVE
    bfloat16: bool = False


@lru_cache(maxsize=64)
def kind_of(content_type: str) -> str:
    """Return the media type of a ``Content-Type`` header, without parameters.

    Examples
    --------
    >>> kind_of("Application/JSON; charset=utf-8")
    'application/json'
    """
    return content_type.partition(";")[0].strip().lower()


@lru_cache(maxsize=64)
def negotiate(accept: str, default: str) -> Format:
    """Choose the format of a reply from the header ``Accept``; `default` wins among equals.

    A header without any of `MESSAGES` selects JSON, for human readers.

    Examples
    --------
    >>> negotiate("application/json;q=0.5, application/x-npy", NATIVE).content_type
    'application/x-npy'
    >>> negotiate("*/*", NATIVE).content_type
    'application/x-labnet'
    >>> negotiate("application/x-labnet;floats=bfloat16", JSON)
    Format(content_type='application/x-labnet', bfloat16=True)
    """
    if not accept:
        return Format(default)
    ranges = [_media_range(text) for text in (accept.strip() or "*/*").split(",")]
    candidates = sorted(MESSAGES, key=lambda kind: kind != default)

    def quality(kind: str) -> float:
        for pattern in (kind, "application/*", "*/*"):
            for name, parameters in ranges:
                if name == pattern:
                    return _quality(parameters.get("q", "1"))
        return 0.0

    best = max(candidates, key=quality)
    if not quality(best):
        return Format(JSON)
    narrow = any(name == NATIVE and given.get("floats") == "bfloat16" for name, given in ranges)
    return Format(best, bfloat16=narrow and best == NATIVE)


def _media_range(text: str) -> tuple[str, dict[str, str]]:
    name, *parameters = text.lower().split(";")
    pairs = [parameter.partition("=") for parameter in parameters]
    return name.strip(), {key.strip(): value.strip() for key, _, value in pairs}


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0


def in_one_piece(parts: Sequence[codec.Part]) -> tuple[bytes, Sequence[codec.Part]]:
    """Split a body into a first piece to send with the headers, and large parts to send separately.

    Examples
    --------
    >>> in_one_piece([b"ab", b"c"])
    (b'abc', ())
    """
    if sum(map(len, parts)) <= _SMALL:
        return b"".join(parts), ()
    return b"", parts


@dataclass(frozen=True)
class Message:
    """Tensors by name, with metadata; `named` distinguishes a dict of tensors from a single one."""

    tensors: dict[str, Tensor]
    named: bool = False
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def value(self) -> Any:
        """The value of the message: a tensor, a dict of tensors, or None."""
        if self.named:
            return self.tensors
        return self.tensors.get(SINGLE)


def message_of(value: Any, **metadata: str) -> Message:
    """Make a message from a tensor or a dict of tensors.

    Raises
    ------
    DTypeError
        If it is neither.

    Examples
    --------
    >>> import labnet as ln
    >>> message_of(ln.ones(2)).value.tolist()
    [1.0, 1.0]
    """
    if isinstance(value, dict):
        tensors = {str(name): item if isinstance(item, Tensor) else Tensor(item) for name, item in value.items()}
        return Message(tensors, named=True, metadata=metadata)
    return Message({SINGLE: value if isinstance(value, Tensor) else Tensor(value)}, metadata=metadata)


def encode_native(message: Message, *, bfloat16: bool = False) -> Body:
    """Encode tensors in the safetensors layout; with `bfloat16`, round float32 to it."""
    metadata = {**message.metadata, _LAYOUT: "dict" if message.named else "tensor"}
    arrays = {name: on_host(tensor) for name, tensor in message.tensors.items()}
    return Body(NATIVE, codec.encode(arrays, metadata, bfloat16=bfloat16))


def decode_native(buffer: bytes | bytearray | memoryview) -> Message:
    """Decode a body in the safetensors layout.

    Raises
    ------
    WireError
        If it is malformed.
    """
    arrays, metadata = codec.decode(buffer)
    named = metadata.pop(_LAYOUT, "dict" if arrays.keys() - {SINGLE} else "tensor") == "dict"
    if not named and arrays.keys() - {SINGLE}:
        raise WireError(f"a message of form 'tensor' holds one tensor named {SINGLE!r}, got {sorted(arrays)}")
    return Message({name: wrap(array) for name, array in arrays.items()}, named, metadata)


def decode_json(buffer: bytes | bytearray | memoryview) -> Message:
    """Decode nested lists, or an object of nested lists, as tensors.

    Raises
    ------
    WireError
        If it is not JSON, or not numbers of float32's range in rows of equal length.

    Examples
    --------
    >>> decode_json(b"[[1, 2.5]]").value
    Tensor([[1. , 2.5]], dtype=float32)
    """
    data = decode_data(buffer, arrays=True)
    try:
        with np.errstate(over="raise"):
            return message_of(data)
    except (ShapeError, DTypeError, FloatingPointError) as error:
        raise WireError(f"the JSON body is not a tensor: {error}") from None


def decode_data(buffer: bytes | bytearray | memoryview, *, arrays: bool = False) -> Any:
    """Decode JSON data; with `arrays`, long lists of numbers may be arrays, see `json_codec.decode`.

    Raises
    ------
    WireError
        If it is not JSON.
    """
    try:
        return json_codec.decode(buffer, arrays=arrays)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"the body is not JSON: {error}") from None


def decode_npy(buffer: bytes | bytearray | memoryview) -> Message:
    """Decode an array in NumPy's file format.

    Raises
    ------
    WireError
        If it is malformed.
    """
    return Message({SINGLE: wrap(npy.decode(buffer))})


def encode_npy(value: Any) -> Body:
    """Encode one tensor in NumPy's file format.

    Raises
    ------
    DTypeError
        If there are several tensors, or the format does not support their dtype.
    """
    if isinstance(value, dict):
        raise DTypeError(
            f"{NPY} holds one tensor, the reply has {len(value)}: {sorted(value)}; accept {NATIVE} or {JSON}"
        )
    return Body(NPY, npy.encode(np.asarray(value)))


def decode_message(content_type: str, buffer: bytes | bytearray | memoryview) -> Message:
    """Decode the tensors of a request by its content type, one of `MESSAGES`.

    Raises
    ------
    WireError
        If the body does not fit it.

    Examples
    --------
    >>> decode_message("application/json", b"[1, 2]").value.tolist()
    [1, 2]
    """
    return _DECODERS[content_type](buffer)


_DECODERS = {NATIVE: decode_native, JSON: decode_json, NPY: decode_npy}


def encode_json(value: Any) -> Body:
    """Encode JSON-able data; tensors become nested lists, NaN and infinity null.

    Raises
    ------
    DTypeError
        If a value cannot be encoded as JSON.
    """
    try:
        parts = json_codec.encode(value, hook=_plain, types=_ARRAYS, array_of=on_host)
        return Body(JSON, list(parts))
    except (TypeError, RecursionError) as error:
        raise DTypeError(f"cannot be sent as JSON: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r:.80}")


def encode_value(value: Any, form: Format, **metadata: str) -> Body:
    """Encode the result of a handler: tensors, JSON-able data, text, bytes or None.

    Parameters
    ----------
    form : Format
        Format of tensors; other values have a fixed format.

    Raises
    ------
    DTypeError
        If the value cannot be encoded in that format.

    Examples
    --------
    >>> import labnet as ln
    >>> encode_value(ln.ones(2), Format(JSON)).parts
    [b'[1.0,1.0]']
    """
    if form.content_type == NATIVE and isinstance(value, Tensor):
        return encode_native(message_of(value, **metadata), bfloat16=form.bfloat16)
    if value is None:
        return Body(None, [])
    if isinstance(value, str):
        return Body(TEXT, [value.encode()])
    if isinstance(value, bytes | bytearray | memoryview):
        return Body(BYTES, [bytes(value)])
    if form.content_type == JSON or not is_tensors(value):
        return encode_json(value)
    if form.content_type == NPY:
        return encode_npy(value)
    return encode_native(message_of(value, **metadata), bfloat16=form.bfloat16)


def is_tensors(value: Any) -> bool:
    """Return whether a value is a tensor, an array, or a dict of these."""
    if isinstance(value, dict):
        return bool(value) and all(isinstance(item, _ARRAYS) for item in value.values())
    return isinstance(value, _ARRAYS)


def is_long(value: Any, form: Format | None = None) -> bool:
    """Return whether encoding a value takes so long that it should not block an event loop.

    Parameters
    ----------
    form : Format, optional
        Format of tensors; by default, one that converts every element.
    """
    if form is not None and form.content_type != JSON and not form.bfloat16 and is_tensors(value):
        return False
    return json_codec.is_long(value, _ARRAYS)


def decode_value(content_type: str, buffer: bytes | bytearray | memoryview) -> Any:
    """Decode a reply: a message of tensors, JSON data, text or bytes.

    Raises
    ------
    WireError
        If the body does not fit its content type.
    """
    kind = kind_of(content_type)
    if kind == NATIVE:
        return decode_native(buffer)
    if kind == NPY:
        return decode_npy(buffer)
    if kind == JSON:
        return decode_data(buffer)
    if kind.startswith("text/"):
        return bytes(buffer).decode("utf-8", "replace")
    return bytes(buffer)
