"""Op statistics: counts, seconds, bytes and floating-point operations, of this and other processes."""

import math
import os
import platform
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from labnet.stats import late

#: The folders of labnet and NumPy, whose lines are left out of stacks, and the greatest number of lines.
_HOMES = (os.path.dirname(os.path.dirname(__file__)) + os.sep, os.path.dirname(np.__file__) + os.sep)
_DEEPEST = 16
_HEAD = f"{'op':<28}{'count':>10}{'seconds':>12}{'MB':>12}{'Mflop':>12}{'Gflop/s':>10}"


@dataclass
class OpCount:
    """The cost of one op.

    Attributes
    ----------
    count : int
        Number of calls.
    seconds : float
        Time in its kernel; on a GPU, in all kernels that it launched.
    bytes : int
        Bytes read and written.
    flops : int
        Floating-point operations.
    """

    count: int = 0
    seconds: float = 0.0
    bytes: int = 0
    flops: int = 0

    def add(self, other: "OpCount") -> None:
        """Add another count.

        Examples
        --------
        >>> total = OpCount(1, 0.5, 8, 2)
        >>> total.add(OpCount(1, 0.25, 8, 2))
        >>> total
        OpCount(count=2, seconds=0.75, bytes=16, flops=4)
        """
        self.count += other.count
        self.seconds += other.seconds
        self.bytes += other.bytes
        self.flops += other.flops

    @classmethod
    def read(cls, data: Any) -> "OpCount":
        """Read the output of `dataclasses.asdict`.

        Raises
        ------
        ValueError
            If it is malformed.
        """
        if not isinstance(data, Mapping) or data.keys() != {"count", "seconds", "bytes", "flops"}:
            raise ValueError(f"expected count, seconds, bytes and flops of an op, got {data!r:.80}")
        return cls(
            *(_whole(data["count"]), _positive(data["seconds"]), _whole(data["bytes"]), _whole(data["flops"])),
        )


class OpStatistics:
    """The cost of ops: per op, in total, and of other processes that computed for this one.

    Attributes
    ----------
    host, process, device : str, int, str
        Where the ops ran.
    remotes : dict of (host, process) to OpStatistics
        Statistics of servers that were called from here, and of servers that these called.
    only_here : bool
        Whether to leave out the ops of servers.
    stacks : dict of (tuple of str) to dict of str to OpCount, or None
        The cost of each op by the lines that led to it, the outermost first, as ``file:line function``; without lines
        of labnet, and without GPU seconds. None unless asked for.

    Examples
    --------
    >>> statistics = OpStatistics()
    >>> statistics.add("matmul", OpCount(1, 0.5, 24, 1_000_000_000))
    >>> statistics.total.flops, statistics.flops_per_second
    (1000000000, 2000000000.0)
    """

    def __init__(
        self,
        host: str | None = None,
        process: int | None = None,
        device: str = "cpu",
        *,
        only_here: bool = False,
        stacks: bool = False,
    ):
        self.host = platform.node() if host is None else host
        self.process = os.getpid() if process is None else process
        self.device = device
        self.only_here = only_here
        self.stacks: dict[tuple[str, ...], dict[str, OpCount]] | None = {} if stacks else None
        self.remotes: dict[tuple[str, int], OpStatistics] = {}
        self._ops: dict[str, OpCount] = {}
        self._lock = threading.Lock()
        self._elapsed = 0.0
        self._began: float | None = None
        self._awaited = self._resets = 0

    def start(self) -> None:
        """Start the clock of `elapsed_seconds`."""
        self._began = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock of `elapsed_seconds`."""
        self._elapsed, self._began = self.elapsed_seconds, None

    def add(self, name: str, cost: OpCount) -> None:
        """Count an op, from any thread."""
        with self._lock:
            self._ops.setdefault(name, OpCount()).add(cost)
            if self.stacks is not None:
                self.stacks.setdefault(_stack(), {}).setdefault(name, OpCount()).add(cost)

    def complete(self) -> None:
        """Wait until the seconds of all counted ops are known."""
        if self._awaited:
            late.arrive(wait=True)

    def merge(self, other: "OpStatistics") -> None:
        """Merge the statistics of another process, under its host and process id, with its remotes."""
        for each in (other, *other.remotes.values()):
            with self._lock:
                own = self.remotes.setdefault((each.host, each.process), OpStatistics(each.host, each.process))
            own.absorb(each)

    def absorb(self, other: "OpStatistics") -> None:
        """Add the ops and the elapsed seconds of other statistics."""
        for name, cost in other.ops.items():
            self.add(name, cost)
        with self._lock:
            self._elapsed += other.elapsed_seconds

    def reset(self) -> None:
        """Clear all counts and restart the clock."""
        with self._lock:
            self._ops.clear()
            self.remotes.clear()
            if self.stacks is not None:
                self.stacks.clear()
            self._elapsed = 0.0
            self._resets += 1
            self._began = None if self._began is None else time.perf_counter()

    @property
    def ops(self) -> dict[str, OpCount]:
        """The cost of each op in this process, most seconds first; backwards are separate ops.

        GPU seconds are those known so far; after the end of a block they are complete.
        """
        if self._awaited:
            late.arrive()
        with self._lock:
            copies = {name: OpCount(**asdict(cost)) for name, cost in self._ops.items()}
        return dict(sorted(copies.items(), key=lambda item: -item[1].seconds))

    def most(self, most: int | None) -> dict[str, OpCount]:
        """Return the most costly ops, and the sum of the others under ``other``."""
        return _most(self.ops, most)

    @property
    def count(self) -> int:
        """Number of op calls in this process."""
        with self._lock:
            return sum(cost.count for cost in self._ops.values())

    @property
    def total(self) -> OpCount:
        """Total cost of all ops of this process."""
        total = OpCount()
        for cost in self.ops.values():
            total.add(cost)
        return total

    @property
    def everywhere(self) -> "OpStatistics":
        """Sum of the statistics of this process and of all that computed for it."""
        together = OpStatistics(self.host, self.process, self.device)
        together._elapsed = self.elapsed_seconds
        for each in (self, *self.remotes.values()):
            for name, cost in each.ops.items():
                together.add(name, cost)
        return together

    @property
    def elapsed_seconds(self) -> float:
        """Time for which ops were counted."""
        return self._elapsed + (0.0 if self._began is None else time.perf_counter() - self._began)

    @property
    def flops_per_second(self) -> float:
        """Floating-point operations per second of computing, a measure of the device."""
        return _ratio(self.total.flops, self.total.seconds)

    @property
    def flops_per_elapsed_second(self) -> float:
        """Floating-point operations per elapsed second, a measure of the program."""
        return _ratio(self.total.flops, self.elapsed_seconds)

    @property
    def bytes_per_second(self) -> float:
        """Bytes read and written per second of computing."""
        return _ratio(self.total.bytes, self.total.seconds)

    @property
    def utilization(self) -> float:
        """Fraction of the time spent computing; above 1 if threads compute in parallel."""
        return _ratio(self.total.seconds, self.elapsed_seconds)

    def summary(self, *, most: int | None = None) -> dict[str, Any]:
        """Return the statistics as JSON-able data for `read`.

        Parameters
        ----------
        most : int, optional
            Number of ops that are listed by name; the cost of the others is added up under ``other``.
        """
        return {
            "host": self.host,
            "process": self.process,
            "device": self.device,
            "elapsed_seconds": self.elapsed_seconds,
            "ops": {name: asdict(cost) for name, cost in self.most(most).items()},
            "total": asdict(self.total),
            "flops_per_second": self.flops_per_second,
            "flops_per_elapsed_second": self.flops_per_elapsed_second,
            "bytes_per_second": self.bytes_per_second,
            "utilization": self.utilization,
            "remotes": [remote.summary(most=most) for remote in self.remotes.values()],
        }

    @classmethod
    def read(cls, data: Any) -> "OpStatistics":
        """Read a `summary`, possibly of another process.

        Raises
        ------
        ValueError
            If it is malformed.

        Examples
        --------
        >>> OpStatistics.read(OpStatistics("lab", 7).summary()).host
        'lab'
        """
        try:
            host, process, device = data["host"], data["process"], data["device"]
            elapsed, ops, remotes = data["elapsed_seconds"], data["ops"], data["remotes"]
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"these are no op statistics: {data!r:.80}") from error
        if not (isinstance(host, str) and isinstance(device, str) and isinstance(ops, dict)):
            raise ValueError(f"op statistics of host {host!r:.40}, device {device!r:.40}, ops {ops!r:.40}")
        statistics = cls(host, _whole(process), device)
        statistics._elapsed = _positive(elapsed)
        for name, cost in ops.items():
            statistics.add(str(name), OpCount.read(cost))
        for remote in remotes if isinstance(remotes, list) else []:
            if not isinstance(remote, dict) or remote.get("remotes"):
                raise ValueError("the remotes of op statistics are a list without remotes of their own")
            statistics.merge(cls.read(remote))
        return statistics

    def table(self, *, most: int | None = None) -> str:
        """Format the statistics as text, one table per process.

        Parameters
        ----------
        most : int, optional
            Number of ops that are listed by name.
        """
        total = self.total
        rows = [
            f"{name:<28}{cost.count:>10,}{cost.seconds:>12.6f}{cost.bytes / 1e6:>12.3f}{cost.flops / 1e6:>12.3f}"
            f"{_ratio(cost.flops, cost.seconds) / 1e9:>10.3f}"
            for name, cost in [*self.most(most).items(), ("total", total)]
        ]
        title = (
            f"{self.host} process {self.process} ({self.device}): computing for {total.seconds:.3f} "
            f"of {self.elapsed_seconds:.3f} s ({self.utilization:.0%})"
        )
        return "\n".join([title, _HEAD, *rows, *(remote.table(most=most) for remote in self.remotes.values())])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"OpStatistics({self.total}, {len(self._ops)} ops, {len(self.remotes)} other processes)"


class Later:
    """Adds the seconds of an op to statistics when they are known; count, bytes and flops are added before."""

    __slots__ = ("_name", "_statistics")

    def __init__(self, name: str, statistics: tuple[OpStatistics, ...]):
        self._name = name
        self._statistics = [(each, each._resets) for each in statistics]

    def expect(self) -> None:
        """Expect one more measurement."""
        for statistics, _ in self._statistics:
            with statistics._lock:
                statistics._awaited += 1

    def tell(self, seconds: float | None) -> None:
        """Add a measurement; ignore an unknown one, and statistics that were reset meanwhile."""
        for statistics, resets in self._statistics:
            with statistics._lock:
                statistics._awaited -= 1
                if seconds is not None and statistics._resets == resets:
                    statistics._ops.setdefault(self._name, OpCount()).seconds += seconds


def _stack() -> tuple[str, ...]:
    """Return the current lines outside of labnet, the outermost first."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_HOMES):
            found.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(reversed(found[:_DEEPEST]))


def _most(ops: dict[str, OpCount], most: int | None) -> dict[str, OpCount]:
    """Keep the most costly ops and sum the others."""
    names = list(ops)
    if most is None or len(names) <= most:
        return ops
    kept = {name: ops[name] for name in names[:most]}
    other = kept.setdefault("other", OpCount())
    for name in names[most:]:
        other.add(ops[name])
    return kept


def _ratio(amount: float, seconds: float) -> float:
    return amount / seconds if seconds else 0.0


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a number of 0 or more, got {value!r:.40}")
    return value


def _positive(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"expected seconds, got {value!r:.40}")
    return float(value)
