"""Threads of kernels: how much faster large ops are, and how long a forward takes that the process serves meanwhile.

``python benchmarks/threads.py`` measures ops on large arrays with one thread and with several, in turns, in time of the
clock. Then it serves a small model, and a process of its own asks for forwards while this one rests, computes large ops
on one thread, and on several. ``build/threads.json`` has the same numbers. ``--threads`` is the number of threads.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from threadpoolctl import threadpool_limits

import labnet as ln
from labnet import kernels
from labnet.kernels.machine_code.background import BACKGROUND

F = ln.nn.functional
Task = Callable[[], object]


def tasks() -> dict[str, Task]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> ln.Tensor:
        return ln.asarray(rng.standard_normal(shape).astype("float32"), requires_grad=True)

    x, rows, image = normal(1_000_000), normal(2048, 768), normal(32, 32, 56, 56)
    weight, bias, filters = normal(768), normal(768), normal(32, 1, 3, 3)
    query = normal(1, 8, 512, 64)
    forward = {
        "gelu": lambda: F.gelu(x),
        "softmax": lambda: F.softmax(rows, dim=-1),
        "layer norm": lambda: F.layer_norm(rows, (768,), weight, bias),
        "depthwise convolution": lambda: F.conv2d(image, filters, padding=1, groups=32),
        "attention": lambda: F.scaled_dot_product_attention(query, query, query),
    }

    def backward(task: Callable[[], ln.Tensor], g: ln.Tensor) -> Task:
        return lambda: task().backward(g)

    found: dict[str, Task] = {}
    for name, task in forward.items():
        found[name] = task
        found[f"{name}, with backward"] = backward(task, ln.ones(task().shape))
    return found


def choose(number: int) -> None:
    """Have kernels use several threads, and BLAS one, as it does while a process serves."""
    ln.set_num_threads(number)
    threadpool_limits(1, user_api="blas")


def loaded(task: Task) -> None:
    """Run a task until the kernels that it asks for are loaded."""
    for _ in range(12):
        task()
    BACKGROUND.submit(lambda: None).result()
    task()


def speed(found: dict[str, Task], numbers: list[int], rounds: int) -> dict[str, dict[int, float]]:
    results = {}
    for name, task in found.items():
        loaded(task)
        times: dict[int, list[float]] = {number: [] for number in numbers}
        for _ in range(rounds):
            for number in numbers:
                choose(number)
                task()
                began = time.perf_counter()
                task()
                times[number].append(time.perf_counter() - began)
        results[name] = {number: min(values) for number, values in times.items()}
        first, last = results[name].values()
        print(f"{name:<38}{first * 1e6:>10.0f}{last * 1e6:>10.0f}{first / last:>10.2f}", flush=True)
    return results


def ask(url: str) -> None:
    """Ask for forwards for as long as each line of the input says, in seconds, and print how long each took."""
    remote, x = ln.network.remote_model(url, blocking=True), ln.ones((8, 64))
    for line in sys.stdin:
        taken, end = [], time.perf_counter() + float(line)
        while (began := time.perf_counter()) < end:
            with ln.no_grad():
                remote(x)
            taken.append(time.perf_counter() - began)
        print(json.dumps(taken), flush=True)


def latency(found: dict[str, Task], numbers: list[int], rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    model = ln.nn.Sequential(ln.nn.Linear(64, 64), ln.nn.relu, ln.nn.Linear(64, 8))
    taken: dict[str, list[list[float]]] = {}
    with ln.network.serve_model(model, port=0) as server:
        client = subprocess.Popen(
            [sys.executable, __file__, "--ask", server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            for number in [0, *numbers] * (rounds + 1):
                choose(max(number, 1))
                client.stdin.write(f"{seconds}\n")
                client.stdin.flush()
                reply: list[str] = []
                reader = threading.Thread(target=lambda reply=reply: reply.append(client.stdout.readline()))
                reader.start()
                while number and reader.is_alive():
                    for task in found.values():
                        task()
                reader.join()
                name = f"while {number} threads compute" if number else "alone"
                taken.setdefault(name, []).append(json.loads(reply[0]))
        finally:
            client.stdin.close()
            client.wait()
    results = {}
    for name, lists in taken.items():
        cuts = [statistics.quantiles(one, n=100) for one in lists[1:]]  # the first round warms up
        results[name] = {f"p{p}": statistics.median([cut[p - 1] for cut in cuts]) for p in (50, 99)}
        print(f"{name:<38}{results[name]['p50'] * 1e6:>10.0f}{results[name]['p99'] * 1e6:>10.0f}", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=max(2, ln.get_num_threads()))
    parser.add_argument("--rounds", type=int, default=50, help="rounds of ops; those of forwards are a tenth")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one round of forwards")
    parser.add_argument("--ask", help="be the process that asks, at this address")
    parser.add_argument("--json", type=Path, default=Path("build/threads.json"))
    arguments = parser.parse_args()
    if arguments.ask:
        ask(arguments.ask)
        return 0
    kernels.load()
    kernels.PATIENCE = 0
    found, numbers = tasks(), [1, arguments.threads]
    print(f"{'least microseconds, threads':<38}{1:>10}{arguments.threads:>10}{'ratio':>10}")
    results: dict[str, object] = {"ops": speed(found, numbers, arguments.rounds)}
    print(f"{'microseconds of a forward':<38}{'median':>10}{'p99':>10}")
    results["forwards"] = latency(found, numbers, max(2, arguments.rounds // 10), arguments.seconds)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
