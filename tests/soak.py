"""A long run under load and faults: does memory, the number of threads or of files grow? ``python -m tests.soak``.

Trainers reach a server with a store over a proxy that spoils some of their requests; a part of its model is another
server, behind a proxy too; the panel's snapshots are read five times a second. Once a minute the figures of both
servers are printed; at the end those of the last quarter must not be above those of the second by more than a tenth.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

import labnet as ln
from labnet.errors import RemoteError
from tests.helpers.constants import ROOT
from tests.helpers.network.fault_proxy import Proxy
from tests.helpers.network.store_server import batch
from tests.helpers.ports import free_port

TOKEN = "the token of the servers in the soak"
COLUMNS = ("MB", "threads", "files")


def start(folder, *arguments):
    """Run a server of `tests.helpers.network.store_server` on a free port; returns process and port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.network.store_server", str(folder), str(port), "group", "0", *arguments],
        cwd=ROOT,
        env={**os.environ, "SERVER_TOKEN": TOKEN},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it logs what fails further down, many times
        text=True,
    )
    assert process.stdout.readline(), "the server did not start"
    return process, port


def figures(process):
    """Return memory in MB, threads and open files of a process."""
    seen = psutil.Process(process.pid)
    return seen.memory_info().rss / 1e6, seen.num_threads(), seen.num_fds()


async def train(url, name, until):
    """Train until a moment, whatever happens; returns how many steps were answered, and how many errors there were."""
    backoff = ln.network.Backoff(first=0.01, longest=0.1, attempt=1.0)
    model = ln.network.remote_model(url, client=name, token=TOKEN, backoff=backoff, timeout=10.0)
    steps = errors = 0
    while time.monotonic() < until:
        x, y = batch(steps)
        try:
            loss = ln.loss.mse((await model(x))[:, :2], y)
            await loss.backward()
            steps += 1
        except RemoteError:
            errors += 1
    return steps, errors


async def watch(url, until):
    """Read what the panel draws, as often as it does."""
    model = ln.network.remote_model(url, token=TOKEN)
    while time.monotonic() < until:
        await model.snapshot()
        await asyncio.sleep(0.2)


async def report(processes, every, until, rows):
    """Note and print the figures of the servers."""
    while time.monotonic() < until:
        await asyncio.sleep(every)
        rows.append([figures(process) for process in processes])
        cells = "".join(f"{mb:>9.1f}{threads:>9}{files:>7}" for mb, threads, files in rows[-1])
        print(f"{len(rows) * every / 60:>7.1f}{cells}", flush=True)


def grown(rows):
    """Return what grew by more than a tenth between the second quarter and the last one."""
    quarter = len(rows) // 4
    found = []
    for server in range(2):
        for column, name in enumerate(COLUMNS):
            early = statistics.median(row[server][column] for row in rows[quarter : 2 * quarter])
            late = statistics.median(row[server][column] for row in rows[-quarter:])
            if late > 1.1 * early + 1:
                found.append(f"{name} of the {('outer', 'inner')[server]} server from {early:.1f} to {late:.1f}")
    return found


def main():
    """Run for as long as was asked for; returns whether something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--trainers", type=int, default=8)
    parser.add_argument("--share", type=float, default=0.05, help="part of the requests that meets a fault")
    options = parser.parse_args()
    seconds, rows = 60 * options.minutes, []
    with tempfile.TemporaryDirectory() as folder:
        inner, inner_port = start(Path(folder) / "inner")
        with Proxy(inner_port, seed=1, share=options.share) as middle:
            outer, port = start(Path(folder) / "outer", f"http://127.0.0.1:{middle.port}")
            with Proxy(port, seed=2, share=options.share) as front:
                print(
                    "minutes" + "".join(f"{f'{name} MB':>9}{'threads':>9}{'files':>7}" for name in ("outer", "inner"))
                )
                until = time.monotonic() + seconds

                async def everything():
                    return await asyncio.gather(
                        *[train(front.url, f"trainer{number}", until) for number in range(options.trainers)],
                        watch(f"http://127.0.0.1:{port}", until),
                        report((outer, inner), min(60.0, seconds / 16), until, rows),
                    )

                *done, _, _ = asyncio.run(everything())
                faults = {name: front.counts[name] + middle.counts[name] for name in front.counts | middle.counts}
            outer.stdin.close()
            outer.wait()
        inner.stdin.close()
        inner.wait()
    print(f"{sum(steps for steps, _ in done)} steps, {sum(errors for _, errors in done)} errors, requests: {faults}")
    found = grown(rows)
    print("; ".join(found) or "nothing grew")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
