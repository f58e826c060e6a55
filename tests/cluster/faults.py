"""How long training takes to go on after a fault: ``python -m tests.cluster.faults --times 20``.

A stage with a store is trained by one client, step after step, on workers started from the command line. Each fault
comes at a random moment; its time to recover is that of the step that it hits, beyond the median of the others. At
the end the weights must be those of the same steps without faults, to the bit. With ``--cut SECONDS`` a host is cut
off from the network instead, with many trainers (this takes root): how many requests come in each 100 ms after that?
"""

import argparse
import asyncio
import collections
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import labnet as ln
from tests.helpers.cluster.hosts import Hosts, Link, hosts
from tests.helpers.cluster.models import adam, batch, bits, small, train_alone
from tests.helpers.cluster.parts import able, abort, part
from tests.helpers.cluster.waits import until

NAMES = ("a", "b", "c")


def worker_process(cluster, worker):
    os.kill(cluster.client.run(os.getpid, workers=[worker])[worker], signal.SIGKILL)


def nanny_process(cluster, worker):
    os.kill(cluster.client.run(os.getppid, workers=[worker])[worker], signal.SIGKILL)


def connection(cluster, worker):
    cluster.client.run(abort, workers=[worker])


FAULTS = {"worker": worker_process, "nanny": nanny_process, "connection": connection}


def measure(fault, times, folder, seed):
    """Return the seconds to recover from each fault, and whether the weights are right."""
    chance, seconds = random.Random(seed), []
    with hosts(folder, NAMES) as (running, cluster):
        model = cluster.serve_model(small, adam(), name="model", store=Path(folder) / "store", blocking=True)
        step = 0

        def one():
            nonlocal step
            x, y = batch(step)
            began = time.perf_counter()
            ln.loss.mse(model(x), y).backward()
            step += 1
            return time.perf_counter() - began

        for _ in range(times):
            usual = statistics.median(one() for _ in range(20))
            present = {w["name"] for w in cluster.client.scheduler_info()["workers"].values()}
            for name in set(NAMES) - present:
                running.worker(name)
            until(lambda: cluster.client.run_on_scheduler(able) == len(NAMES))
            before = part(cluster, "model")
            until_hit = time.perf_counter() + 5.0
            FAULTS[fault](cluster, before.worker)
            slowest = 0.0
            while part(cluster, "model").restarts == before.restarts or slowest == 0.0:
                slowest = max(slowest, one())
                if time.perf_counter() > until_hit + 60:
                    raise RuntimeError("the model did not come back")
            seconds.append(slowest - usual)
            for _ in range(chance.randrange(10)):
                one()
        alone = small()
        train_alone(alone, adam(), step)
        exact = bits(model.state_dict()) == bits(alone.state_dict()) and part(cluster, "model").version == step
    return seconds, exact


def cut(seconds, trainers, folder):
    """Return attempts by tenth of a second since the link was mended, the seconds until all went on, lost updates."""
    link = Link()
    running = Hosts(folder, host="0.0.0.0")
    try:
        port = running.address.rpartition(":")[2]
        address = f"tcp://{link.gateway}:{port}"
        running._file.write_text(running._file.read_text().replace(running.address, address))
        with ln.cluster.connect(address) as cluster:
            running.worker("far", link=link)
            until(lambda: cluster.client.run_on_scheduler(able) == 1)
            cluster.serve_model(small, adam(), name="model", store=Path(folder) / "store")
            models = [cluster.remote_model("model", client=f"trainer {n}", timeout=120) for n in range(trainers)]
            attempts, mended, done = collections.Counter(), [0.0], []

            async def steps(model, count):
                for step in range(count):
                    x, y = batch(step)
                    await ln.loss.mse(await model(x), y).backward()
                done.append(time.perf_counter())

            from labnet.network.transport.client import Pool

            plain = Pool.request

            async def counted(pool, *arguments, **options):
                attempts[int((time.perf_counter() - mended[0]) * 10) if mended[0] else -1] += 1
                return await plain(pool, *arguments, **options)

            async def everything():
                await asyncio.gather(*[steps(model, 2) for model in models])
                link.cut()
                done.clear()
                going = asyncio.gather(*[steps(model, 2) for model in models])
                await asyncio.sleep(seconds)
                Pool.request = counted
                mended[0] = time.perf_counter()
                link.mend()
                await going
                Pool.request = plain

            asyncio.run(everything())
            row = part(cluster, "model")
            return max(attempts.values()), max(done) - mended[0], 4 * trainers - row.version, row.restarts
    finally:
        running.close()
        link.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--cut", type=float, help="seconds for which a host is cut off, instead")
    parser.add_argument("--trainers", type=int, default=16)
    options = parser.parse_args()
    if options.cut:
        with tempfile.TemporaryDirectory() as folder:
            most, seconds, lost, restarts = cut(options.cut, options.trainers, folder)
        print(
            f"cut off for {options.cut:.0f} s, {options.trainers} trainers: all went on {seconds:.1f} s after, at most "
            f"{most} requests in 100 ms, {lost} updates lost or doubled, {restarts} restarts"
        )
        return lost != 0
    print(f"seed {options.seed}")
    print(f"{'fault':<12}{'times':>6}{'p50 s':>8}{'p99 s':>8}  weights")
    wrong = False
    for fault in options.faults:
        with tempfile.TemporaryDirectory() as folder:
            seconds, exact = measure(fault, options.times, folder, options.seed)
        ordered = sorted(seconds)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        wrong = wrong or not exact
        print(
            f"{fault:<12}{len(ordered):>6}{statistics.median(ordered):>8.2f}{p99:>8.2f}  "
            f"{'to the bit' if exact else 'WRONG'}",
            flush=True,
        )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
