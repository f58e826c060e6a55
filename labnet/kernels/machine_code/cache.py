"""The cache of machine code on disk, shared by the processes of one user.

The name of a file is a hash of the source and of everything else that its machine code depends on. A file is written
under another name, then renamed, and it begins with a hash of its content. So concurrent writers and crashes leave
files that are whole or are compiled again. A lock file makes processes compile a source once. The least recently used
files are deleted first. Nothing is read from a folder that another user could write or replace.
"""

import functools
import hashlib
import importlib.util
import itertools
import json
import os
import re
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labnet.atomic_files import replace_file
from labnet.kernels.machine_code.compiler_process import POLL_SECONDS, WAITING, NoCompiler, compiled

if TYPE_CHECKING:
    from labnet.kernels.machine_code.loader import MachineCode

#: How many files are kept, and how many bytes of them.
MOST_FILES, MOST_BYTES = 512, 1 << 26
#: Seconds after which another process that compiles the same source is not waited for, and files of crashes go.
_PATIENCE_SECONDS, _STALE_SECONDS = 120.0, 3600.0
_FORMAT = b"labnet machine code 2\n"
_HASHED = len(_FORMAT) + 32
#: Endings of files: of whole steps and kernels; of functions, which the compiler puts into other steps; of programs,
#: which name the step that was made of them.
WHOLE, FUNCTION, PROGRAM = ".code", ".function", ".program"
#: Modules of labnet that determine the machine code of a source, besides those that it imports.
_COMPILERS = (
    "labnet.compile.native.numba_compiler",
    "labnet.kernels.machine_code.loader",
    "labnet.kernels.machine_code.processor",
    "labnet.kernels.blas",
    "labnet.kernels.numpy_loops",
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

    from labnet.kernels import blas
    from labnet.kernels.machine_code import processor

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


def digest(source: str, written_by: Sequence[str] = ()) -> str:
    """Return the name of a source in the cache, or of a program, whose source is written by modules of labnet.

    Parameters
    ----------
    source : str
    written_by : sequence of str
        These modules; the name depends on their files, too.
    """
    found = hashlib.sha256(surroundings() + source.encode())
    for module in reached((*_COMPILERS, *written_by, *_IMPORT.findall(source))):
        found.update(source_of(module))
    return found.hexdigest()[:40]


# Files


def pack(code: "MachineCode") -> bytes:
    """Return the content of a file."""
    head = json.dumps({"symbols": list(code.symbols), "lengths": list(map(len, code.objects))}).encode()
    return _sealed(b"".join((len(head).to_bytes(4, "little"), head, *code.objects)))


def _sealed(content: bytes) -> bytes:
    """Return a content behind the mark of its format and its hash."""
    return _FORMAT + hashlib.sha256(content).digest() + content


def _unsealed(file: bytes) -> bytes | None:
    """Return the content of a file; None if the file is not whole."""
    content = file[_HASHED:]
    return content if file[:_HASHED] == _FORMAT + hashlib.sha256(content).digest() else None


def unpack(content: bytes) -> "MachineCode | None":
    """Return the machine code in a file; None if the file is not whole.

    Examples
    --------
    >>> unpack(b"half of a file") is None
    True
    """
    from labnet.kernels.machine_code.loader import MachineCode

    found = _unsealed(content)
    if found is None:
        return None
    start = 4 + int.from_bytes(found[:4], "little")
    head = json.loads(found[4:start])
    ends = [*itertools.accumulate(head["lengths"], initial=start)]
    return MachineCode([found[a:b] for a, b in itertools.pairwise(ends)], head["symbols"])


def is_ours(path: Path) -> bool:
    """Return whether only this user and the system can write a file or a folder."""
    if not hasattr(os, "getuid"):
        return True
    state = path.stat()
    return state.st_uid in (os.getuid(), 0) and not state.st_mode & 0o022


def unsafe_part(home: Path) -> Path | None:
    """Return the folder, or the one above it, that another user could write or replace; None if there is none.

    In a folder with the sticky bit, such as ``/tmp``, others cannot replace what is not theirs. A folder above may also
    belong to a group that has no member but this user, as the home folders of some systems do.

    Raises
    ------
    OSError
        If there is no such folder.
    """
    home = home.resolve(strict=True)
    if not is_ours(home):
        return home
    above = home.parents if hasattr(os, "getuid") else ()
    return next((folder for folder in above if not _keeps_names(folder)), None)


def _keeps_names(above: Path) -> bool:
    """Return whether no other user can rename what is in a folder."""
    state = above.stat()
    if state.st_mode & stat.S_ISVTX:
        return True
    if state.st_uid not in (os.getuid(), 0) or state.st_mode & stat.S_IWOTH:
        return False
    return not state.st_mode & stat.S_IWGRP or state.st_gid == 0 or _is_private(state.st_gid)


def _is_private(group: int) -> bool:
    """Return whether a group is the one that a system makes for this user alone."""
    import grp
    import pwd

    try:
        entry, user = grp.getgrgid(group), pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return entry.gr_name == user.pw_name and user.pw_gid == group and set(entry.gr_mem) <= {user.pw_name}


def read(name: str, ending: str = WHOLE) -> "MachineCode | None":
    """Return the machine code of this name; None if there is none, it is not whole, or others could write it."""
    content = _read(name, ending)
    return None if content is None else unpack(content)


def _read(name: str, ending: str) -> bytes | None:
    """Return the content of a file, and date it; None if there is none, or if others could write it."""
    path = folder() / f"{name}{ending}"
    try:
        if unsafe_part(path.parent) or not is_ours(path):
            return None
        content = path.read_bytes()
    except OSError:
        return None
    with suppress(OSError):  # it may be another user's to date: the system's
        os.utime(path)
    return content


def _prepared() -> Path | None:
    """Return the folder, made if it is missing; None if it cannot be made or is not safe."""
    home = folder()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        return None if unsafe_part(home) else home
    except OSError:
        return None


def write(name: str, code: "MachineCode", ending: str = WHOLE) -> None:
    """Write machine code under this name, if the folder is safe; shrink the cache after a step or a kernel."""
    _write(name, pack(code), ending)
    if ending == WHOLE:
        shrink()


def _write(name: str, content: bytes, ending: str) -> None:
    if home := _prepared():
        with suppress(OSError):
            replace_file(home / f"{name}{ending}", content, mode=0o600, flush=False)


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Let one process at a time compile the source of this name; ends with the process.

    If files cannot be locked, or the other process takes too long, this process compiles too.
    """
    descriptor = _opened(name)
    if descriptor is None:
        yield
        return
    try:
        _wait_for_lock(descriptor)
        yield
    finally:
        (folder() / f"{name}.lock").unlink(missing_ok=True)  # a process that waits for it finds the code then
        _locks.discard(descriptor)
        os.close(descriptor)


def _opened(name: str) -> int | None:
    """Open a lock file; return None where there are no such locks."""
    home = _prepared()
    if home is None or os.name == "nt":
        return None
    try:
        descriptor = os.open(home / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    _locks.add(descriptor)
    return descriptor


def _wait_for_lock(descriptor: int) -> None:
    import fcntl

    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL_SECONDS)
        except OSError:  # a file system without locks
            return None
        if waiting := WAITING.get():
            waiting.tick(0, 1)
    return None


#: Lock files that are open. A forked process closes its copies, with which it would hold the locks.
_locks: set[int] = set()


def _close_locks() -> None:
    while _locks:
        with suppress(OSError):
            os.close(_locks.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)


def entries(ending: str = WHOLE) -> list[Entry]:
    """Return the files of the cache with an ending, the one that was used last first."""
    return sorted(_entries(f"*{ending}"), key=lambda entry: entry.used, reverse=True)


def _entries(pattern: str) -> Iterator[Entry]:
    for path in folder().glob(pattern):
        with suppress(OSError):  # another process was first
            state = path.stat()
            yield Entry(path, state.st_size, state.st_mtime)


def shrink(*, files: int = MOST_FILES, nbytes: int = MOST_BYTES) -> int:
    """Delete the least recently used files down to these limits; return how many were deleted.

    Functions, of which a step has many, and programs are limited apart from the rest: eight times as many files of
    functions, as many of programs, and as many bytes of each.
    """
    gone = 0
    for ending, most in ((WHOLE, files), (FUNCTION, 8 * files), (PROGRAM, files)):
        total = 0
        for position, entry in enumerate(entries(ending)):
            total += entry.nbytes
            if position >= most or total > nbytes:
                entry.path.unlink(missing_ok=True)
                gone += 1
    for entry in (*_entries(".*.tmp"), *_entries("*.lock")):  # of processes that were killed
        if entry.used < time.time() - _STALE_SECONDS:
            entry.path.unlink(missing_ok=True)
    return gone


def clear() -> int:
    """Delete all files, those of crashes included; return how many steps and kernels there were."""
    patterns = (*(f"*{ending}" for ending in (WHOLE, FUNCTION, PROGRAM)), ".*.tmp", "*.lock")
    found = [entry for pattern in patterns for entry in _entries(pattern)]
    for entry in found:
        entry.path.unlink(missing_ok=True)
    return sum(not entry.path.name.endswith((FUNCTION, PROGRAM)) for entry in found)


# Functions


def load(source: str) -> Callable[..., int]:
    """Return the compiled function of a source: of this process, from the disk, or else compiled now.

    The child process compiles. If it cannot, a caller that waits (`WAITING`) compiles in this process.

    Raises
    ------
    NoCompiler
        If no child process can compile, and the caller does not wait.
    RuntimeError
        If the source cannot be compiled.
    """
    name = digest(source)
    found = recalled(name)
    if found is None:
        with exclusive(name):
            found = recalled(name) or _kept(name, _compiled(name, source))
    return found


def is_known(source: str) -> bool:
    """Return whether the machine code of a source is loaded, or on disk."""
    return has(digest(source))


def has(name: str) -> bool:
    """Return whether the machine code of this name is loaded, or on disk."""
    return name in _loaded or (folder() / f"{name}{WHOLE}").exists()


def recall(program: str) -> tuple[str, int] | None:
    """Return the name of the machine code of a program, and the bytes of its arena; None if the code is gone."""
    content = _read(program, PROGRAM)
    found = None if content is None else _unsealed(content)
    try:
        name, nbytes = json.loads(found or b"")
    except (TypeError, ValueError):
        return None
    return (name, nbytes) if has(name) else None


def remember(program: str, source: str, nbytes: int) -> None:
    """Note the source of a program, named by its `digest`, and the bytes of its arena."""
    _write(program, _sealed(json.dumps([digest(source), nbytes]).encode()), PROGRAM)


def recalled(name: str) -> Callable[..., int] | None:
    """Return the compiled function of this name, of this process or from the disk; None if it is gone."""
    found = _loaded.get(name) or _from_disk(name)
    return None if found is None else _kept(name, found)


def _kept(name: str, found: Callable[..., int]) -> Callable[..., int]:
    """Return the function of this name of the thread that was first."""
    with _lock:
        function: Callable[..., int] = _loaded.setdefault(name, found)
    return function


def _from_disk(name: str) -> Callable[..., int] | None:
    from labnet.kernels.machine_code import loader

    code = read(name)
    try:
        return None if code is None else loader.load(code)
    except ImportError:  # it calls a function that this process lacks; code compiled here does not
        return None


def _compiled(name: str, source: str) -> Callable[..., int]:
    from labnet.kernels.machine_code import loader

    try:
        content = compiled(source, name)
    except NoCompiler as error:
        waiting = WAITING.get()
        if waiting is None:
            raise
        content = waiting.translate(source, name, error)
    code = unpack(content)
    assert code is not None, "the compiler replies with whole files"
    write(name, code)
    return loader.load(code)
