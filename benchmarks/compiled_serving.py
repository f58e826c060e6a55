"""Round trips to a model that is served eagerly and compiled, in one run: forwards, and forwards with their backwards.

``python benchmarks/compiled_serving.py`` serves both from a process of their own on one thread, asks them in turns,
and prints medians in microseconds; ``build/compiled_serving.json`` has the same numbers. "Echo" is a model that
returns what it is given: what the way there and back costs without a model.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from eager import Row, measure

import labnet as ln

#: Widths of the network, and the batch.
MODELS = {
    "8-8-8-8-8": ((8, 8, 8, 8, 8), 10),
    "64-64-64": ((64, 64, 64), 64),
    "64, 16 layers": ((64,) * 17, 64),
    "784-256-10": ((784, 256, 10), 128),
}


def network(widths: tuple[int, ...]) -> ln.nn.Sequential:
    layers: list = []
    for inner, outer in itertools.pairwise(widths):
        layers += [ln.nn.Linear(inner, outer), ln.nn.LayerNorm(outer), ln.tanh]
    return ln.nn.Sequential(*layers)


def serve() -> None:
    """Serve every model twice and the echo, print the addresses, and go on until the input ends."""
    servers = {}
    for name, (widths, _) in MODELS.items():
        for compile in (False, True):
            options = {"port": 0, "compile": compile, "name": f"{name} {compile}"}
            servers[f"{name} {compile}"] = ln.network.serve_model(network(widths), ln.optim.SGD(lr=1e-4), **options)
    servers["echo"] = ln.network.serve_model(lambda x: x, port=0, name="echo")
    print(json.dumps({name: server.url for name, server in servers.items()}), flush=True)
    for _ in sys.stdin:  # each line asks to wait until everything is compiled that clients have called for
        for name, server in servers.items():
            if name.endswith("True"):
                server._model.model._computing.wait()
        print("ready", flush=True)
    for server in servers.values():
        server.stop()


def row(urls: dict[str, str], name: str) -> dict[str, Row]:
    widths, batch = MODELS[name]
    x = ln.asarray(np.random.default_rng(0).standard_normal((batch, widths[0])).astype("float32"))
    forward: Row = {}
    both: Row = {}
    for column, key in (("echo", "echo"), ("eager", f"{name} False"), ("compiled", f"{name} True")):
        remote = ln.network.remote_model(urls[key], blocking=True)
        remote(x).sum().backward()  # begins to compile what will be measured

        def infer(remote=remote) -> object:
            with ln.no_grad():
                return remote(x)

        infer()
        forward[column] = infer
        if column != "echo":
            both[column] = lambda remote=remote: remote(x).sum().backward()
    return {f"{name}, forward": forward, f"{name}, with backward": both}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.05, help="length of one round of one column")
    parser.add_argument("--serve", action="store_true", help="be the process with the servers")
    parser.add_argument("--json", type=Path, default=Path("build/compiled_serving.json"))
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return 0
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        urls = json.loads(process.stdout.readline())
        rows = {key: value for name in MODELS for key, value in row(urls, name).items()}
        process.stdin.write("wait\n")
        process.stdin.flush()
        process.stdout.readline()
        print(f"{'microseconds':<28}{'echo':>8}{'eager':>8}{'compiled':>10}{'ratio':>7}")
        results = {}
        for name, tasks in rows.items():
            times = results[name] = measure(tasks, rounds=arguments.rounds, seconds=arguments.seconds)
            cells = "".join(f"{times[c] * 1e6:>8.0f}" if c in times else f"{'':>8}" for c in ("echo", "eager"))
            ratio = times["eager"] / times["compiled"]
            print(f"{name:<28}{cells}{times['compiled'] * 1e6:>10.0f}{ratio:>7.2f}", flush=True)
    finally:
        process.stdin.close()
        process.wait()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
