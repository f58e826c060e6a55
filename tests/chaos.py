"""Random faults against a server with a store, and a checker of what came of them: ``python -m tests.chaos``.

A schedule says before which step which fault comes; it follows from the seed, which is printed. One trainer's weights
must be those of a run without faults, to the bit; of several, those that the journal gives. A schedule that fails is
made shorter for as long as it still fails, and printed.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

import labnet as ln
from labnet.errors import RemoteError
from labnet.store import LEVELS, Store
from tests.network import faults
from tests.network import trainers as clients
from tests.network.kept import batch, make_linear, make_model, make_optimizer
from tests.network.nursery import Nursery
from tests.network.proxy import FAULTS, Proxy
from tests.network.support import free_port

#: Of the server's process and its disk, beside those of the network and of the machine.
PROCESS = ("kill", "stop", "disk")
KINDS = (*FAULTS, *PROCESS, *clients.KINDS, *faults.KINDS)
#: What outlives the process only as far as it was written down cannot promise to survive its end.
SURVIVES = {"memory": {*KINDS} - {"kill", "call killed"}, "group": {*KINDS}, "every": {*KINDS}}
#: What needs none of the things that only some machines and users have.
ANYWHERE = (*FAULTS, *PROCESS)
#: Calls of journal and checkpoint do not all come in every step.
APART = dict.fromkeys(faults.TRACED, (4, 7))
LONG = 20_000
TOKEN = "the token of the servers in chaos"


class Event(NamedTuple):
    """A fault, before which step it comes, and a number that decides whatever it leaves open."""

    step: int
    kind: str
    salt: int = 0


class Scripted(Proxy):
    """Does to the next requests what it was told, and nothing else."""

    def __init__(self, port):
        self._queue = collections.deque()
        super().__init__(port, share=0.0)

    def tell(self, *kinds):
        with self._lock:
            self._queue.extend(kinds)

    def _choose(self):
        with self._lock:
            fault = self._queue.popleft() if self._queue else "none"
            self.counts[fault] += 1
            return fault


class Site:
    """What the servers of a schedule run on: where their stores are, how they are reached, what forks them."""

    def __init__(self, kinds, folder, *, seconds=0.3, fresh=False):
        self.seconds, self._fresh, self._stack = seconds, fresh, contextlib.ExitStack()
        self.folder, self.host, self.disk, self.link, self.clock = folder, "127.0.0.1", None, None, None
        prefix, environment = (), {}
        if set(kinds) & set(faults.DISK):
            self.disk = self._stack.enter_context(contextlib.closing(faults.Tmpfs()))
            self.folder = self.disk.path
        if set(kinds) & set(faults.LINK):
            self.link = self._stack.enter_context(contextlib.closing(faults.Link()))
            prefix, self.host = self.link.prefix, self.link.host
        if set(kinds) & set(faults.CLOCK):
            self.clock = self._stack.enter_context(contextlib.closing(faults.Clock()))
            environment = self.clock.environment
        self._nursery = Nursery(prefix, **environment)
        self._again = lambda: Nursery(prefix, **environment)

    def start(self, *arguments, before=lambda pid: None, program="kept"):
        if self._fresh:
            self._nursery.close()
            self._nursery = self._again()
        environment = {"KEPT_TOKEN": TOKEN, "KEPT_HOST": self.host, "KEPT_LONG": str(LONG)}
        return self._nursery.start(*arguments, program=program, before=before, **environment)

    def close(self):
        self._nursery.close()
        self._stack.close()


class Server:
    """A server with a store in a process of its own, that is started again when it is killed."""

    def __init__(self, site, name, durability, inner=""):
        self.site, self.folder, self.durability = site, site.folder / name, durability
        self.port, self._inner = free_port(), inner
        self.url = f"http://{site.host}:{self.port}"
        self.suffered = 0
        #: Seconds from deaths by system calls until the server was there again.
        self.recoveries = []
        self._lock = threading.Lock()
        self._injected = None
        self._start()

    def client(self, **options):
        return ln.network.remote_model(self.url, blocking=True, token=TOKEN, **options)

    def _start(self, before=lambda pid: None):
        arguments = (self.folder, self.port, self.durability, 0, self._inner)
        self.process = self.site.start(*arguments, before=before)
        if self.process.said is None:  # it died, or its disk did: once more without a fault
            self._end_injection()
            self.process.wait()
            self.process = self.site.start(*arguments, before=lambda pid: None)
        assert self.process.said, "the server did not start"

    def end(self):
        self.calm()
        self.process.end()

    def calm(self):
        """Give up a fault that has not come yet."""
        while not self._lock.acquire(timeout=0.02):
            injected = self._injected
            if injected is not None:
                injected.detach()
        self._end_injection()
        self._lock.release()

    def _end_injection(self):
        if self._injected is not None:
            self.suffered += self._injected.end()
            self._injected = None

    def suffer(self, kind, salt):
        """Bring a fault over the process or its machine, and wait until it is over; one at a time."""
        with self._lock:
            if kind in faults.TRACED:
                self._inject(faults.TRACED[kind], salt, kills=kind == "call killed")
                return
            self._suffer(kind, salt)
            self.suffered += 1

    def _suffer(self, kind, salt):
        site = self.site
        if kind == "kill":
            self.process.kill()
            self._start()
        elif kind == "stop":
            self.process.signal(signal.SIGSTOP)
            time.sleep(site.seconds)
            self.process.signal(signal.SIGCONT)
        elif kind == "disk":
            self.process.signal(signal.SIGUSR1)
        elif kind == "full disk":
            site.disk.fill(site.seconds)
        elif kind == "partition":
            site.link.partition(site.seconds)
        elif kind == "unplugged":
            site.link.unplug(site.seconds)
        elif kind == "address":
            site.link.move()
        elif kind == "clock":
            site.clock.jump(random.Random(salt).randint(-3600, 3600))
        else:
            raise AssertionError(kind)

    def _inject(self, what, salt, *, kills):
        """Have one of the next system calls of a kind fail, or one of those while the store is opened after a crash."""
        call, number = faults.choose_call(salt)

        def trace(pid):
            self._injected = faults.Injected(pid, call, what, number)

        if salt % 4 == 0 and "kill" in SURVIVES[self.durability] and call != "write":  # by which it says that it is up
            self.process.kill()
            self.suffered += 1
            self._start(trace)
        else:
            trace(self.process.pid)
        if kills and self._injected is not None:
            while self.process.is_alive and not self._injected.is_over:
                time.sleep(0.01)
            self._end_injection()
            if not self.process.is_alive:
                began = time.perf_counter()
                self.process.wait()
                self._start()
                self.recoveries.append(time.perf_counter() - began)


@dataclass
class Outcome:
    """What came of a schedule; `versions` has one for each server, `doubt` steps of which no trainer knows anything."""

    faults: int
    answered: int = 0
    doubt: int = 0
    versions: list[int] = field(default_factory=list)
    same: bool = False
    recoveries: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def good(self):
        return self.same and not self.lost and not self.doubled and not self.error

    @property
    def lost(self):
        return sum(max(0, self.answered - version) for version in self.versions)

    @property
    def doubled(self):
        return sum(max(0, version - self.answered - self.doubt) for version in self.versions)


def schedule(kinds, count, seed):
    """Return so many events, a few steps apart, and how many steps there are."""
    chance, step, events = random.Random(seed), 2, []
    for _ in range(count):
        kind = chance.choice(kinds)
        step += chance.randint(*APART.get(kind, (0, 2)))
        events.append(Event(step, kind, chance.randrange(1 << 30)))
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
            except ln.errors.PartialUpdate:
                continue  # the same backward again completes it
            except ln.errors.StaleGradient:
                loss = None  # applied: no
            except RemoteError as error:  # the same backward again resolves what is in doubt
                if getattr(error, "applied", None) == "no" or loss is None:
                    loss = None
                elif isinstance(error, ln.errors.GraphExpired | ln.errors.CallExpired):
                    raise
    return len(steps)


def carry_out(events, steps, *, durability, trainers, folder, composed=False, seconds=0.3, fresh=False):
    """Run a schedule against fresh servers and check what came of it."""
    events = [Event(*event) for event in events]
    with contextlib.ExitStack() as stack:
        kinds = {event.kind for event in events}
        site = Site(kinds, Path(folder), seconds=seconds, fresh=fresh)
        stack.enter_context(contextlib.closing(site))
        servers, proxies = [], []
        for name in ("inner", "outer") if composed else ("store",):
            inner = f"http://127.0.0.1:{proxies[0].port}" if proxies else ""
            servers.append(Server(site, name, durability, inner))
            stack.callback(servers[-1].end)
            if site.link is None:
                proxies.append(stack.enter_context(Scripted(servers[-1].port)))
        url = proxies[-1].url if proxies else servers[-1].url
        outcome = Outcome(sum(event.kind in FAULTS for event in events))
        if kinds & {*clients.KINDS}:
            clients.carry_out(events, site, url, site.folder, outcome)
            check(outcome, servers, steps, 2)  # steps that nobody knows of may be missing
            return outcome
        try:
            outcome.answered = asyncio.run(_train_all(events, steps, trainers, url, servers, proxies, outcome))
        except Exception as error:
            outcome.error = f"{type(error).__name__}: {error}"
        for server in servers:
            server.calm()
            outcome.faults += server.suffered
            outcome.recoveries += server.recoveries
        check(outcome, servers, steps, trainers)
    return outcome


async def _train_all(events, steps, trainers, url, servers, proxies, outcome):
    """Let all trainers train while the events happen; returns how many steps were answered."""
    due = collections.defaultdict(list)
    for event in events:
        due[event.step].append(event)
    suffering: list[tuple[Server, threading.Thread]] = []
    watching: list[asyncio.Task[None]] = []
    quick = ln.network.Backoff(first=0.01, longest=0.05, attempt=0.25)

    async def calm():
        for server, thread in suffering:
            while thread.is_alive():
                await asyncio.to_thread(server.calm)
                await asyncio.to_thread(thread.join, 0.02)
            await asyncio.to_thread(server.calm)
        suffering.clear()

    async def before(number):
        for event in due.pop(number, ()):
            which = event.salt % len(servers)
            if event.kind in FAULTS:
                proxies[which].tell(*["none"] * (number % 2), event.kind)
                continue
            await calm()
            server = servers[which]
            thread = threading.Thread(target=server.suffer, args=(event.kind, event.salt))
            suffering.append((server, thread))
            began = time.perf_counter()
            thread.start()
            if event.kind not in faults.TRACED:
                watching.append(asyncio.create_task(asyncio.to_thread(there, server, thread, began)))

    def there(server, thread, began):
        thread.join()
        server.client(backoff=quick, timeout=timeout).statistics()
        outcome.recoveries.append(time.perf_counter() - began)

    timeout = 30.0 + 5 * servers[0].site.seconds  # several may come one after the other
    models = [
        ln.network.remote_model(url, client=f"trainer{number}", backoff=quick, token=TOKEN, timeout=timeout)
        for number in range(trainers)
    ]
    done = await asyncio.gather(
        *[train(model, range(number, steps, trainers), before) for number, model in enumerate(models)]
    )
    await calm()
    await asyncio.gather(*watching)
    return sum(done)


def check(outcome, servers, steps, trainers):
    """Compare the weights that are served with those that should be there."""
    clients = [server.client() for server in servers]
    outcome.versions = [client.statistics()["server"]["version"] for client in clients]
    served = [{name: np.asarray(tensor) for name, tensor in client.state_dict().items()} for client in clients]
    if trainers == 1:
        wanted = without_faults(steps, composed=len(servers) > 1)
    elif servers[0].durability == "memory" or len(servers) > 1:
        outcome.same = True  # there is nothing to compare with
        return
    else:
        model = make_model()
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(servers[0].folder, copy, dirs_exist_ok=True)
            Store(Path(copy), model, make_optimizer()).abandon()
        wanted = [_values(model)]
    outcome.same = all(
        np.array_equal(found[name], expected[name])
        for found, expected in zip(served, wanted, strict=True)
        for name in expected
    )


def without_faults(steps, *, composed=False):
    """Return the weights of each server after so many steps in one process."""
    inner, outer = make_model(), make_linear()
    optimizers = [(inner, make_optimizer())] + [(outer, make_optimizer())] * composed
    for number in range(steps):
        x, y = batch(number)
        gradients = ln.loss.mse(inner(outer(x) if composed else x), y).backward()
        for model, optimizer in optimizers:
            own = {id(parameter) for parameter in model.parameters()}
            optimizer(ln.autograd.Gradients([(t, g) for t, g in gradients.items() if id(t) in own]))
    return [_values(inner)] + [{f"own.{name}": value for name, value in _values(outer).items()}] * composed


def _values(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


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
    parser.add_argument(
        "--kinds",
        default=",".join(KINDS),
        help=f"faults, comma-separated, each a row; 'network' is {', '.join(FAULTS)}; 'mixed' is a row of those "
        f"and of {', '.join(PROCESS)}",
    )
    parser.add_argument("--durability", default=",".join(LEVELS), help="levels, comma-separated")
    parser.add_argument("--faults", type=int, default=100, help="faults of each row and level")
    parser.add_argument("--trainers", type=int, default=1)
    parser.add_argument("--composed", action="store_true", help="a server in front of another one; faults meet both")
    parser.add_argument("--seconds", type=float, default=0.3, help="how long a stop, a partition and a full disk last")
    parser.add_argument("--fresh", action="store_true", help="start servers with a Python of their own, not by a fork")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", type=Path, default=Path("build/chaos.json"))
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    print(f"seed {seed}")
    print(
        f"{'fault':<16}{'durability':<12}{'faults':>7}{'lost':>6}{'doubled':>9}{'weights':>9}{'p50 ms':>8}{'p99 ms':>8}"
    )
    rows, failed = [], 0
    for kind in options.kinds.replace("network", ",".join(FAULTS)).split(","):
        reason = faults.missing(kind)
        if reason:
            print(f"{kind:<16}left out: {reason}")
            continue
        for durability in options.durability.split(","):
            kinds = [k for k in ANYWHERE if k in SURVIVES[durability]] if kind == "mixed" else [kind]
            if not set(kinds) <= SURVIVES[durability]:
                continue
            outcome = row(kinds, durability, options, seed)
            failed += not outcome.good
            recovery = [1e3 * quantile(outcome.recoveries, share) for share in (0.5, 0.99)]
            weights = "same" if outcome.same else "OTHER"
            print(
                f"{kind:<16}{durability:<12}{outcome.faults:>7}{outcome.lost:>6}{outcome.doubled:>9}{weights:>9}"
                f"{recovery[0]:>8.0f}{recovery[1]:>8.0f}  {outcome.error}",
                flush=True,
            )
            rows.append([kind, durability, outcome.faults, outcome.lost, outcome.doubled, outcome.same, *recovery])
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"seed": seed, "trainers": options.trainers, "rows": rows}, indent=1))
    mean = statistics.fmean([r[2] for r in rows]) if rows else 0
    print(f"{len(rows)} rows of {mean:.0f} faults, {failed} failed")
    return failed


def row(kinds, durability, options, seed):
    events, steps = schedule(kinds, options.faults, seed)
    same = {name: getattr(options, name) for name in ("trainers", "composed", "seconds", "fresh")}

    def attempt(events):
        with tempfile.TemporaryDirectory() as folder:
            return carry_out(events, steps, durability=durability, folder=folder, **same)

    outcome = attempt(events)
    if not outcome.good:
        short = shortened(events, lambda part: not attempt(part).good)
        print(f"  fails with {len(short)} events: {[tuple(event) for event in short]}")
    return outcome


if __name__ == "__main__":
    sys.exit(min(1, main()))
