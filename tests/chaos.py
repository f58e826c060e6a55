"""Random faults against servers with stores, and a checker of what came of them: ``python -m tests.chaos``.

A schedule says during which step which fault comes; it follows from the seed, which is printed. One trainer's weights
must be those of a run without faults, to the bit; of several, and with dropout, those that the journal gives. A
schedule that fails is made shorter for as long as it still fails, and printed.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

import labnet as ln
from labnet.errors import RemoteError
from labnet.store import LEVELS, Store
from tests.helpers.network import machine_faults
from tests.helpers.network import trainers as clients
from tests.helpers.network.fault_proxy import FAULTS, SLOW, Proxy
from tests.helpers.network.fork_server import ForkServer
from tests.helpers.network.replica_server import Listing
from tests.helpers.network.store_server import make_optimizer, make_served
from tests.helpers.network.topologies import TOPOLOGIES, loss_of, values, without_faults
from tests.helpers.ports import free_port

NETWORK = (*FAULTS, *SLOW)
#: Of two servers that end at the same moment.
SEVERAL = ("kill two",)
#: Of the server's process and its disk, beside those of the network and of the machine.
PROCESS = ("kill", "stop", "disk")
KINDS = (*NETWORK, *PROCESS, *SEVERAL, *clients.KINDS, *machine_faults.KINDS)
#: What outlives the process only as far as it was written down cannot promise to survive its end.
SURVIVES = {"memory": {*KINDS} - {"kill", "kill two", "call killed"}, "group": {*KINDS}, "every": {*KINDS}}
#: What needs none of the things that only some machines and users have.
ANYWHERE = (*NETWORK, *PROCESS, *SEVERAL)
#: Kinds that need a store, which a replica has not.
OF_STORES = ("disk", *machine_faults.TRACED, *machine_faults.DISK)
#: Kinds that come at a moment of their own within a step, not at its begin.
WITHIN = ("kill", "stop", *SEVERAL)
#: Calls of journal and checkpoint do not all come in every step.
APART = dict.fromkeys(machine_faults.TRACED, (4, 7))
LONG = 20_000
TOKEN = "the token of the servers in chaos"
#: How often, and for how many seconds, one step is tried before that counts as a failure.
_ATTEMPTS, _STEP_SECONDS = 100, 120.0
#: Errors that no fault is to turn a forward into: it changes nothing, and can be made again.
_NEVER_OF_FORWARDS = (ln.errors.RemoteFailure, ln.errors.BadRequest, ln.errors.CallExpired)


class Event(NamedTuple):
    """A fault, before which step it comes, and a number that decides whatever it leaves open."""

    step: int
    kind: str
    salt: int = 0


class Scripted(Proxy):
    """Does to the next requests what it was told, and nothing else."""

    def __init__(self, port, *, latency=0.0):
        self._queue = collections.deque()
        super().__init__(port, share=0.0, latency=latency)

    def tell(self, event):
        with self._lock:
            self._queue.extend([Event(event.step, "none", event.salt)] * (event.step % 2))
            self._queue.append(event)

    def _choose(self):
        with self._lock:
            if not self._queue:
                return "none"
            event = self._queue.popleft()
            self._random.seed(event.salt)
            self.counts[event.kind] += 1
            return event.kind


class Pace:
    """How long a step takes that meets no fault, as far as that can be told."""

    def __init__(self):
        self._seconds = collections.deque([0.005], maxlen=40)

    def add(self, seconds):
        self._seconds.append(seconds)

    def moment(self, salt):
        """Return for how many seconds to wait before a fault, so that it meets any part of a step."""
        return random.Random(salt).uniform(0.0, 1.3) * quantile(self._seconds, 0.25)


@dataclass(frozen=True)
class Setting:
    """What a schedule is carried out against.

    Attributes
    ----------
    topology : str
        A name of `TOPOLOGIES`.
    seconds : float
        How long a stop, a partition and a full disk last.
    fresh : bool
        Whether servers start with a Python of their own.
    latency : float
        Milliseconds that the exchanges of the client take longer; those of the servers with each other a half, a
        third and so on.
    dropout : float
        Probability of dropout before a server goes on in another one.
    """

    topology: str = "single"
    durability: str = "group"
    trainers: int = 1
    seconds: float = 0.3
    fresh: bool = False
    latency: float = 0.0
    dropout: float = 0.0

    @property
    def shape(self):
        return TOPOLOGIES[self.topology]

    def missing(self, kind):
        """Return why a fault cannot be brought about with these servers, empty if it can."""
        if kind in SEVERAL and len(self.shape.parts) < 2:
            return "needs two servers"
        if kind in (*clients.KINDS, *machine_faults.LINK) and self.shape.replicated:
            return "its client is not told where the replicas are"
        return ""


class Site:
    """What the servers of a schedule run on: where their stores are, how they are reached, what forks them."""

    def __init__(self, kinds, folder, *, seconds=0.3, fresh=False):
        self.seconds, self._fresh, self._stack = seconds, fresh, contextlib.ExitStack()
        self.folder, self.host, self.disk, self.link, self.clock = folder, "127.0.0.1", None, None, None
        prefix, environment = (), {}
        if set(kinds) & set(machine_faults.DISK):
            self.disk = self._stack.enter_context(contextlib.closing(machine_faults.Tmpfs()))
            self.folder = self.disk.path
        if set(kinds) & set(machine_faults.LINK):
            self.link = self._stack.enter_context(contextlib.closing(machine_faults.Link()))
            prefix, self.host = self.link.prefix, self.link.host
        if set(kinds) & set(machine_faults.CLOCK):
            self.clock = self._stack.enter_context(contextlib.closing(machine_faults.Clock()))
            environment = self.clock.environment
        self._fork_server = ForkServer(prefix, **environment)
        self._again = lambda: ForkServer(prefix, **environment)

    def start(self, *arguments, before=lambda pid: None, program="store_server", **environment):
        if self._fresh:
            self._fork_server.close()
            self._fork_server = self._again()
        environment |= {"SERVER_TOKEN": TOKEN, "SERVER_HOST": self.host, "SERVER_LONG": str(LONG)}
        return self._fork_server.start(*arguments, program=program, before=before, **environment)

    def close(self):
        self._fork_server.close()
        self._stack.close()


class Server:
    """A server in a process of its own, that is started again when it is killed.

    Parameters
    ----------
    part : Part
    behind : str
        URL of the server that it goes on in, or follows.
    seed : int
        Of its random numbers, which are others after each start.
    """

    def __init__(self, site, part, setting, behind="", *, seed=0):
        self.site, self.part, self.folder, self.durability = site, part, site.folder / part.name, setting.durability
        self.port, self._setting, self._random = free_port(), setting, random.Random(f"{seed} {part.name}")
        self.url = f"http://{site.host}:{self.port}"
        self.model = f"{part.kind} {behind}".strip()
        self._behind = behind
        self.suffered, self.failure = 0, ""
        #: Seconds from deaths by system calls until the server was there again.
        self.recoveries = []
        #: What a replica's listing knows of it; None while it is gone.
        self.incarnation = None
        self._lock = threading.Lock()
        self._injected = None
        self._start()

    def client(self, **options):
        return ln.network.remote_model(self.url, blocking=True, token=TOKEN, **options)

    def _begin(self, before):
        if self._setting.shape.replicated:
            arguments, program = (self.folder, self.port, self.durability, self._behind), "replica_server"
        else:
            arguments, program = (self.folder, self.port, self.durability, 0, self.model), "store_server"
        given = {"SERVER_DROPOUT": str(self._setting.dropout), "SERVER_SEED": str(self._random.randrange(1 << 30))}
        return self.site.start(*arguments, before=before, program=program, **given)

    def _start(self, before=lambda pid: None):
        self.process = self._begin(before)
        if self.process.said is None:  # it died, or its disk did: once more without a fault
            self._end_injection()
            self.process.wait()
            self.process = self._begin(lambda pid: None)
        if not self.process.said:
            self.failure = f"{self.part.name} did not start"
            raise AssertionError(self.failure)
        self.incarnation = self.process.said.get("incarnation")

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

    def suffer(self, kind, salt, delay=0.0):
        """Bring a fault over the process or its machine, and wait until it is over; one at a time."""
        with self._lock:
            time.sleep(delay)
            if kind in machine_faults.TRACED:
                self._inject(machine_faults.TRACED[kind], salt, kills=kind == "call killed")
                return
            self._suffer(kind, salt)
            self.suffered += 1

    def suffer_with(self, other, delay):
        """End at the same moment as another server, and start at the same time."""
        with self._lock, other._lock:
            time.sleep(delay)
            for server in (self, other):
                server.process.signal(signal.SIGKILL)
            starting = [threading.Thread(target=server._restart) for server in (self, other)]
            for thread in starting:
                thread.start()
            for thread in starting:
                thread.join()
            self.suffered += 1

    def _restart(self):
        self.process.kill()
        self.incarnation = None
        self._start()

    def _suffer(self, kind, salt):
        site = self.site
        if kind == "kill":
            self._restart()
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
        call, number = machine_faults.choose_call(salt)

        def trace(pid):
            self._injected = machine_faults.Injected(pid, call, what, number)

        if salt % 4 == 0 and "kill" in SURVIVES[self.durability] and call != "write":  # by which it says that it is up
            self.process.kill()
            self.incarnation = None
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
                self.incarnation = None
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


async def train(model, topology, steps, before, answered):
    """Train for so many steps, each until it is answered."""
    for number in steps:
        await before(number)
        began = time.perf_counter()
        await _step(model, topology, number)
        answered(time.perf_counter() - began)


async def _step(model, topology, number):
    loss, until = None, time.monotonic() + _STEP_SECONDS
    for attempt in range(_ATTEMPTS):
        try:
            if loss is None:
                loss = await loss_of(model, topology, number)
            await loss.backward()
            return
        except RemoteError as error:
            if attempt == _ATTEMPTS - 1 or time.monotonic() > until:
                raise
            if loss is None and isinstance(error, _NEVER_OF_FORWARDS):
                raise
            if isinstance(error, ln.errors.PartialUpdate):
                continue  # the same backward again completes it
            if isinstance(error, ln.errors.StaleGradient) or error.applied == "no" or loss is None:
                loss = None
            elif isinstance(error, ln.errors.GraphExpired | ln.errors.CallExpired):
                raise
            # the same backward again resolves what is in doubt


def carry_out(events, steps, *, folder, **options):
    """Run a schedule against fresh servers and check what came of it; the options are those of a `Setting`."""
    events, setting = [Event(*event) for event in events], Setting(**options)
    with contextlib.ExitStack() as stack:
        kinds = {event.kind for event in events}
        site = Site(kinds, Path(folder), seconds=setting.seconds, fresh=setting.fresh)
        stack.enter_context(contextlib.closing(site))
        servers, proxies = [], []
        waiting = contextlib.ExitStack()  # proxies end last: they wait for servers that have not answered yet
        stack.enter_context(waiting)
        for number, part in enumerate(setting.shape.parts):
            behind = "" if part.behind is None else (proxies or servers)[part.behind].url
            servers.append(Server(site, part, setting, behind, seed=events[0].salt))
            stack.callback(servers[-1].end)
            if site.link is None:
                hops = len(setting.shape.parts) - number
                latency = setting.latency / 1e3 / (1 if setting.shape.replicated else hops)
                proxies.append(waiting.enter_context(Scripted(servers[-1].port, latency=latency)))
        outcome = Outcome(sum(event.kind in NETWORK for event in events))
        if kinds & {*clients.KINDS}:
            clients.carry_out(events, site, (proxies or servers)[-1].url, site.folder, outcome, setting.topology)
            check(outcome, servers, steps, setting, alone=False)  # steps that nobody knows of may be missing
            return outcome
        try:
            asyncio.run(_train_all(events, steps, setting, servers, proxies, outcome))
        except Exception as error:
            outcome.error = f"{type(error).__name__}: {error}"
        outcome.error = outcome.error or next((server.failure for server in servers if server.failure), "")
        for server in servers:
            server.calm()
            outcome.faults += server.suffered
            outcome.recoveries += server.recoveries
        check(outcome, servers, steps, setting, alone=setting.trainers == 1)
    return outcome


def _models(servers, proxies, setting, **options):
    """Return a remote model for each trainer."""
    given = [{"client": f"trainer{number}", **options} for number in range(setting.trainers)]
    if not setting.shape.replicated:
        url = (proxies or servers)[-1].url
        return [ln.network.remote_model(url, token=TOKEN, **more) for more in given]

    def parts():
        found = [(number, proxies[number].url, TOKEN, server.incarnation) for number, server in enumerate(servers)]
        return [part for part in found if part[-1]]

    return [Listing(parts, len(servers)).client(**more) for more in given]


async def _train_all(events, steps, setting, servers, proxies, outcome):
    """Let all trainers train while the events happen; counts in the outcome how many steps were answered."""
    due = collections.defaultdict(list)
    for event in events:
        due[event.step].append(event)
    suffering: list[tuple[list[Server], threading.Thread]] = []
    watching: list[asyncio.Task[None]] = []
    quick = ln.network.Backoff(first=0.01, longest=0.05, attempt=0.25)
    pace, trainers = Pace(), setting.trainers

    async def calm():
        for victims, thread in suffering:
            while thread.is_alive():
                for server in victims:
                    await asyncio.to_thread(server.calm)
                await asyncio.to_thread(thread.join, 0.02)
            for server in victims:
                await asyncio.to_thread(server.calm)
        suffering.clear()

    async def before(number):
        for event in due.pop(number, ()):
            if event.kind in NETWORK:
                proxies[event.salt % len(proxies)].tell(event)
                continue
            await calm()
            delay = pace.moment(event.salt) if event.kind in WITHIN else 0.0
            victims, thread = _suffering(event, servers, delay)
            suffering.append((victims, thread))
            began = time.perf_counter() + delay
            thread.start()
            if event.kind not in machine_faults.TRACED:
                watching.append(asyncio.create_task(asyncio.to_thread(there, victims, thread, began)))

    def there(victims, thread, began):
        thread.join()
        for server in victims:
            server.client(backoff=quick, timeout=timeout).statistics()
        outcome.recoveries.append(time.perf_counter() - began)

    timeout = 30.0 + 5 * setting.seconds  # several may come one after the other

    def answered(seconds):
        outcome.answered += 1
        pace.add(seconds)

    models = _models(servers, proxies, setting, backoff=quick, timeout=timeout)
    await asyncio.gather(
        *[
            train(model, setting.shape, range(number, steps, trainers), before, answered)
            for number, model in enumerate(models)
        ]
    )
    await calm()
    await asyncio.gather(*watching)


def _suffering(event, servers, delay):
    """Return the servers that an event meets, and a thread that brings it over them."""
    if event.kind in SEVERAL:
        victims = random.Random(event.salt).sample(servers, 2)
        return victims, threading.Thread(target=victims[0].suffer_with, args=(victims[1], delay))
    able = [server for server in servers if not (server.part.replica and event.kind in OF_STORES)]
    victim = able[event.salt % len(able)]
    return [victim], threading.Thread(target=victim.suffer, args=(event.kind, event.salt, delay))


def check(outcome, servers, steps, setting, *, alone):
    """Compare the weights that are served with those that should be there."""
    clients = [server.client() for server in servers]
    outcome.versions = [client.statistics()["server"]["version"] for client in clients]
    for number, server in enumerate(servers):
        if server.part.replica:
            outcome.versions[number] = _followed(clients[number], outcome.versions[server.part.behind])
    served = [{name: np.asarray(tensor) for name, tensor in client.state_dict().items()} for client in clients]
    if alone and not setting.dropout:
        wanted = without_faults(steps, setting.shape)
    elif setting.durability == "memory":
        outcome.same = True  # there is nothing to compare with
        return
    else:
        wanted = [None if server.part.replica else replayed(server) for server in servers]
        wanted = [wanted[0] if weights is None else weights for weights in wanted]
    outcome.same = all(
        found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)
        for found, expected in zip(served, wanted, strict=True)
    )


def _followed(replica, version):
    """Wait until a replica has the weights of its primary; returns the version that it has."""
    until = time.monotonic() + 60.0
    while (found := replica.statistics()["server"]["version"]) != version and time.monotonic() < until:
        time.sleep(0.01)
    return found


def replayed(server):
    """Return the weights that the journal of a server gives."""
    model = make_served(server.model)
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(server.folder, copy, dirs_exist_ok=True)
        Store(Path(copy), model, make_optimizer()).abandon()
    return values(model)


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
        help=f"faults, comma-separated, each a row; 'network' is {', '.join(NETWORK)}; 'mixed' is a row of those "
        f"and of {', '.join((*PROCESS, *SEVERAL))}",
    )
    parser.add_argument("--durability", default=",".join(LEVELS), help="levels, comma-separated")
    parser.add_argument("--faults", type=int, default=100, help="faults of each row and level")
    parser.add_argument("--trainers", type=int, default=1)
    parser.add_argument(
        "--topology",
        choices=TOPOLOGIES,
        default="single",
        help="one server; one in front of another; three in a row; one whose model a loss uses twice; one in front of "
        "another that it calls twice; a primary with two replicas. Faults meet all of them",
    )
    parser.add_argument(
        "--composed", action="store_true", help="the topology composed; with --topology twice, composed-twice"
    )
    parser.add_argument("--dropout", action="store_true", help="dropout before a server goes on in another one")
    parser.add_argument(
        "--latency",
        type=float,
        default=0.0,
        help="milliseconds that an exchange of the client takes longer; further down a chain a half, a third and so on",
    )
    parser.add_argument("--seconds", type=float, default=0.3, help="how long a stop, a partition and a full disk last")
    parser.add_argument("--fresh", action="store_true", help="start servers with a Python of their own, not by a fork")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", type=Path, default=Path("build/chaos.json"))
    options = parser.parse_args(arguments)
    if options.composed:
        options.topology = {"single": "composed", "twice": "composed-twice"}.get(options.topology, options.topology)
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    print(f"seed {seed}, {options.topology}")
    print(
        f"{'fault':<16}{'durability':<12}{'faults':>7}{'lost':>6}{'doubled':>9}{'weights':>9}{'p50 ms':>8}{'p99 ms':>8}"
    )
    rows, failed = [], 0
    for kind in options.kinds.replace("network", ",".join(NETWORK)).split(","):
        setting = _setting(options, "memory")
        reason = machine_faults.missing(kind) or setting.missing(kind)
        if reason:
            print(f"{kind:<16}left out: {reason}")
            continue
        for durability in options.durability.split(","):
            setting = _setting(options, durability)
            kinds = [kind]
            if kind == "mixed":
                kinds = [k for k in ANYWHERE if k in SURVIVES[durability] and not setting.missing(k)]
            if not set(kinds) <= SURVIVES[durability]:
                continue
            outcome = row(kinds, setting, options.faults, seed)
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
    about = {"seed": seed, "trainers": options.trainers, "topology": options.topology}
    options.json.write_text(json.dumps({**about, "rows": rows}, indent=1))
    mean = statistics.fmean([r[2] for r in rows]) if rows else 0
    print(f"{len(rows)} rows of {mean:.0f} faults, {failed} failed")
    return failed


def _setting(options, durability):
    names = ("topology", "trainers", "seconds", "fresh", "latency")
    given = {name: getattr(options, name) for name in names}
    return Setting(durability=durability, dropout=0.5 if options.dropout else 0.0, **given)


def row(kinds, setting, count, seed):
    """Carry out one schedule; make it shorter if it fails."""
    events, steps = schedule(kinds, count, seed)

    def attempt(events):
        with tempfile.TemporaryDirectory() as folder:
            return carry_out(events, steps, folder=folder, **asdict(setting))

    outcome = attempt(events)
    if not outcome.good:
        short = shortened(events, lambda part: not attempt(part).good)
        print(f"  fails with {len(short)} events: {[tuple(event) for event in short]}")
    return outcome


if __name__ == "__main__":
    sys.exit(min(1, main()))
