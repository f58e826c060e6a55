"""Faults of the machine around a server: of its disk, its clock, its network and its system calls.

Each is real: a file system of a few megabytes that is filled, a network namespace whose packets are dropped, system
calls that strace lets fail. What a machine or user cannot do is named by `missing`.
"""

import contextlib
import errno
import functools
import glob
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

#: System calls of journal and checkpoint.
CALLS = ("pwrite64", "write", "fsync", "ftruncate", "rename", "unlink", "openat")
TRACED = {
    "call killed": "signal=SIGKILL",  # the process is killed when it makes the call
    "call EIO": "error=EIO",
    "call ENOSPC": "error=ENOSPC",
}
DISK = ("full disk",)
LINK = (
    "partition",  # every packet is dropped, and nobody is told
    "unplugged",  # the link goes down
    "address",  # the client goes on from another address
)
CLOCK = ("clock",)
KINDS = (*TRACED, *DISK, *LINK, *CLOCK)


@functools.cache
def missing(kind):
    """Return why a fault cannot be brought about here, empty if it can."""
    if kind in TRACED:
        return _strace()
    if kind not in (*DISK, *LINK, *CLOCK):
        return ""
    if kind in CLOCK:
        return "" if _faketime() else "needs libfaketime (on Debian: apt install libfaketime)"
    if os.geteuid():
        return "needs root"
    try:
        (Tmpfs if kind in DISK else Link)().close()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"this machine does not let it be done: {error}"
    return ""


def _strace():
    if shutil.which("strace") is None:
        return "needs strace"
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            Injected(process.pid, "fsync", "error=EIO", 1).end()
        except OSError as error:
            return str(error)
        finally:
            process.kill()
    return ""


def _faketime():
    return next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), None)


def command(*words):
    subprocess.run(words, check=True, capture_output=True)


class Injected:
    """A process whose n-th call of one kind meets a fault, in each of its threads."""

    def __init__(self, pid, call, what, number):
        file, self._log = tempfile.mkstemp(suffix=".strace")
        os.close(file)
        events = ["-e", f"trace={call}", "-e", f"inject={call}:{what}:when={number}"]
        self._process = subprocess.Popen(
            ["strace", "-f", "-o", self._log, *events, "-p", str(pid)], stderr=subprocess.PIPE, text=True
        )
        self._detached = False
        line = self._process.stderr.readline()
        if "attached" not in line:
            self.end()
            raise OSError(errno.EPERM, f"strace cannot attach to processes here: {line.strip()}")

    @property
    def is_over(self):
        """Whether `detach` was called, or the process has died."""
        return self._detached or self._process.poll() is not None

    def detach(self):
        """Let the process go on without."""
        self._detached = True
        self._process.terminate()

    def end(self):
        """Let the process go on without; return how many calls met the fault."""
        self.detach()
        try:
            self._process.communicate(timeout=1.0)
        except subprocess.TimeoutExpired:  # it waits for a process that has gone meanwhile
            self._process.kill()
            self._process.communicate()
        lines = Path(self._log).read_text().splitlines()
        os.unlink(self._log)
        return sum("(INJECTED)" in line for line in lines) or any("+++ killed by SIGKILL" in line for line in lines)


class Tmpfs:
    """A file system in memory that is as large as it is."""

    def __init__(self, size="8m"):
        self.path = Path(tempfile.mkdtemp())
        try:
            command("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.path))
        except BaseException:
            self.path.rmdir()
            raise

    def fill(self, seconds):
        """Leave no room for so long."""
        ballast = self.path / "ballast"
        try:
            with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
                for size in (1 << 18, 1 << 10, 1):
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(size))
            time.sleep(seconds)
        finally:
            ballast.unlink()

    def close(self):
        command("umount", "--lazy", str(self.path))
        self.path.rmdir()


class Link:
    """A network namespace at the other end of a virtual cable.

    Attributes
    ----------
    prefix : tuple of str
        The command that runs others in there.
    host : str
        Its address.
    """

    def __init__(self):
        number = os.getpid()
        self._name, self._net = f"labnet-{number}", f"10.{190 + number % 60}.{number // 60 % 256}"
        self._here, self._there = f"ln{number}a", f"ln{number}b"
        self.host, self._last = f"{self._net}.2", 9
        self.prefix = ("ip", "netns", "exec", self._name)
        command("ip", "netns", "add", self._name)
        try:
            command("ip", "link", "add", self._here, "type", "veth", "peer", "name", self._there)
            command("ip", "link", "set", self._there, "netns", self._name)
            command("ip", "-n", self._name, "address", "add", f"{self.host}/24", "dev", self._there)
            for device in ("lo", self._there):
                command("ip", "-n", self._name, "link", "set", device, "up")
            command("ip", "link", "set", self._here, "up")
            # Without an address here, packets must not leave by the default route: a gateway may answer them.
            command("ip", "route", "replace", "unreachable", f"{self._net}.0/24", "metric", "4096")
            self.move(first=True)
            command(
                *self.prefix,
                "nft",
                "add table inet labnet; add chain inet labnet in { type filter hook input priority 0; }",
            )
        except BaseException:
            self.close()
            raise

    def partition(self, seconds):
        """Drop every packet for so long."""
        command(*self.prefix, "nft", f'add rule inet labnet in iifname "{self._there}" drop')
        time.sleep(seconds)
        command(*self.prefix, "nft", "flush chain inet labnet in")

    def unplug(self, seconds):
        """Take the link down for so long."""
        command("ip", "-n", self._name, "link", "set", self._there, "down")
        time.sleep(seconds)
        command("ip", "-n", self._name, "link", "set", self._there, "up")

    def move(self, *, first=False):
        """Give this end another address."""
        if not first:
            command("ip", "address", "flush", "dev", self._here)
        self._last = self._last % 200 + 10
        command("ip", "address", "add", f"{self._net}.{self._last}/24", "dev", self._here)

    def close(self):
        command("ip", "netns", "delete", self._name)
        for words in (
            ("link", "delete", self._here),  # mostly gone with the other end
            ("route", "delete", "unreachable", f"{self._net}.0/24"),
        ):
            subprocess.run(["ip", *words], capture_output=True)


class Clock:
    """A wall clock of its own for the processes that get its environment."""

    def __init__(self):
        file, self._path = tempfile.mkstemp(suffix=".clock")
        os.close(file)
        self.jump(0)
        self.environment = {
            "LD_PRELOAD": _faketime(),
            "FAKETIME_TIMESTAMP_FILE": self._path,
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, seconds):
        """Set the clock to so many seconds from the machine's."""
        beside = self._path + ".new"
        Path(beside).write_text(f"{seconds:+d}\n")
        os.replace(beside, self._path)

    def close(self):
        os.unlink(self._path)


def choose_call(salt):
    """Return a system call and which one of its kind it is."""
    chance = random.Random(salt)
    return chance.choice(CALLS), chance.randint(1, 3)
