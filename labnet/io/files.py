"""Tensors in files and as bytes.

Files are in the safetensors format: named tensors and text metadata, never code. They are replaced atomically.
"""

import base64 as base64_
import binascii
import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from labnet import codec
from labnet.atomic_files import flush_directory, replace_file
from labnet.errors import WireError
from labnet.tensor import Tensor, on_host, wrap

Place = str | os.PathLike[str]
_ONLY = "tensor"
#: The limit of the safetensors library.
_MAX_HEADER_BYTES = 100_000_000

# Files


def save(path: Place, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors to a safetensors file, atomically.

    Parameters
    ----------
    path : str or path
    tensors : mapping of str to tensor or array
        Such as ``module.state_dict()``.
    metadata : mapping of str to str, optional

    Raises
    ------
    FileNotFoundError
        If the directory does not exist.
    TypeError
        If a name or the metadata is not text.
    WireError
        If a name is reserved by the format or is invalid Unicode; nothing is written then.
    DTypeError
        If labnet does not support a dtype.

    Examples
    --------
    >>> import tempfile, labnet as ln
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ln.io.save(folder + "/model.safetensors", {"weight": ln.ones(2)}, {"epoch": "3"})
    ...     ln.io.load(folder + "/model.safetensors")
    {'weight': Tensor([1., 1.], dtype=float32)}
    """
    if isinstance(path, Mapping):
        raise TypeError("save: the path comes first: ln.io.save(path, tensors)")
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "save: there is no such directory", str(target.parent))
    replace_file(target, pack(tensors, metadata))
    with contextlib.suppress(OSError):  # the file is written; some systems cannot sync a directory
        flush_directory(target.parent)


def load(path: Place) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file; bfloat16 becomes float32.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    WireError
        If the file is damaged or no safetensors file; the message contains path and reason.

    Examples
    --------
    See `save`.
    """
    return _unpack(_read(path), f"load: {os.fspath(path)}")[0]


def read_metadata(path: Place | bytes) -> dict[str, str]:
    """Read the metadata of a safetensors file, or of the bytes of `encode`.

    Raises
    ------
    FileNotFoundError, WireError
        As for `load`.

    Examples
    --------
    >>> import tempfile, labnet as ln
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ln.io.save(folder + "/model.safetensors", {"weight": ln.ones(2)}, {"epoch": "3"})
    ...     ln.io.read_metadata(folder + "/model.safetensors")
    {'epoch': '3'}
    """
    if isinstance(path, bytes):
        return _unpack(path, "read_metadata: this")[1]
    return _unpack(_read(path), f"read_metadata: {os.fspath(path)}")[1]


def _read(path: Place) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "load: there is no such file", os.fspath(path)) from None


def pack(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode named tensors and metadata as the bytes of a safetensors file; see `save`."""
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"save: metadata has to be text, got {key!r}: {value!r:.80}")
        _check_unicode("metadata", key, value)
    for name in tensors:
        _check_name(name)
    parts = codec.encode({name: on_host(value) for name, value in tensors.items()}, metadata)
    if len(parts[0]) - 8 > _MAX_HEADER_BYTES:
        raise WireError(f"save: header too large: {len(parts[0])} bytes for {len(tensors)} tensors and their names")
    return b"".join(parts)


def _check_name(name: object) -> None:
    """Refuse a name that `load` could not read back."""
    if not isinstance(name, str):
        raise TypeError(f"save: names of tensors have to be text, got {type(name).__name__} {name!r:.80}")
    _check_unicode("a name", name)


def _check_unicode(what: str, *texts: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise WireError(f"save: {what} has to be valid Unicode, got {text!r:.80}: {error.reason}") from None


def _unpack(content: bytes, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Decode the tensors of a file, sorted by name and each in memory of its own, and the metadata."""
    try:
        arrays, metadata = codec.decode(content, max_header=_MAX_HEADER_BYTES)
    except WireError as error:
        raise WireError(f"{what} is damaged, or no safetensors file ({len(content)} bytes): {error}") from None
    return {name: wrap(_writable(array)) for name, array in sorted(arrays.items())}, metadata


def _writable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array if array.flags.writeable else array.copy()


# One tensor as bytes


def encode(tensor: Any, metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode a tensor, and perhaps metadata for `read_metadata`, as the bytes of a safetensors file.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.io.decode(ln.io.encode(ln.arange(3))).tolist()
    [0, 1, 2]
    >>> ln.io.read_metadata(ln.io.encode(ln.arange(3), {"unit": "m"}))
    {'unit': 'm'}
    """
    return pack({_ONLY: tensor}, metadata)


def decode(content: bytes) -> Tensor:
    """Decode a tensor from the bytes of `encode`.

    Raises
    ------
    WireError
        If the bytes are not a safetensors file with exactly one tensor.

    Examples
    --------
    See `encode`.
    """
    tensors, _ = _unpack(bytes(content), "decode: this")
    if len(tensors) != 1:
        raise WireError(f"decode: expected one tensor, got {len(tensors)}: {', '.join(tensors)}")
    return next(iter(tensors.values()))


def encode_base64(tensor: Any, metadata: Mapping[str, str] | None = None) -> str:
    """Encode a tensor, and perhaps metadata, as base64 text.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.io.decode_base64(ln.io.encode_base64(ln.arange(3))).tolist()
    [0, 1, 2]
    """
    return base64_.b64encode(encode(tensor, metadata)).decode("ascii")


def decode_base64(text: str) -> Tensor:
    """Decode a tensor from the text of `encode_base64`.

    Raises
    ------
    WireError
        If the text is no base64, or its bytes are no tensor.

    Examples
    --------
    See `encode_base64`.
    """
    try:
        content = base64_.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError(f"decode_base64: {text!r:.40} is no base64: {error}") from None
    return decode(content)
