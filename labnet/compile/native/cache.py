"""The cache of machine code on disk, shared by processes.

The name of a file is a hash of the generated source and of everything else that its machine code depends on. A file
is written under another name, then renamed, and it begins with a hash of its content. So concurrent writers and
crashes leave files that are whole or are compiled again. The least recently used files are deleted first.
"""

import functools
import hashlib
import importlib.util
import json
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labnet.atomic_files import replace_file

if TYPE_CHECKING:
    from labnet.compile.native.loader import MachineCode

#: How many files are kept, and how many bytes of them.
MOST_FILES, MOST_BYTES = 512, 1 << 26
_FORMAT = b"labnet machine code 1\n"
_HASHED = len(_FORMAT) + 32
#: Modules of labnet that determine the machine code of a source, besides those that it imports.
_COMPILERS = (
    "labnet.compile.native.numba_compiler",
    "labnet.compile.native.loader",
    "labnet.compile.native.processor",
    "labnet.kernels.blas",
)
_IMPORT = re.compile(r"^from (labnet\.[\w.]+) import", re.MULTILINE)

_lock = threading.Lock()
_loaded: "weakref.WeakValueDictionary[str, Any]" = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class Entry:
    """A file of the cache: where it is, how long it is, and when it was last used, in seconds since 1970."""

    path: Path
    nbytes: int
    used: float


def folder() -> Path:
    """Return the folder of machine code; ``LABNET_CACHE`` names another one."""
    chosen = os.environ.get("LABNET_CACHE")
    if chosen:
        return Path(chosen)
    import platformdirs  # here, because LABNET_CACHE saves its import

    return Path(platformdirs.user_cache_dir("labnet")) / "compiled"


# What machine code depends on


@functools.cache
def source_of(module: str) -> bytes:
    """Return the source of a module of labnet."""
    path = Path(__file__).parents[3].joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_bytes()


@functools.cache
def reached(modules: tuple[str, ...]) -> list[str]:
    """Return modules of labnet with all modules of labnet that they import, directly or not."""
    found = list(dict.fromkeys(modules))
    for module in found:
        found += [name for name in _IMPORT.findall(source_of(module).decode()) if name not in found]
    return found


def numba_version() -> bytes:
    """Return the version file of Numba, without importing it."""
    spec = importlib.util.find_spec("numba")
    if spec is None or spec.origin is None:
        return b"none"
    return Path(spec.origin).with_name("_version.py").read_bytes()


def platform() -> list[str]:
    """Return the properties of this machine and its libraries that machine code depends on."""
    import llvmlite  # type: ignore[import-untyped]
    import llvmlite.binding as llvm  # type: ignore[import-untyped]
    import numpy as np
    from numpy.__config__ import CONFIG

    from labnet.compile.native import processor
    from labnet.kernels import blas

    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("NUMBA_"))
    libraries = [llvmlite.__version__, str(llvm.llvm_version_info), np.__version__]
    linked = [str(blas.link()), repr(CONFIG.get("Build Dependencies", {}).get("blas"))]
    return [sys.version, sys.platform, *processor.chosen(), *libraries, *linked, *settings]


@functools.cache
def surroundings() -> bytes:
    """Return a hash of everything besides its source that machine code depends on."""
    found = hashlib.sha256(numba_version())
    found.update("\0".join(platform()).encode())
    return found.digest()


def digest(source: str) -> str:
    """Return the name that a source has in the cache."""
    found = hashlib.sha256(surroundings() + source.encode())
    for module in reached((*_COMPILERS, *_IMPORT.findall(source))):
        found.update(source_of(module))
    return found.hexdigest()[:40]


# Files


def pack(code: "MachineCode") -> bytes:
    """Return the content of a file."""
    symbols = json.dumps(list(code.symbols)).encode()
    content = len(symbols).to_bytes(4, "little") + symbols + code.object
    return _FORMAT + hashlib.sha256(content).digest() + content


def unpack(content: bytes) -> "MachineCode | None":
    """Return the machine code in a file; None if the file is not whole.

    Examples
    --------
    >>> unpack(b"half of a file") is None
    True
    """
    from labnet.compile.native.loader import MachineCode

    if (
        content[: len(_FORMAT)] != _FORMAT
        or hashlib.sha256(content[_HASHED:]).digest() != content[len(_FORMAT) : _HASHED]
    ):
        return None
    length = int.from_bytes(content[_HASHED : _HASHED + 4], "little")
    start = _HASHED + 4 + length
    return MachineCode(content[start:], json.loads(content[_HASHED + 4 : start]))


def is_ours(path: Path) -> bool:
    """Return whether only this user and the system can write a file or a folder."""
    if not hasattr(os, "getuid"):
        return True
    state = path.stat()
    return state.st_uid in (os.getuid(), 0) and not state.st_mode & 0o022


def read(name: str) -> "MachineCode | None":
    """Return the machine code of this name; None if there is none, it is not whole, or others could write it."""
    path = folder() / f"{name}.code"
    try:
        if not (is_ours(path.parent) and is_ours(path)):
            return None
        code = unpack(path.read_bytes())
        os.utime(path)
    except OSError:
        return None
    return code


def write(name: str, code: "MachineCode") -> None:
    """Write machine code under this name, if only this user can write the folder; then shrink the cache."""
    home = folder()
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not is_ours(home):
            return
        replace_file(home / f"{name}.code", pack(code), mode=0o600, flush=False)
        shrink()


def entries() -> list[Entry]:
    """Return the files of the cache, the one that was used last first."""
    return sorted(_entries("*.code"), key=lambda entry: entry.used, reverse=True)


def _entries(pattern: str) -> Iterator[Entry]:
    for path in folder().glob(pattern):
        with suppress(OSError):  # another process was first
            state = path.stat()
            yield Entry(path, state.st_size, state.st_mtime)


def shrink(*, files: int = MOST_FILES, nbytes: int = MOST_BYTES) -> int:
    """Delete the least recently used files down to these limits; return how many were deleted."""
    total, gone = 0, 0
    for position, entry in enumerate(entries()):
        total += entry.nbytes
        if position >= files or total > nbytes:
            entry.path.unlink(missing_ok=True)
            gone += 1
    return gone


def clear() -> int:
    """Delete all files, unfinished ones included, and return how many were deleted."""
    found = [*_entries("*.code"), *_entries("*.tmp")]
    for entry in found:
        entry.path.unlink(missing_ok=True)
    return len(found)


# Functions


def load(source: str) -> Callable[..., int]:
    """Return the compiled function of a source: of this process, from the disk, or else compiled now."""
    name = digest(source)
    with _lock:
        found = _loaded.get(name)
        if found is None:
            found = _loaded[name] = _from_disk(name) or _compiled(name, source)
    function: Callable[..., int] = found
    return function


def is_known(source: str) -> bool:
    """Return whether the machine code of a source is loaded, or on disk."""
    name = digest(source)
    return name in _loaded or (folder() / f"{name}.code").exists()


def _from_disk(name: str) -> Callable[..., int] | None:
    from labnet.compile.native import loader

    code = read(name)
    try:
        return None if code is None else loader.load(code)
    except ImportError:  # it calls a function that this process lacks; code compiled here does not
        return None


def _compiled(name: str, source: str) -> Callable[..., int]:
    from labnet.compile.native import loader, numba_compiler

    code = numba_compiler.translate(source, f"<labnet step {name[:12]}>")
    write(name, code)
    return loader.load(code)
