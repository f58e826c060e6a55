"""What an open panel costs: training steps per second with and without one, in turns in one run.

A real kernel serves a model and trains it over HTTP in one blocking cell, while a panel that is displayed sends
its snapshots, pictures and capabilities to a frontend that reads everything. Every round trains for the same time
with and without the panel, in changing order. Steps are counted per second of the wall's clock, and per second
of the processor that the kernel's process used with all its threads: this one does not see what else the machine
does meanwhile, and is an upper bound of the cost, because a second core can do the panel's part at the same time.

    python benchmarks/panel.py [--rounds 20] [--seconds 1.0]
"""

import argparse
import json
import statistics
import textwrap

from jupyter_client.manager import start_new_kernel

CELL = """
import json, time
import numpy as np
import labnet as ln
from IPython.display import display
from labnet.jupyter import Panel

def steps_per_second(remote, x, y, seconds):
    steps, used, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        ln.loss.mse(remote(x), y).backward()
        steps += 1
    return steps / seconds, steps / (time.process_time() - used)

def measure(width, rounds, seconds, url):
    layers = [ln.nn.Linear(width, width), ln.nn.relu, ln.nn.Linear(width, 1)]
    model = ln.nn.Sequential(*layers)
    results = []
    with ln.network.serve_model(model, ln.optim.Adam(lr=1e-3), port=0, name=f"width {width}") as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        x, y = ln.asarray(np.random.rand(32, width).astype("float32")), ln.zeros((32, 1))
        steps_per_second(remote, x, y, seconds)
        for turn in range(rounds):
            figures = {}
            for shown in (turn % 2 == 0, turn % 2 == 1):
                panel = None
                if shown:
                    panel = Panel(server.url) if url else server.panel()
                    display(panel)
                figures[shown] = steps_per_second(remote, x, y, seconds)
                if panel is not None:
                    panel.close()
            results.append((figures[False], figures[True]))
    return results
"""


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

    client.execute_interactive(textwrap.dedent(code), output_hook=read, timeout=600)
    return "".join(printed), updates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        run(client, CELL)
        print(f"{'median steps/s':<28}{'without':>10}{'with':>10}{'ratio':>8}{'by CPU':>8}{'updates/s':>11}")
        for width, url in ((16, False), (16, True), (512, False)):
            code = f"print(json.dumps(measure({width}, {arguments.rounds}, {arguments.seconds}, {url})))"
            printed, updates = run(client, code)
            pairs = json.loads(printed)
            without, shown = (statistics.median(pair[which][0] for pair in pairs) for which in (0, 1))
            wall, processor = (statistics.median(b[kind] / a[kind] for a, b in pairs) for kind in (0, 1))
            title = f"{width}-{width}-1, {'by its URL' if url else 'of its kernel'}"
            rate = updates / (arguments.rounds * arguments.seconds)
            print(f"{title:<28}{without:>10.0f}{shown:>10.0f}{wall:>8.3f}{processor:>8.3f}{rate:>11.1f}")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    main()
