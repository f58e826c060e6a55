"""A network of torch that is served by labnet, beside labnet's own and torch.distributed.rpc, in one run.

``python benchmarks/interop.py`` serves 784-256-10 with Adam from processes of their own, on one thread each, and asks
for batches of 128 in turns: forwards in evaluation mode, and training steps with the backward, the update of the
server and the gradient of the input. ``rpc`` does the same by distributed autograd and a distributed optimizer.
``model`` is what the network alone takes in the process that asks. ``--cpu`` counts the time of the processors in both
processes, which other work on the machine changes less (Linux). ``build/interop.json`` has the same numbers.
The goal: torch over the network takes at most 1.3 times labnet over the network plus the difference of the models.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import torch
import torch.distributed.autograd as distributed_autograd
from eager import Row, measure
from roundtrip import free_port
from torch.distributed import rpc
from torch.distributed.optim import DistributedOptimizer

import labnet as ln

BATCH, WIDTHS = 128, (784, 256, 10)
GOAL = 1.3
torch.set_num_threads(1)


def of_labnet() -> ln.nn.Module:
    return ln.nn.Sequential(ln.nn.Linear(*WIDTHS[:2]), ln.nn.ReLU(), ln.nn.Linear(*WIDTHS[1:]))


def of_torch() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(*WIDTHS[:2]), torch.nn.ReLU(), torch.nn.Linear(*WIDTHS[1:]))


def serve(kind: str) -> None:
    """Serve a network, print its address, and go on until the input ends."""
    if kind == "labnet":
        server = ln.network.serve_model(of_labnet(), ln.optim.Adam(), port=0)
    else:
        module = of_torch()
        server = ln.network.serve_model(module, torch.optim.Adam(module.parameters()), port=0)
    print(server.url, flush=True)
    sys.stdin.read()
    server.stop()


#: The processes that `started` runs.
SERVERS: list[int] = []


@contextlib.contextmanager
def started(*arguments: str, script: str | Path = __file__) -> Iterator[str]:
    """Run a program, this one or another, as a server; gives what it prints first."""
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    SERVERS.append(process.pid)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


def batch() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((BATCH, WIDTHS[0])).astype("float32")


def by_labnet(call: Callable, optimizer: Callable | None = None) -> tuple[Callable, Callable]:
    x, seed = ln.asarray(batch(), requires_grad=True), ln.ones((BATCH, WIDTHS[-1]))

    def forward() -> object:
        with ln.no_grad():
            return call(x)

    def step() -> object:
        gradients = call(x).backward(seed)
        return gradients if optimizer is None else optimizer(gradients)

    return forward, step


def by_torch(call: Callable, optimizer: torch.optim.Optimizer | None = None) -> tuple[Callable, Callable]:
    x, seed = torch.tensor(batch(), requires_grad=True), torch.ones(BATCH, WIDTHS[-1])

    def forward() -> object:
        with torch.no_grad():
            return call(x)

    def step() -> None:
        if optimizer is not None:
            optimizer.zero_grad()
        call(x).backward(seed)
        if optimizer is not None:
            optimizer.step()

    return forward, step


# torch.distributed.rpc: the module is with the other process, and is called by reference


class Remote:
    """The network in the process of rpc."""

    def __init__(self) -> None:
        self.module = of_torch()

    def call(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores of a batch."""
        return self.module(x)

    def references(self) -> list:
        """Return the parameters, for the optimizer of the other process."""
        return [rpc.RRef(parameter) for parameter in self.module.parameters()]


def connect(rank: int, port: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    rpc.init_rpc(f"process{rank}", rank=rank, world_size=2)


def by_rpc(port: str) -> tuple[Callable, Callable]:
    connect(0, port)
    remote = rpc.remote("process1", Remote)
    optimizer = DistributedOptimizer(torch.optim.Adam, remote.rpc_sync().references())
    x, seed = torch.tensor(batch(), requires_grad=True), torch.ones(BATCH, WIDTHS[-1])

    def forward() -> object:
        with torch.no_grad():
            return remote.rpc_sync().call(x)

    def step() -> None:
        with distributed_autograd.context() as context:
            distributed_autograd.backward(context, [(remote.rpc_sync().call(x) * seed).sum()])
            optimizer.step(context)
            assert distributed_autograd.get_gradients(context)[x].shape == x.shape

    return forward, step


def cpu_seconds() -> float:
    """Return the time of processors that this process and all servers have used, by Linux' figures of threads."""
    threads = [path for pid in SERVERS for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return time.process_time() + sum(int(path.read_text().split()[0]) for path in threads) / 1e9


def measure_cpu(row: Row, *, rounds: int, repeats: int = 10) -> dict[str, float]:
    """Return the median CPU time of each column in seconds, from interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in row}
    for _ in range(rounds):
        for name, task in row.items():
            task()
            began = cpu_seconds()
            for _ in range(repeats):
                task()
            times[name].append((cpu_seconds() - began) / repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def rows(ours: str, theirs: str, port: str) -> dict[str, Row]:
    """Return the tasks, forward and step, by column."""
    module, own = of_torch(), of_labnet()
    adam = ln.optim.Adam(own.parameters())
    columns = {
        "model of labnet": by_labnet(own, adam),
        "model of torch": by_torch(module, torch.optim.Adam(module.parameters())),
        "labnet": by_labnet(ln.network.remote_model(ours, blocking=True)),
        "torch": by_labnet(ln.network.remote_model(theirs, blocking=True)),
        "torch from torch": by_torch(ln.interop.torch.remote_module(theirs)),
        "rpc": by_rpc(port),
    }
    return {
        name: {column: tasks[position] for column, tasks in columns.items()}
        for position, name in enumerate(("forward", "step"))
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=0.05, help="length of one round of one column")
    parser.add_argument("--cpu", action="store_true", help="count the time of processors")
    parser.add_argument("--serve", choices=("labnet", "torch"), help="be the process with such a server")
    parser.add_argument("--rpc", metavar="PORT", help="be the other process of rpc")
    parser.add_argument("--json", type=Path, default=Path("build/interop.json"))
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return 0
    if arguments.rpc:
        print("ready", flush=True)
        connect(1, arguments.rpc)
        rpc.shutdown()
        return 0
    port = str(free_port())
    results = {}
    with started("--serve", "labnet") as ours, started("--serve", "torch") as theirs, started("--rpc", port):
        tasks = rows(ours, theirs, port)
        print(f"{'microseconds':<14}" + "".join(f"{column:>18}" for column in tasks["step"]) + f"{'of the goal':>14}")
        for name, row in tasks.items():
            if arguments.cpu:
                times = measure_cpu(row, rounds=arguments.rounds)
            else:
                times = measure(row, rounds=arguments.rounds, seconds=arguments.seconds)
            allowed = GOAL * times["labnet"] + max(0.0, times["model of torch"] - times["model of labnet"])
            results[name] = {"seconds": times, "of the goal": times["torch"] / allowed}
            cells = "".join(f"{seconds * 1e6:>18.0f}" for seconds in times.values())
            print(f"{name:<14}{cells}{results[name]['of the goal']:>14.2f}", flush=True)
        rpc.shutdown()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
