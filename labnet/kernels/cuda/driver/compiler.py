"""Compile the source of kernels to PTX with Numba, and cache it on the disk, since that takes half a second."""

import functools
import hashlib
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from labnet.atomic_files import replace_file
from labnet.errors import DeviceError

HINT = 'device "cuda" needs numba-cuda: pip install "labnet[cuda]"'
_FOLDER = "cuda"
#: Held while Numba is imported or compiles: Numba compiles one function at a time.
_lock = threading.Lock()
#: Version of the cached files; part of their key.
_FORMAT = "1"


@dataclass(frozen=True)
class Code:
    """Assembly for the GPU, and the name of its entry."""

    ptx: str
    entry: str


def folder() -> Path:
    """Return the folder of cached kernels; ``LABNET_CACHE`` names its parent."""
    chosen = os.environ.get("LABNET_CACHE")
    if chosen:
        return Path(chosen) / _FOLDER
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labnet" / _FOLDER


def compiled(source: str, types: Sequence[str], capability: tuple[int, int], *, keep: bool = True) -> Code:
    """Return the PTX of a kernel, from the cache if it is there.

    Raises
    ------
    DeviceError
        If numba-cuda is not installed.
    """
    key = hashlib.sha256("\0".join([_FORMAT, _versions(), source, *types, str(capability)]).encode()).hexdigest()
    path = folder() / f"{key}.ptx"
    if keep:
        try:
            return _parsed(path.read_text())
        except (OSError, ValueError):
            pass
    code = _translate(source, types, capability)
    if keep:
        _store(path, code.ptx)
    return code


@functools.cache
def _versions() -> str:
    try:
        return f"{version('numba-cuda')} {version('numba')}"
    except PackageNotFoundError:
        raise DeviceError(HINT) from None


def _parsed(ptx: str) -> Code:
    found = re.search(r"\.visible \.entry (\w+)\(", ptx)
    if found is None or not ptx.rstrip().endswith("}"):
        raise ValueError("not a whole kernel")
    return Code(ptx, found[1])


def _store(path: Path, ptx: str) -> None:
    """Write a file atomically; a cache that cannot be written only costs time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, ptx.encode(), mode=0o600, flush=False)
    except OSError:
        return


@functools.cache
def _numba_cuda() -> Any:
    """Import Numba's compiler for CUDA.

    The newest release, numba-cuda 0.30, reads ``np.row_stack`` during the import of its array functions, and NumPy 2.5
    has removed that name. No version bound avoids this without excluding NumPy 2.5, so the name exists during this
    import only.
    """
    is_missing = not hasattr(np, "row_stack")
    if is_missing:
        setattr(np, "row_stack", np.vstack)  # noqa: B010
    try:
        cuda = import_module("numba.cuda")
        import_module("numba.cuda.np.arrayobj")
    finally:
        if is_missing:
            delattr(np, "row_stack")
    return cuda


def _translate(source: str, types: Sequence[str], capability: tuple[int, int]) -> Code:
    with _lock:
        return _compile(source, types, capability)


def _compile(source: str, types: Sequence[str], capability: tuple[int, int]) -> Code:
    try:
        cuda = _numba_cuda()
        known: Any = import_module("numba.types")
    except ImportError as error:
        raise DeviceError(f"{HINT} ({error})") from error
    import math

    scalars = {
        **{f"i{size}": getattr(known, f"int{8 * size}") for size in (1, 2, 4, 8)},
        **{f"u{size}": getattr(known, f"uint{8 * size}") for size in (1, 2, 4, 8)},
        **{f"f{size}": getattr(known, f"float{8 * size}") for size in (2, 4, 8)},
    }
    words: dict[str, Any] = {"cuda": cuda, "math": math, **scalars}
    words.update({f"{cast}_": kind for cast, kind in scalars.items()})
    exec(compile(source, "<kernel>", "exec"), words)
    pointer: Any = known.CPointer

    def type_of(kind: str) -> Any:
        return pointer(type_of(kind[1:])) if kind[0] == "p" else scalars[kind]

    signature = known.void(*map(type_of, types))
    try:
        ptx, _ = cuda.compile(words["kernel"], signature, device=False, abi="numba", cc=capability)
    except Exception as error:
        if type(error).__name__ in ("NvvmSupportError", "LinkerError", "DynamicLibNotFoundError"):
            raise DeviceError(f"{HINT} ({error})") from error
        raise
    return _parsed(ptx if isinstance(ptx, str) else ptx.decode())
