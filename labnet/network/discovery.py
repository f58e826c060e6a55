"""Discovery of this user's servers on this machine: runtime files with URLs and tokens."""

import contextlib
import functools
import ipaddress
import json
import os
import secrets
import socket
import stat
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import platformdirs

from labnet.atomic_files import replace_file

#: Seconds after which an incomplete runtime file is deleted: its process was killed.
_ABANDONED_SECONDS = 3600.0
#: Ports of this machine whose server this process has stopped for good, until a connection to another one opens.
stopped_ports: set[int] = set()


def is_loopback(host: str) -> bool:
    """Return whether a host name, with or without a port, always means this machine.

    Examples
    --------
    >>> is_loopback("localhost:3000"), is_loopback("[::1]"), is_loopback("localhost.evil.example")
    (True, True, False)
    """
    name = host.lower()
    if name.count(":") == 1 or name.startswith("["):
        head, colon, port = name.rpartition(":")
        if colon and port.isascii() and port.isdigit():
            name = head
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    # explicit, because Python 3.13 counts 127.0.0.1 inside IPv6 as loopback, and earlier versions do not
    return address.is_loopback if address.version == 4 else address == ipaddress.ip_address("::1")


@dataclass(frozen=True)
class Entry:
    """The entry of a running server, for other processes of this user."""

    url: str
    name: str
    pid: int
    token: str | None = None
    started: str | None = field(default=None, compare=False)
    machine: str | None = field(default=None, compare=False)
    notebook: str | None = field(default=None, compare=False)

    @property
    def is_running(self) -> bool:
        """Whether the server's process still runs; checked by start time because process ids are reused.

        Examples
        --------
        >>> me = Entry("http://127.0.0.1:3000", "mlp", os.getpid(), started=_started(os.getpid()))
        >>> me.is_running, replace(me, started="long ago").is_running
        (True, False)
        """
        found = _started(self.pid)
        unknown = self.started is None or (found is None and _started(os.getpid()) is None)
        return _exists(self.pid) if unknown else found == self.started

    def __repr__(self) -> str:
        return f"Entry(url={self.url!r}, name={self.name!r}, pid={self.pid})"


def _folder() -> Path:
    folder = Path(platformdirs.user_state_dir("labnet", appauthor=False)) / "servers"
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)  # one by one: `parents=True` would create the parents with the umask
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        raise PermissionError(f"{folder} must be a folder that belongs to you: tokens are kept there")
    folder.chmod(0o700)
    return folder


def _started(pid: int) -> str | None:
    """Return the start time of a running process, in Linux clock ticks; None if unavailable."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in b"ZX" else fields[18].decode()  # a killed process remains until its parent waits for it


def _exists(pid: int) -> bool:
    """Return whether a process with this id exists; True on systems without a harmless test."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


@functools.cache
def _machine() -> str:
    """Return the identity of this machine or container, whose process ids are meant: others may share the folder."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/etc/machine-id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _notebook() -> str | None:
    """Return the file name of the notebook whose kernel this is; None elsewhere."""
    return Path(os.environ.get("JPY_SESSION_NAME", "")).name or None


def publish(port: int, entry: Entry) -> None:
    """Write the runtime file of a server, readable by this user only; delete files of killed servers."""
    folder = _folder()
    _write(folder, port, replace(entry, started=_started(entry.pid), machine=_machine(), notebook=_notebook()))
    with contextlib.suppress(OSError):  # not essential: the server is published
        _prune(folder)


def _write(folder: Path, port: int, entry: Entry) -> None:
    replace_file(folder / f"{port}.json", json.dumps(asdict(entry)).encode(), mode=0o600, flush=False)


def _prune(folder: Path) -> None:
    """Delete runtime files of ended processes of this machine."""
    for path in folder.iterdir():
        if path.stem.isdecimal() and path.suffix == ".json":
            _delete_if_dead(path)
        elif path.name.startswith(".") and _age_seconds(path) > _ABANDONED_SECONDS:
            path.unlink(missing_ok=True)


def _delete_if_dead(path: Path) -> None:
    """Delete the runtime file of an ended process, but not one that a new server writes meanwhile."""
    if not _is_dead(path):
        return
    aside = path.with_name(f".{path.stem}.{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):  # another process was first
        path.rename(aside)  # so that the file checked below is the one deleted
        if not _is_dead(aside):
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _is_dead(path: Path) -> bool:
    entry = _read(path)
    return entry is not None and entry.machine in (None, _machine()) and not entry.is_running


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def withdraw(port: int) -> None:
    """Remove the runtime file of a server of this process."""
    entry = lookup(port)
    if entry is not None and entry.pid == os.getpid():
        with contextlib.suppress(FileNotFoundError):
            (_folder() / f"{port}.json").unlink()


def lookup(port: int) -> Entry | None:
    """Return the entry of the server on a port of this machine, even if it no longer runs.

    Users of a shared folder may be unable to see the process, for example from a container.
    """
    try:
        return _read(_folder() / f"{port}.json")
    except OSError:
        return None


def _read(path: Path) -> Entry | None:
    """Read a runtime file; return None if it is missing or malformed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor) as file:
            data: Any = json.load(file)
        told = {"token": data["token"], "started": data.get("started"), "machine": data.get("machine")}
        told["notebook"] = data.get("notebook")
        return Entry(url=str(data["url"]), name=str(data["name"]), pid=int(data["pid"]), **told)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running(port: int) -> Entry | None:
    """Return the entry of the server on a port of this machine if its process is known to run."""
    entry = lookup(port)
    return entry if entry is not None and entry.is_running else None


def entries() -> list[Entry]:
    """Return the entries of this user's running servers on this machine, by port."""
    ports = sorted(int(path.stem) for path in _folder().glob("*.json") if path.stem.isdecimal())
    return [entry for entry in map(running, ports) if entry is not None]
