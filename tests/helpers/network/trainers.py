"""Trainers that are killed or stopped, and go on as the same clients: what they were answered is there, once.

A trainer writes to its log before it sends a gradient and after it was answered. One that is killed in between does not
know what became of that step; the next process, with the same state file, goes on with the next one.
"""

import os
import random
import select
import signal
import sys
import threading
import time
from pathlib import Path

import labnet as ln
from tests.helpers.network.store_server import QUICK
from tests.helpers.network.topologies import TOPOLOGIES, total

KINDS = (
    "client killed",
    "client stopped",  # as a laptop that is closed for a while
)


def main(url, state, log, topology="single"):
    """Train until the input ends."""
    model = ln.network.remote_model(
        url, token=os.environ["SERVER_TOKEN"], state=state, backoff=QUICK, timeout=60.0, blocking=True
    )
    number = len(lines(log, "sent"))
    with open(log, "ab", buffering=0) as file:
        print("{}", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            examples = TOPOLOGIES[topology].examples(number)
            loss = total([model(x) for x, _ in examples], examples)
            file.write(b"sent %d\n" % number)
            loss.backward()
            file.write(b"done %d\n" % number)
            number += 1


def lines(log, word):
    """Return the numbers of the steps of which a log says something."""
    found = Path(log).read_text().split("\n") if os.path.exists(log) else []
    return [int(line.partition(" ")[2]) for line in found if line.startswith(word)]


def carry_out(events, site, url, folder, outcome, topology="single"):
    """Let a trainer suffer; notes in the outcome what it was answered and what it never heard of."""
    log, tick = folder / "trainer.log", threading.Event()
    start = lambda: site.start(url, folder / "trainer.json", log, topology, program="trainers")  # noqa: E731
    trainer = start()
    for event in events:
        while len(lines(log, "sent")) <= event.step and trainer.is_alive:
            tick.wait(0.001)
        tick.wait(random.Random(event.salt).uniform(0, 0.01))
        began = time.perf_counter()
        if event.kind == "client killed":
            trainer.kill()
            trainer = start()
        else:
            trainer.signal(signal.SIGSTOP)
            tick.wait(site.seconds)
            trainer.signal(signal.SIGCONT)
        outcome.recoveries.append(time.perf_counter() - began)
        outcome.faults += 1
    if not trainer.is_alive:
        outcome.error = "the trainer ended by itself"
    trainer.end()
    outcome.answered = len(lines(log, "done"))
    outcome.doubt = len(lines(log, "sent")) - outcome.answered
