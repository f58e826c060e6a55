"""Random faults against a server with a store, and a checker of what came of them: ``python -m tests.chaos``.

A schedule says before which step which fault comes; it follows from the seed, which is printed. One trainer's weights
must be those of a run without faults, to the bit; of several, those that the journal gives. A schedule that fails is
made shorter for as long as it still fails, and printed.
"""

import argparse
import asyncio
import collections
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import labnet as ln
from labnet.errors import RemoteError
from labnet.store import LEVELS, Store
from tests.network.kept import batch, make_model, make_optimizer
from tests.network.proxy import FAULTS, Proxy
from tests.network.support import ROOT, free_port

#: Of the server's process and its disk, beside those of the network.
PROCESS = ("kill", "stop", "disk")
KINDS = (*FAULTS, *PROCESS)
#: What outlives the process only as far as it was written down cannot promise to survive its end.
SURVIVES = {"memory": {*FAULTS, "stop"}, "group": {*KINDS}, "every": {*KINDS}}
STOPPED_SECONDS = 0.3
TOKEN = "the token of the server in chaos"

Event = tuple[int, str]


class Scripted(Proxy):
    """Does to the next requests what it was told, and nothing else."""

    def __init__(self, port):
        self._queue = collections.deque()
        super().__init__(port, share=0.0)

    def tell(self, *faults):
        with self._lock:
            self._queue.extend(faults)

    def _choose(self):
        with self._lock:
            fault = self._queue.popleft() if self._queue else "none"
            self.counts[fault] += 1
            return fault


class Server:
    """A server with a store in a process of its own, that is started again when it is killed."""

    def __init__(self, folder, durability):
        self.folder, self.durability, self.port = folder, durability, free_port()
        self.recoveries: list[float] = []
        self._lock = threading.Lock()
        self._start()

    def _start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.network.kept", str(self.folder), str(self.port), self.durability],
            cwd=ROOT,
            env={**os.environ, "KEPT_TOKEN": TOKEN},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline(), "the server did not start"

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def suffer(self, kind):
        """Bring a fault over the process, and wait until it runs again; one at a time."""
        with self._lock:
            self._suffer(kind)

    def _suffer(self, kind):
        if kind == "kill":
            self.process.kill()
            self.end()
            self._start()
        elif kind == "stop":
            self.process.send_signal(signal.SIGSTOP)
            time.sleep(STOPPED_SECONDS)
            self.process.send_signal(signal.SIGCONT)
        else:
            self.process.send_signal(signal.SIGUSR1)


@dataclass
class Outcome:
    """What came of a schedule."""

    faults: int
    answered: int = 0
    version: int = 0
    same: bool = False
    recoveries: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def good(self):
        return self.same and self.answered == self.version and not self.error


def schedule(kinds, count, seed):
    """Return so many events, a few steps apart, and how many steps there are."""
    chance, step, events = random.Random(seed), 2, []
    for _ in range(count):
        step += chance.randint(0, 2)
        events.append((step, chance.choice(kinds)))
    return events, step + 3


async def train(model, steps, before):
    """Train for so many steps, each until it is answered; returns how many were."""
    for number in steps:
        await before(number)
        x, y = batch(number)
        loss = None
        while True:
            try:
                if loss is None:
                    loss = ln.loss.mse(await model(x), y)
                await loss.backward()
                break
            except ln.errors.StaleGradient:
                loss = None  # applied: no
            except RemoteError as error:  # the same backward again resolves what is in doubt
                if getattr(error, "applied", None) == "no" or loss is None:
                    loss = None
                elif isinstance(error, ln.errors.GraphExpired | ln.errors.CallExpired):
                    raise
    return len(steps)


def carry_out(events, steps, *, durability, trainers, folder):
    """Run a schedule against a fresh server and check what came of it."""
    outcome, server = Outcome(len(events)), Server(folder, durability)
    due = collections.defaultdict(list)
    for step, kind in events:
        due[step].append(kind)
    suffering: list[threading.Thread] = []
    with Scripted(server.port) as proxy:

        async def before(number):
            for kind in due.pop(number, ()):
                if kind in PROCESS:
                    for thread in suffering:
                        await asyncio.to_thread(thread.join)
                    suffering[:] = [threading.Thread(target=server.suffer, args=(kind,))]
                    began = time.perf_counter()
                    suffering[0].start()
                    asyncio.get_running_loop().create_task(recovered(began))
                else:
                    proxy.tell(*["none"] * (number % 2), kind)

        async def recovered(began):
            await asyncio.to_thread(suffering[0].join)
            await asyncio.to_thread(there, began)

        def there(began):
            watcher = ln.network.remote_model(f"localhost:{server.port}", blocking=True, backoff=quick)
            watcher.statistics()
            outcome.recoveries.append(time.perf_counter() - began)

        quick = ln.network.Backoff(first=0.01, longest=0.05, attempt=0.25)

        async def everybody():
            models = [
                ln.network.remote_model(proxy.url, client=f"trainer{number}", backoff=quick, token=TOKEN, timeout=30.0)
                for number in range(trainers)
            ]
            done = await asyncio.gather(
                *[train(model, range(number, steps, trainers), before) for number, model in enumerate(models)]
            )
            for thread in suffering:
                await asyncio.to_thread(thread.join)
            return sum(done)

        try:
            outcome.answered = asyncio.run(everybody())
        except Exception as error:
            outcome.error = f"{type(error).__name__}: {error}"
    try:
        check(outcome, server, steps, trainers)
    finally:
        server.end()
    return outcome


def check(outcome, server, steps, trainers):
    """Compare the weights that are served with those that should be there."""
    model = ln.network.remote_model(f"localhost:{server.port}", blocking=True)
    outcome.version = model.statistics()["server"]["version"]
    served = {name: np.asarray(tensor) for name, tensor in model.state_dict().items()}
    if trainers == 1:
        wanted, optimizer = make_model(), make_optimizer()
        for number in range(steps):
            x, y = batch(number)
            optimizer(ln.loss.mse(wanted(x), y).backward())
    elif server.durability == "memory":
        outcome.same = True  # there is no journal to compare with
        return
    else:
        wanted = make_model()
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(server.folder, copy, dirs_exist_ok=True)
            Store(Path(copy), wanted, make_optimizer()).abandon()
    outcome.same = all(np.array_equal(served[name], tensor.numpy()) for name, tensor in wanted.state_dict().items())


def shortened(events, fails):
    """Return a part of a schedule that still fails, none of whose halves, quarters and so on can be left out."""
    size = len(events) // 2
    while size:
        for start in range(0, len(events), size):
            shorter = events[:start] + events[start + size :]
            if shorter and fails(shorter):
                events = shorter
                break
        else:
            size //= 2
    return events


def quantile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


def main(arguments=None):
    """Carry out the schedules that were asked for; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS), help="faults, comma-separated, each a row; 'mixed' for all")
    parser.add_argument("--durability", default=",".join(LEVELS), help="levels, comma-separated")
    parser.add_argument("--faults", type=int, default=100, help="faults of each row and level")
    parser.add_argument("--trainers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", type=Path, default=Path("build/chaos.json"))
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    print(f"seed {seed}")
    print(
        f"{'fault':<14}{'durability':<12}{'faults':>7}{'lost':>6}{'doubled':>9}{'weights':>9}{'p50 ms':>8}{'p99 ms':>8}"
    )
    rows, failed = [], 0
    for kind in options.kinds.split(","):
        for durability in options.durability.split(","):
            kinds = [k for k in KINDS if k in SURVIVES[durability]] if kind == "mixed" else [kind]
            if not set(kinds) <= SURVIVES[durability]:
                continue
            outcome = row(kinds, durability, options, seed)
            failed += not outcome.good
            lost, doubled = max(0, outcome.answered - outcome.version), max(0, outcome.version - outcome.answered)
            recovery = [1e3 * quantile(outcome.recoveries, share) for share in (0.5, 0.99)]
            weights = "same" if outcome.same else "OTHER"
            print(
                f"{kind:<14}{durability:<12}{outcome.faults:>7}{lost:>6}{doubled:>9}{weights:>9}"
                f"{recovery[0]:>8.0f}{recovery[1]:>8.0f}  {outcome.error}",
                flush=True,
            )
            rows.append([kind, durability, outcome.faults, lost, doubled, outcome.same, *recovery])
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"seed": seed, "trainers": options.trainers, "rows": rows}, indent=1))
    mean = statistics.fmean([r[2] for r in rows]) if rows else 0
    print(f"{len(rows)} rows of {mean:.0f} faults, {failed} failed")
    return failed


def row(kinds, durability, options, seed):
    events, steps = schedule(kinds, options.faults, seed)

    def attempt(events):
        with tempfile.TemporaryDirectory() as folder:
            return carry_out(
                events, steps, durability=durability, trainers=options.trainers, folder=Path(folder) / "store"
            )

    outcome = attempt(events)
    if not outcome.good:
        short = shortened(events, lambda part: not attempt(part).good)
        print(f"  fails with {len(short)} events: {short}")
    return outcome


if __name__ == "__main__":
    sys.exit(min(1, main()))
