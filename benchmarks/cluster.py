"""What a cluster costs and gives: ``python benchmarks/cluster.py [throughput] [hops] [scheduler] [links] [picture]``.

Throughput over workers whose compute is a fixed wait; time per hop; what the scheduler does for a call; and, as root
on Linux, steps per second over throttled links beside what `cluster_model` says.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]

import cluster_model

import labnet as ln
from labnet import nn
from labnet.autograd import Node
from labnet.tensor import wrap
from tests.helpers.cluster.hosts import Hosts, Link, can_link, hosts
from tests.helpers.cluster.waits import until

WAIT = 0.1


class Waiting(nn.Module):
    """A stage whose compute is a fixed wait."""

    def __init__(self, seconds=WAIT):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.seconds = seconds

    def forward(self, x):
        """Wait, and compute a little."""
        time.sleep(self.seconds)
        return self.linear(x)


def quickest_tenth(seconds):
    """Return the tenth percentile: other programs use the machine too."""
    return statistics.quantiles(seconds, n=10)[0]


def throughput(counts, seconds=5.0):
    """Print forwards per second over workers, and how much of linear that is."""
    print(f"forwards per second, {WAIT * 1e3:.0f} ms of waiting each, two in flight for each worker")
    print(f"{'workers':>8}{'per second':>12}{'of linear':>11}")
    x = ln.ones((1, 8))
    with ln.cluster.connect(workers=max(counts)) as cluster:
        for count in counts:
            model = cluster.serve_model(Waiting, name="waiting", replicas=count)

            async def caller(model, until_then):
                done = 0
                while time.perf_counter() < until_then:
                    with ln.no_grad():
                        await model(x)
                    done += 1
                return done

            async def run(model, count):
                await asyncio.gather(*[caller(model, time.perf_counter() + 0.5) for _ in range(2 * count)])
                began = time.perf_counter()
                done = await asyncio.gather(*[caller(model, began + seconds) for _ in range(2 * count)])
                return sum(done) / (time.perf_counter() - began)

            rate = asyncio.run(run(model, count))
            print(f"{count:>8}{rate:>12.1f}{rate * WAIT / count:>11.2f}", flush=True)
            cluster.stop("waiting")


def linear8():
    return nn.Linear(8, 8)


def hops():
    """Print the time of a forward and of a step through chains of stages."""
    print("a chain of stages that the client passes 8 floats through: tenth percentiles")
    print(f"{'stages':>8}{'forward ms':>12}{'step ms':>10}")
    rows = []
    with ln.cluster.connect(workers=3) as cluster:
        stages = [cluster.serve_model(linear8, ln.optim.SGD(lr=1e-9), name=f"s{n}") for n in range(6)]

        async def run(chain):
            forwards, steps = [], []
            for _ in range(300):
                began = time.perf_counter()
                y = ln.ones((1, 8))
                for stage in chain:
                    y = await stage(y)
                forwards.append(time.perf_counter() - began)
                await y.sum().backward()
                steps.append(time.perf_counter() - began)
            return tuple(map(quickest_tenth, (forwards, steps)))

        for count in (1, 2, 3, 6):
            rows.append((count, *asyncio.run(run(stages[:count]))))
            print(f"{count:>8}{rows[-1][1] * 1e3:>12.2f}{rows[-1][2] * 1e3:>10.2f}", flush=True)
    first, last = rows[0], rows[-1]
    per_hop = [(b - a) / (last[0] - first[0]) * 1e3 for a, b in zip(first[1:], last[1:], strict=True)]
    print(f"per hop: {per_hop[0]:.2f} ms forward, {per_hop[1]:.2f} ms forward and backward")


def scheduler_load(calls=2000):
    """Print seconds of processor time of the scheduler, while a model is called and while nothing happens."""
    with tempfile.TemporaryDirectory() as folder, hosts(folder, ["a"]) as (_, cluster):
        model = cluster.serve_model(linear8, ln.optim.SGD(lr=1e-9), name="model", blocking=True)
        client = cluster.client

        def used(work):
            before, began = client.run_on_scheduler(time.process_time), time.perf_counter()
            work()
            seconds = time.perf_counter() - began
            return client.run_on_scheduler(time.process_time) - before, seconds

        def work():
            for _ in range(calls):
                model(ln.ones((1, 8))).sum().backward()

        work_cpu, seconds = used(work)
        idle_cpu, _ = used(lambda: time.sleep(seconds))
        print(
            f"scheduler: {work_cpu:.3f} s of processor time during {2 * calls} calls in {seconds:.1f} s, "
            f"{idle_cpu:.3f} s in as long without any"
        )


def wide(width):
    def factory():
        return nn.Linear(width, width)

    return factory


def constants(megabits, width):
    """Measure what the model needs, on this machine and without a limited link."""
    with ln.cluster.connect(workers=1) as cluster:
        small = cluster.serve_model(linear8, name="small", blocking=True)
        large = cluster.serve_model(lambda: lambda x: x, name="large", blocking=True)

        def quick(function, times=100):
            taken, busy = [], []
            for _ in range(times):
                began, used = time.perf_counter(), time.process_time()
                function()
                taken.append(time.perf_counter() - began)
                busy.append(time.process_time() - used)
            return tuple(map(quickest_tenth, (taken, busy)))

        call, client = quick(lambda: small(ln.ones((1, 8))), 400)
        y = ln.ones((1024, 1024))
        with ln.no_grad():
            echo, _ = quick(lambda: large(y))
        copying = 2 * y.size * 4 / max(echo - call, 1e-6)
        x = ln.ones((width, width))
        layer = nn.Linear(width, width)
        x.requires_grad = True

        def forward():
            return layer(x)

        forwards, _ = quick(forward)
        both, _ = quick(lambda: forward().sum().backward())
    found = cluster_model.Constants(call, min(client, call), 0.0, megabits * 1e6 / 8, copying)
    print(
        f"constants: call {call * 1e3:.2f} ms, of the client {client * 1e3:.2f} ms, "
        f"copying {copying / 1e6:.0f} MB/s, "
        f"link {megabits} Mbit/s, "
        f"compute {forwards * 1e3:.2f} + {(both - forwards) * 1e3:.2f} ms"
    )
    return found, forwards, max(0.0, both - forwards)


def links(megabits=100, width=256, rows=256):
    """Print steps per second over throttled links, and what the model says."""
    if not can_link():
        print("links: network namespaces need root on Linux")
        return
    c, forward, backward = constants(megabits, width)
    forward, backward = forward * rows / width, backward * rows / width
    ties = [Link() for _ in range(3)]
    print(f"{'stages':>8}{'replicas':>10}{'micro':>7}{'trainers':>10}{'measured/s':>12}{'model/s':>10}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        running = Hosts(folder, host="0.0.0.0")
        try:
            port = running.address.rpartition(":")[2]
            for name, tie in enumerate(ties):
                tie.throttle(megabits)
                file = running._file.read_text()
                running._file.write_text(file.replace(running.address, f"tcp://{tie.gateway}:{port}"))
                running.address = f"tcp://{tie.gateway}:{port}"
                running.worker(str(name), link=tie)
                until(lambda: "tcp" in running._file.read_text())
            with ln.cluster.connect(f"tcp://127.0.0.1:{port}") as cluster:
                until(lambda: len(cluster.client.scheduler_info()["workers"]) == 3)
                for stages, micro in ((1, 1), (2, 1), (3, 1), (3, 4), (3, 8)):
                    rate = run_pipeline(cluster, stages, micro, width, rows)
                    said = cluster_model.pipeline(
                        c,
                        stages=stages,
                        micro_batches=micro,
                        nbytes=rows * width * 4,
                        forward=forward,
                        backward=backward,
                    )
                    print(row(stages, 1, micro, 1, rate, said), flush=True)
                for count, trainers in ((1, 1), (1, 4), (2, 4), (3, 6)):
                    rate = run_replicas(cluster, count, trainers, width, rows)
                    said = cluster_model.replicas(
                        c,
                        replicas=count,
                        trainers=trainers,
                        weights=(width + 1) * width * 4,
                        sent=2 * rows * width * 4,
                        returned=rows * width * 4,
                        forward=forward,
                        backward=backward,
                    )
                    print(
                        row(1, count, 1, trainers, rate, said),
                        flush=True,
                    )
        finally:
            running.close()
            for tie in ties:
                tie.remove()


def row(stages, count, micro, trainers, rate, said):
    return f"{stages:>8}{count:>10}{micro:>7}{trainers:>10}{rate:>12.2f}{said:>10.2f}{rate / said:>7.2f}"


def run_pipeline(cluster, stages, micro, width, rows, seconds=3.0):
    names = [f"stage {n}" for n in range(stages)]
    models = [cluster.serve_model(wide(width), ln.optim.SGD(lr=1e-9), name=name) for name in names]
    x, y = ln.ones((rows, width)), ln.zeros((rows, width))
    x.requires_grad = True  # as the stages in the middle: all are alike

    async def run():
        line = cluster.pipeline(*models, micro_batches=micro)
        await line.step(x, y, loss=ln.loss.mse)
        began, steps = time.perf_counter(), 0
        while time.perf_counter() < began + seconds:
            await line.step(x, y, loss=ln.loss.mse)
            steps += 1
        return steps / (time.perf_counter() - began)

    try:
        return asyncio.run(run())
    finally:
        for name in names:
            cluster.stop(name)


def run_replicas(cluster, count, trainers, width, rows, seconds=3.0):
    cluster.serve_model(wide(width), ln.optim.SGD(lr=1e-9), name="model", replicas=count)
    models = [cluster.remote_model("model", client=f"trainer {n}") for n in range(trainers)]
    x, y = ln.ones((rows, width)), ln.zeros((rows, width))

    async def trainer(model, until_then):
        steps = 0
        while time.perf_counter() < until_then:
            await ln.loss.mse(await model(x), y).backward()
            steps += 1
        return steps

    async def run():
        await asyncio.gather(*[trainer(model, time.perf_counter() + 1) for model in models])
        began = time.perf_counter()
        steps = await asyncio.gather(*[trainer(model, began + seconds) for model in models])
        return sum(steps) / (time.perf_counter() - began)

    try:
        return asyncio.run(run())
    finally:
        cluster.stop("model")


class Slow(Node):
    """A gradient that takes its time."""

    __slots__ = ("_seconds",)

    def __init__(self, parent, seconds):
        self.parents = (parent,)
        self._seconds = seconds

    def vjp(self, gradient, run):
        """Wait, and hand the gradient on."""
        time.sleep(self._seconds)
        return [gradient]


class Stage(nn.Module):
    """A stage whose forward and backward are fixed waits."""

    def __init__(self, seconds):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self._seconds = seconds

    def forward(self, x):
        """Wait, and compute a little."""
        time.sleep(self._seconds)
        y = self.linear(x)
        return wrap(y.array, Slow(y.node, self._seconds)) if y.requires_grad else y


def picture(file="docs/stages.svg"):
    """Draw three stages of 20 ms and eight micro-batches."""
    names = ("first", "second", "third")
    with ln.cluster.connect(workers=3) as cluster:
        stages = [cluster.serve_model(lambda: Stage(0.02), ln.optim.SGD(lr=1e-9), name=name) for name in names]
        line = cluster.pipeline(*stages, micro_batches=8)
        x, y = ln.ones((8, 8)), ln.zeros((8, 8))
        x.requires_grad = True

        async def run():
            await line.step(x, y, loss=ln.loss.mse)
            began = time.time()
            await line.step(x, y, loss=ln.loss.mse)
            return began

        began = asyncio.run(run())
        chart = cluster.timeline(*names).between(began, time.time())
        print(chart)
        Path(file).write_text(chart.svg() + "\n")


PARTS = {
    "throughput": lambda: throughput((1, 2, 4, 8, 16)),
    "hops": hops,
    "scheduler": scheduler_load,
    "links": links,
    "picture": picture,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[part for part in PARTS if part != "picture"])
    for part in parser.parse_args().parts:
        PARTS[part]()


if __name__ == "__main__":
    main()
