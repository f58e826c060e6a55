"""A scheduler and workers started from the command line, as on several hosts; some of them behind a link of their own.

With `link` a worker runs in a network namespace that is tied to this one by a pair of virtual interfaces, which takes
root on Linux.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import labnet as ln
from tests.helpers.cluster.parts import able
from tests.helpers.cluster.waits import until
from tests.helpers.constants import ROOT

_numbers = itertools.count(1)
#: Dask gives a connection up after so long without an answer; a host may be cut off for less.
_ENVIRONMENT = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "120s"}


def can_link():
    """Tell whether this process may make network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"labnet-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return made


def run(*command):
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


class Bridge:
    """What the links of this process are tied to; there as long as there is one."""

    name = f"lnbr{os.getpid() % 1000000}"
    address = f"10.{100 + os.getpid() % 100}.0.1"
    links = 0

    @classmethod
    def add(cls):
        if not cls.links:
            run("ip", "link", "add", cls.name, "type", "bridge")
            run("ip", "addr", "add", f"{cls.address}/24", "dev", cls.name)
            run("ip", "link", "set", cls.name, "up")
        cls.links += 1

    @classmethod
    def remove(cls):
        cls.links -= 1
        if not cls.links:
            run("ip", "link", "del", cls.name)


class Link:
    """A network namespace with an address of its own, tied to this one and to those of other links by a bridge."""

    def __init__(self):
        number = next(_numbers)
        tag = f"{os.getpid() % 1000000}{number}"
        self.namespace, self.here, self.there = f"labnet-{tag}", f"lna{tag}", f"lnb{tag}"
        self.gateway, self.address = Bridge.address, f"{Bridge.address.rpartition('.')[0]}.{1 + number}"
        Bridge.add()
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", self.here, "type", "veth", "peer", "name", self.there)
        run("ip", "link", "set", self.there, "netns", self.namespace)
        run("ip", "link", "set", self.here, "master", Bridge.name, "up")
        for command in (
            ("addr", "add", f"{self.address}/24", "dev", self.there),
            ("link", "set", self.there, "up"),
            ("link", "set", "lo", "up"),
        ):
            run("ip", "-n", self.namespace, *command)

    @property
    def prefix(self):
        """What a command begins with that runs on the other side."""
        return ["ip", "netns", "exec", self.namespace]

    def cut(self):
        """Let nothing through any more."""
        run("ip", "link", "set", self.here, "down")

    def mend(self):
        """Let everything through again."""
        run("ip", "link", "set", self.here, "up")

    def throttle(self, megabits):
        """Let so many megabits per second through in each direction."""
        for where, name in (((), self.here), (("-n", self.namespace), self.there)):
            shape = ("tbf", "rate", f"{megabits}mbit", "burst", "64kb", "latency", "500ms")
            run("tc", *where, "qdisc", "replace", "dev", name, "root", *shape)

    def remove(self):
        subprocess.run(["ip", "netns", "del", self.namespace], check=False)
        subprocess.run(["ip", "link", "del", self.here], check=False, capture_output=True)
        Bridge.remove()


class Hosts:
    """A scheduler and workers, each in a process of its own."""

    def __init__(self, folder, *, host="127.0.0.1"):
        self._file = Path(folder) / "scheduler.json"
        self._log = open(Path(folder) / "dask.log", "ab")  # noqa: SIM115  # closed at the end
        self.processes = []
        self._start("dask_scheduler", "--host", host, "--port", "0", "--no-dashboard")
        until(lambda: self._file.exists() and self._file.read_text().strip().endswith("}"))
        self.address = json.loads(self._file.read_text())["address"]

    def _start(self, program, *arguments, prefix=()):
        process = subprocess.Popen(
            [
                *prefix,
                sys.executable,
                "-m",
                f"distributed.cli.{program}",
                "--scheduler-file",
                str(self._file),
                *map(str, arguments),
            ],
            cwd=ROOT,
            env={**os.environ, **_ENVIRONMENT},
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def restart_scheduler(self, *, host="127.0.0.1"):
        """Start a scheduler at the address of the one that was killed."""
        port = self.address.rpartition(":")[2]
        self._file.unlink()
        process = self._start("dask_scheduler", "--host", host, "--port", port, "--no-dashboard")
        until(lambda: self._file.exists() and self._file.read_text().strip().endswith("}"))
        return process

    def worker(self, name, *, link=None):
        """Start a worker with its nanny; returns the process of the nanny."""
        host = "127.0.0.1" if link is None else link.address
        return self._start(
            "dask_worker",
            "--nthreads",
            "1",
            "--name",
            name,
            "--host",
            host,
            "--no-dashboard",
            "--local-directory",
            tempfile.gettempdir(),
            prefix=link.prefix if link else (),
        )

    def close(self):
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._log.close()


@contextlib.contextmanager
def hosts(folder, names):
    """Give a scheduler with workers of these names, and a cluster that is connected to them."""
    running = Hosts(folder)
    try:
        for name in names:
            running.worker(name)
        with ln.cluster.connect(running.address) as cluster:
            until(lambda: cluster.client.run_on_scheduler(able) == len(names))
            yield running, cluster
    finally:
        running.close()
