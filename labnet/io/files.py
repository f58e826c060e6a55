"""Tensors in files and as bytes.

Files are in the safetensors format: named tensors and text metadata, never code. They are written to a temporary file,
synced to disk and renamed, so that a reader or a restart finds either the old file or the new one.
"""

import base64 as base64_
import binascii
import contextlib
import errno
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as serialize

from labnet.errors import WireError
from labnet.tensor import DTYPES, Tensor, on_host, wrap

Place = str | os.PathLike[str]
_ONLY = "tensor"
_RESERVED = "__metadata__"
_KINDS = {"BOOL": "bool", "I": "int", "U": "uint", "F": "float"}

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
    return _unpack(_read(path), f"load: {os.fspath(path)}")


def read_metadata(path: Place) -> dict[str, str]:
    """Read the metadata of a safetensors file.

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
    content = _read(path)
    _unpack(content, f"read_metadata: {os.fspath(path)}")  # validates the file
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header.get(_RESERVED) or {})


def _read(path: Place) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "load: there is no such file", os.fspath(path)) from None


def replace_file(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replace a file atomically: write a temporary file, sync it and rename it.

    Parameters
    ----------
    mode : int
        Permissions of the file, before the umask.

    Raises
    ------
    OSError
        If that fails; the previous file is kept.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def flush_directory(folder: Path) -> None:
    """Sync a directory to disk, so that a rename survives a power failure.

    Raises
    ------
    OSError
        If that fails, or the system cannot open directories.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pack(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode named tensors and metadata as the bytes of a safetensors file; see `save`."""
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"save: metadata has to be text, got {key!r}: {value!r:.80}")
        _check_unicode("metadata", key, value)
    for name in tensors:
        _check_name(name)
    arrays = {name: np.array(on_host(value), order="C") for name, value in tensors.items()}
    try:
        return bytes(serialize(arrays, None if metadata is None else dict(metadata)))
    except SafetensorError as error:
        raise WireError(f"save: the format cannot hold these {len(arrays)} tensors and their names: {error}") from None


def _check_name(name: object) -> None:
    """Refuse a name that `load` could not read back."""
    if not isinstance(name, str):
        raise TypeError(f"save: names of tensors have to be text, got {type(name).__name__} {name!r:.80}")
    if name == _RESERVED:
        raise WireError(f"save: a tensor cannot be named {name!r}: the format keeps that name for metadata")
    _check_unicode("a name", name)


def _check_unicode(what: str, *texts: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise WireError(f"save: {what} has to be valid Unicode, got {text!r:.80}: {error.reason}") from None


def _unpack(content: bytes, what: str) -> dict[str, Tensor]:
    try:
        entries = deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise WireError(f"{what} is damaged, or no safetensors file ({len(content)} bytes): {error}") from None
    return {name: wrap(_as_array(entry, f"{what}: {name}")) for name, entry in sorted(entries)}


def _as_array(entry: Mapping[str, Any], what: str) -> np.ndarray[Any, Any]:
    name, data = entry["dtype"], bytearray(entry["data"])
    if name == "BF16":
        halves = np.frombuffer(data, "<u2").astype("uint32") << 16
        return halves.view("float32").reshape(entry["shape"])
    dtype = "bool" if name == "BOOL" else _KINDS.get(name[:1], "") + name[1:]
    if dtype not in DTYPES:
        raise WireError(f"{what} has dtype {name}: expected BF16 or one of {', '.join(DTYPES)}")
    return np.frombuffer(data, DTYPES[dtype].newbyteorder("<")).astype(dtype, copy=False).reshape(entry["shape"])


# One tensor as bytes


def encode(tensor: Any) -> bytes:
    """Encode a tensor as the bytes of a safetensors file.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.io.decode(ln.io.encode(ln.arange(3))).tolist()
    [0, 1, 2]
    """
    return pack({_ONLY: tensor})


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
    tensors = _unpack(bytes(content), "decode: this")
    if len(tensors) != 1:
        raise WireError(f"decode: expected one tensor, got {len(tensors)}: {', '.join(tensors)}")
    return next(iter(tensors.values()))


def encode_base64(tensor: Any) -> str:
    """Encode a tensor as base64 text.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.io.decode_base64(ln.io.encode_base64(ln.arange(3))).tolist()
    [0, 1, 2]
    """
    return base64_.b64encode(encode(tensor)).decode("ascii")


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
