"""What an open panel costs: training steps per second with and without one, in pairs in one run.

A real kernel serves a model and trains it over HTTP in one blocking cell, while a panel that is displayed sends its
snapshots, pictures and capabilities to a frontend that reads everything. The panel is switched on and off several
times a second, in the order off, on, on, off, so that whatever else the machine does, and whatever it does more and
more of, falls on both alike. Each such round gives one ratio of steps per second, and one of steps per second of the
processor that the kernel's process used with all its threads: that one does not see what others do, and is an upper
bound, because a second core can do the panel's part at the same time. Printed are medians over the rounds, and where
95 of 100 medians of rounds drawn again from these lie. "Its own" is what the panel's threads used of one core
meanwhile: the figure that a busy machine disturbs least, but without what the server does to answer them.

    python benchmarks/panel.py [--rounds 120] [--seconds 0.3]
"""

import argparse
import json
import random
import statistics
import textwrap

from jupyter_client.manager import start_new_kernel

CELL = """
import json, time
import numpy as np
import labnet as ln
from IPython.display import display
from labnet.jupyter import Panel
from labnet.jupyter.sources import Remote

class switch:
    on, used = True, 0.0

class clock:
    # stands still while the panel is off, so that its pictures are as seldom as ever
    shown = before = 0.0

def switched(kind, name):
    # a method that does nothing while the switch is off, and counts what it takes of the processor while it is on
    work = getattr(kind, name)
    def switchable(self, *arguments):
        if not switch.on:
            return
        began = time.thread_time()
        work(self, *arguments)
        switch.used += time.thread_time() - began
    setattr(kind, name, switchable)

tick = Panel.tick
def ticking(self, now):
    clock.shown += min(now - clock.before, 0.25)
    clock.before = now
    tick(self, clock.shown)

Panel.tick = ticking
switched(Panel, "tick")
switched(Remote, "_take")

def train(remote, x, y, seconds):
    steps, used, began = 0, time.process_time(), time.perf_counter()
    end = began + seconds
    while time.perf_counter() < end:
        ln.loss.mse(remote(x), y).backward()
        steps += 1
    return steps, time.perf_counter() - began, time.process_time() - used

def measure(width, rounds, seconds, url):
    model = ln.nn.Sequential(ln.nn.Linear(width, width), ln.nn.relu, ln.nn.Linear(width, 1))
    pairs = []
    with ln.network.serve_model(model, ln.optim.Adam(lr=1e-3), port=0, name=f"width {width}") as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        x, y = ln.asarray(np.random.rand(32, width).astype("float32")), ln.zeros((32, 1))
        train(remote, x, y, 5.0)  # a full loss curve, and every kernel loaded
        switch.on = True
        panel = Panel(server.url if url else server)
        display(panel)
        switch.used = 0.0
        for _ in range(rounds):
            sums = {False: [0, 0.0, 0.0], True: [0, 0.0, 0.0]}
            for on in (False, True, True, False):
                switch.on = on
                sums[on] = [a + b for a, b in zip(sums[on], train(remote, x, y, seconds))]
            pairs.append((sums[False], sums[True]))
        panel.close()
    print(json.dumps([pairs, switch.used / sum(shown[1] for _, shown in pairs)]))
"""
HEADS = ("median steps/s", "without", "with", "ratio", "95 %", "by CPU", "95 %", "its own", "updates/s")
WIDTHS = (26, 9, 9, 8, 14, 8, 14, 8, 11)


def run(client, code):
    """Run a cell, read all that it sends, and return what it printed and the number of updates of widgets."""
    printed, updates = [], 0

    def read(message):
        nonlocal updates
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            printed.append(content["text"])
        elif kind == "comm_msg" and content["data"].get("method") == "update":
            updates += 1
        elif kind == "error":
            raise RuntimeError("\n".join(content["traceback"]))

    client.execute_interactive(textwrap.dedent(code), output_hook=read, timeout=1800)
    return "".join(printed), updates


def interval(ratios):
    """Return where 95 of 100 medians of ratios drawn again from these lie."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[50], medians[1949]


def columns(cells):
    title, *rest = (f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    return title.strip().ljust(WIDTHS[0]) + "".join(rest)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--seconds", type=float, default=0.3)
    arguments = parser.parse_args()
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        run(client, CELL)
        print(columns(HEADS))
        for width, url in ((16, False), (16, True), (512, False)):
            printed, updates = run(client, f"measure({width}, {arguments.rounds}, {arguments.seconds}, {url})")
            pairs, share = json.loads(printed)
            cells = [f"{width}-{width}-1, {'by its URL' if url else 'of its kernel'}"]
            cells += [f"{statistics.median(pair[on][0] / pair[on][1] for pair in pairs):.0f}" for on in (0, 1)]
            for kind in (1, 2):  # seconds of the wall's clock, and of the processor
                ratios = [(on[0] / on[kind]) / (off[0] / off[kind]) for off, on in pairs]
                cells += [f"{statistics.median(ratios):.3f}", "{:.3f}-{:.3f}".format(*interval(ratios))]
            seconds_shown = sum(shown[1] for _, shown in pairs)
            print(columns([*cells, f"{share:.1%}", f"{updates / seconds_shown:.1f}"]), flush=True)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    main()
