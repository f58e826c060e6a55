"""Round trips to a served model, beside what else carries tensors to another process, in one run.

``python benchmarks/roundtrip.py`` starts each server in a process of its own, measures all of them in turns and
prints a table; ``build/roundtrip.json`` has the same numbers. The model returns what it is given, so only the way
there and back counts. ``echo`` is a bare Tornado server that sends the same bytes back, asked by labnet's own HTTP
client: what is left for labnet to lose. ``forward over HTTP`` is ``forward`` with channels switched off. Peers that
are not installed are left out (``pip install torch==2.13.0 aiohttp grpcio litserve``).
"""

import argparse
import asyncio
import contextlib
import importlib.util
import json
import multiprocessing
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from tornado.iostream import StreamClosedError

import labnet as ln
from labnet.network.transport import client as pools

HERE = Path(__file__).parent
SERVERS = HERE / "roundtrip_servers.py"
SIZES = {"512 B": 128, "256 KB": 1 << 16, "16 MB": 1 << 22}
#: Shumai's best on such a machine, requests per second: forward, forward+backward.
SHUMAI = {"512 B": (2492, 737), "256 KB": (546, 160), "16 MB": (5.35, 2.29)}

Task = Callable[[], Awaitable[object]]


def free_port() -> int:
    """Return a port of this machine that no socket is bound to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def started(kind: str, *arguments: str) -> Iterator[int]:
    """Run a server in a process of its own; gives its port."""
    command = [str(HERE / f"{kind}.py")] if kind.startswith("roundtrip") else [str(SERVERS), kind]
    process = subprocess.Popen(
        [sys.executable, *command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# What is measured: a context that gives a task for tensors of so many elements


@contextlib.asynccontextmanager
async def echo(elements: int) -> AsyncIterator[Task]:
    body = np.ones(elements, "float32")
    with started("tornado") as port:
        address = pools.Address.parse(f"localhost:{port}")
        connections = await pools.pool()
        headers = {
            "Host": address.authority,
            "Content-Type": "application/x-labnet",
            "Content-Length": str(body.nbytes),
        }

        async def task() -> None:
            response = await connections.request(address, "POST", "/echo", headers, [body.data.cast("B")])
            assert len(np.frombuffer(response.body, "float32")) == elements

        yield task


@contextlib.asynccontextmanager
async def forward(elements: int, *cell: str) -> AsyncIterator[Task]:
    x = ln.ones(elements)
    with started("labnet", *cell) as port:
        model = ln.network.remote_model(f"localhost:{port}")

        async def task() -> None:
            with ln.no_grad():
                assert (await model(x)).shape == (elements,)

        yield task


@contextlib.asynccontextmanager
async def forward_over_http(elements: int) -> AsyncIterator[Task]:
    async with forward(elements) as over_a_channel:

        async def task() -> None:
            os.environ["LABNET_TRANSPORT"] = "http"
            try:
                await over_a_channel()
            finally:
                os.environ.pop("LABNET_TRANSPORT", None)

        yield task


@contextlib.asynccontextmanager
async def blocking(elements: int) -> AsyncIterator[Task]:
    x = ln.ones(elements)
    with started("labnet") as port:
        model = ln.network.remote_model(f"localhost:{port}", blocking=True)

        async def task() -> None:
            with ln.no_grad():
                assert model(x).shape == (elements,)

        yield task


@contextlib.asynccontextmanager
async def blocking_backward(elements: int) -> AsyncIterator[Task]:
    x, g = ln.ones(elements, requires_grad=True), ln.ones(elements)
    with started("labnet") as port:
        model = ln.network.remote_model(f"localhost:{port}", blocking=True)

        async def task() -> None:
            gradients = model(x).backward(g)
            assert gradients[x].shape == (elements,)
            x.grad = None

        yield task


@contextlib.asynccontextmanager
async def forward_backward(elements: int) -> AsyncIterator[Task]:
    x, g = ln.ones(elements, requires_grad=True), ln.ones(elements)
    with started("labnet") as port:
        model = ln.network.remote_model(f"localhost:{port}")

        async def task() -> None:
            gradients = await (await model(x)).backward(g)
            assert gradients[x].shape == (elements,)
            x.grad = None

        yield task


@contextlib.asynccontextmanager
async def by_aiohttp(elements: int) -> AsyncIterator[Task]:
    import aiohttp

    body = np.ones(elements, "float32")
    with started("aiohttp") as port:
        async with aiohttp.ClientSession() as session:

            async def task() -> None:
                async with session.post(f"http://127.0.0.1:{port}/echo", data=body.tobytes()) as response:
                    assert len(np.frombuffer(await response.read(), "float32")) == elements

            yield task


@contextlib.asynccontextmanager
async def by_grpc(elements: int) -> AsyncIterator[Task]:
    import grpc.aio

    body, limit = np.ones(elements, "float32"), 1 << 29
    options = [("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit)]
    with started("grpc") as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            call = channel.unary_unary("/echo/Echo")

            async def task() -> None:
                assert len(np.frombuffer(await call(body.tobytes()), "float32")) == elements

            yield task


@contextlib.asynccontextmanager
async def by_litserve(elements: int) -> AsyncIterator[Task]:
    body = json.dumps({"x": [1.0] * elements}).encode()
    with started("roundtrip_litserve", str(free_port())) as port:
        address = pools.Address.parse(f"127.0.0.1:{port}")
        connections = await pools.pool()
        headers = {"Host": address.authority, "Content-Type": "application/json", "Content-Length": str(len(body))}

        async def task() -> None:
            response = await connections.request(address, "POST", "/predict", headers, [body])
            assert len(np.asarray(json.loads(bytes(response.body))["y"], "float32")) == elements

        for _ in range(300):  # it says nothing when it is ready
            with contextlib.suppress(OSError, StreamClosedError):
                await task()
                break
            await asyncio.sleep(0.1)
        yield task


COLUMNS = {
    "echo": echo,
    "forward": forward,
    "forward+backward": forward_backward,
    "forward over HTTP": forward_over_http,
    "blocking forward": blocking,
    "blocking both": blocking_backward,
    "aiohttp": by_aiohttp,
    "grpc.aio": by_grpc,
    "LitServe": by_litserve,
}
#: Columns of callers that block: one at a time only.
ONE_AT_A_TIME = ("blocking forward", "blocking both")
#: Columns for small bodies only: JSON of 16 MB takes seconds.
SMALL = {"LitServe"}
NEEDS = {"aiohttp": "aiohttp", "grpc.aio": "grpc", "LitServe": "litserve"}


async def timed(task: Task, *, concurrency: int, seconds: float) -> list[float]:
    """Return the duration of each round trip of so many at a time, and how many seconds all took, last."""
    durations: list[float] = []
    end = time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        while (began := time.perf_counter()) < end:
            await task()
            durations.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*[one_after_the_other() for _ in range(concurrency)])
    return [*durations, time.perf_counter() - began]


async def measure(elements: int, *, concurrency: int, rounds: int, seconds: float, only: str) -> dict[str, dict]:
    """Measure all columns in turns; the rate is the median over the rounds."""
    found: dict[str, dict] = {}
    async with contextlib.AsyncExitStack() as stack:
        tasks = {}
        for name, column in COLUMNS.items():
            if (name in SMALL and elements > 1 << 16) or (name in ONE_AT_A_TIME and concurrency > 1):
                continue
            if any(part in name for part in only.split(",")) and (
                name not in NEEDS or importlib.util.find_spec(NEEDS[name])
            ):
                tasks[name] = await stack.enter_async_context(column(elements))
                for _ in range(3):
                    await tasks[name]()
        results: dict[str, list[list[float]]] = {name: [] for name in tasks}
        for _ in range(rounds):
            for name, task in tasks.items():
                results[name].append(await timed(task, concurrency=concurrency, seconds=seconds))
    for name, measured in results.items():
        each = sorted(duration for *durations, _ in measured for duration in durations)
        found[name] = {
            "per_second": statistics.median(len(durations) / total for *durations, total in measured),
            "p50": each[len(each) // 2],
            "p99": each[int(len(each) * 0.99)],
        }
    return found


# torch.distributed.rpc keeps a process to itself


def _identity(x):
    return x * 1.0


def _torch_client(port: int, elements: int, seconds: float, queue) -> None:
    import torch
    import torch.distributed.autograd as dist_autograd
    import torch.distributed.rpc as rpc

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    rpc.init_rpc("client", rank=0, world_size=2)
    x = torch.ones(elements, requires_grad=True)

    def forward() -> None:
        with torch.no_grad():
            rpc.rpc_sync("server", torch.mul, args=(x.detach(), 1.0))

    def both() -> None:
        with dist_autograd.context() as context:
            y = rpc.rpc_sync("server", torch.mul, args=(x, 1.0))
            dist_autograd.backward(context, [y.sum()])
            dist_autograd.get_gradients(context)

    rates = []
    for task in (forward, both):
        task()
        began, count = time.perf_counter(), 0
        while time.perf_counter() < began + seconds:
            task()
            count += 1
        rates.append(count / (time.perf_counter() - began))
    queue.put(rates)
    rpc.shutdown()


def torch_rates(elements: int, seconds: float) -> tuple[float, float]:
    """Return round trips per second of torch.distributed.rpc: forward, and forward+backward."""
    port = free_port()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    server = subprocess.Popen([sys.executable, str(SERVERS), "torch", str(port)])
    client = context.Process(target=_torch_client, args=(port, elements, seconds, queue))
    client.start()
    rates = queue.get(timeout=60 + 4 * seconds)
    client.join()
    server.wait(30)
    return tuple(rates)


def _peak_of(elements: int, queue) -> None:
    async def once() -> None:
        async with forward_backward(elements) as task:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            await task()
            queue.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)

    asyncio.run(once())


def peak_bytes(elements: int) -> int:
    """Return by how much one forward+backward raised the greatest memory use of the client's process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak_of, args=(elements, queue))
    process.start()
    found = queue.get(timeout=120)
    process.join()
    return found


async def beside_a_cell(cell: str, seconds: float) -> tuple[float, float]:
    """Return p50 and p99 of a forward to a kernel in which a cell of some kind does not end."""
    async with forward(128, *([cell] if cell else [])) as task:
        for _ in range(3):
            await task()
        *durations, _ = await timed(task, concurrency=1, seconds=seconds)
    durations.sort()
    return durations[len(durations) // 2], durations[int(len(durations) * 0.99)]


def show(size: str, concurrency: int, found: dict[str, dict]) -> None:
    """Print the rows of one size."""
    base = found.get("echo", {}).get("per_second")
    for name, values in found.items():
        ratio = f"{base / values['per_second']:>9.2f}" if base else f"{'':>9}"
        print(
            f"{size:<8}{concurrency:>4}  {name:<18}{values['per_second']:>10.1f}"
            f"{values['p50'] * 1e3:>10.2f}{values['p99'] * 1e3:>10.2f}{ratio}",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4, help="length of one round of one column")
    parser.add_argument("--size", default="", help="sizes whose name contains this")
    parser.add_argument("--only", default="", help="columns whose name contains one of these, comma-separated")
    parser.add_argument("--json", type=Path, default=Path("build/roundtrip.json"))
    arguments = parser.parse_args()
    results: dict[str, dict] = {}
    print(f"{'body':<8}{'at a':>4}  {'':<18}{'round':>10}{'p50':>10}{'p99':>10}{'echo /':>9}")
    print(f"{'':<8}{'time':>4}  {'':<18}{'trips/s':>10}{'ms':>10}{'ms':>10}{'this':>9}")
    for size, elements in SIZES.items():
        if arguments.size not in size:
            continue
        for concurrency in (1, 16) if elements < 1 << 20 else (1,):
            found = asyncio.run(
                measure(
                    elements,
                    concurrency=concurrency,
                    rounds=arguments.rounds,
                    seconds=arguments.seconds if elements < 1 << 20 else 3 * arguments.seconds,
                    only=arguments.only,
                )
            )
            show(size, concurrency, found)
            results[f"{size}, {concurrency} at a time"] = found
        if importlib.util.find_spec("torch") and not arguments.only:
            alone, both = torch_rates(elements, 2.0)
            print(f"{size:<8}{1:>4}  {'torch rpc':<18}{alone:>10.1f}   forward+backward {both:.1f}")
            results[f"{size}, torch rpc"] = {"forward": alone, "forward+backward": both}
        print(
            f"{size:<8}{1:>4}  {'Shumai (its best)':<18}{SHUMAI[size][0]:>10.1f}   forward+backward {SHUMAI[size][1]}"
        )
    if not arguments.only:
        for elements in (1 << 22, 1 << 26):
            peak = peak_bytes(elements)
            size, ratio = elements >> 18, peak / (4 * elements)
            print(f"peak memory of a client's forward+backward of {size} MB: {ratio:.2f} x tensor")
            results[f"peak, {size} MB"] = {"bytes": peak}
        for cell in ("", "python", "numpy", "compiled code"):
            p50, p99 = asyncio.run(beside_a_cell(cell, 10 * arguments.seconds))
            name = f"forward of 512 B, kernel busy with {cell or 'nothing'}"
            print(f"{name:<52} p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms")
            results[name] = {"p50": p50, "p99": p99}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
