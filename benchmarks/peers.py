"""Ray Serve, BentoML and hivemind beside labnet, in one run.

``python benchmarks/peers.py`` serves a model that returns its input, and 784-256-10 with Adam, from processes of their
own on one thread each. One client asks all of them in turns, one call at a time; the best of the rounds counts. Ray
Serve and BentoML are asked by one open connection of ``http.client``, and Ray Serve also by its handle. Ray Serve takes
the bytes of an array, BentoML an array as JSON or a file. ``labnet of torch`` serves the network that the
peers serve. ``build/peers.json`` has the same numbers. Peers that are not installed are left out
(``pip install torch==2.13.0 "ray[serve]" bentoml hivemind``).
"""

import argparse
import contextlib
import http.client
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "BENTOML_DO_NOT_TRACK": "True"}

import numpy as np
import torch
from eager import Row, time_once
from interop import BATCH, WIDTHS, batch, by_labnet, by_torch, of_torch, started
from roundtrip import free_port
from roundtrip import started as started_identity

import labnet as ln

HERE = Path(__file__).parent
SMALL = 128  # numbers of float32: 512 bytes
ROWS = ("512 B: forward", "512 B: both", "784-256-10: forward", "784-256-10: step")
Columns = dict[str, Row]


@contextlib.contextmanager
def labnet() -> Iterator[Columns]:
    with (
        started_identity("labnet") as port,
        started("--serve", "labnet") as ours,
        started("--serve", "torch") as theirs,
    ):
        identity = ln.network.remote_model(f"localhost:{port}", blocking=True)
        x, seed = ln.ones(SMALL, requires_grad=True), ln.ones(SMALL)

        def forward() -> object:
            with ln.no_grad():
                return identity(x)

        def both() -> None:
            identity(x).backward(seed)
            x.grad = None

        small = (forward, both)
        yield {
            "labnet": dict(zip(ROWS, small + by_labnet(ln.network.remote_model(ours, blocking=True)), strict=True)),
            "labnet of torch": dict(
                zip(ROWS[2:], by_labnet(ln.network.remote_model(theirs, blocking=True)), strict=True)
            ),
        }


def posting(port: int, path: str, body: bytes, kind: str, check: Callable[[bytes], bool]) -> Callable[[], None]:
    """Return a task that posts a body by a connection that stays open, and checks the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def task() -> None:
        connection.request("POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        assert check(answer), answer[:200]

    return task


@contextlib.contextmanager
def ray() -> Iterator[Columns]:
    import ray
    from ray import serve
    from starlette.responses import Response

    port = free_port()

    class Networks:
        def __init__(self) -> None:
            torch.set_num_threads(1)
            self.module = of_torch()

        async def identity(self, x):
            return x * np.float32(1)

        async def network(self, x):
            with torch.no_grad():
                return self.module(torch.from_numpy(x.copy())).numpy()

        async def __call__(self, request):
            x = np.frombuffer(await request.body(), "float32")
            small = request.url.path == "/identity"
            y = await (self.identity(x) if small else self.network(x.reshape(BATCH, -1)))
            return Response(y.tobytes(), media_type="application/octet-stream")

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port, "access_log": False})
        deployment = serve.deployment(ray_actor_options={"num_cpus": 1})(Networks)
        handle = serve.run(deployment.bind(), route_prefix="/")
        x, rows = np.ones(SMALL, "float32"), batch()
        kind = "application/octet-stream"
        yield {
            "Ray Serve": {
                ROWS[0]: posting(port, "/identity", x.tobytes(), kind, lambda answer: len(answer) == x.nbytes),
                ROWS[2]: posting(port, "/network", rows.tobytes(), kind, lambda answer: len(answer) == BATCH * 40),
            },
            "Ray Serve, handle": {
                ROWS[0]: lambda: handle.identity.remote(x).result(),
                ROWS[2]: lambda: handle.network.remote(rows).result(),
            },
        }
    finally:
        serve.shutdown()
        ray.shutdown()


@contextlib.contextmanager
def bentoml() -> Iterator[Columns]:
    port = free_port()
    with started(str(port), script=HERE / "peers_bentoml.py"):
        x, rows = np.ones(SMALL, "float32"), batch()
        kind, file = "application/json", "application/octet-stream"

        def small(answer: bytes) -> bool:
            return len(json.loads(answer)) == SMALL

        def scores(answer: bytes) -> bool:
            return np.asarray(json.loads(answer)).shape == (BATCH, WIDTHS[-1])

        yield {
            "BentoML, JSON": {
                ROWS[0]: posting(port, "/identity", json.dumps(x.tolist()).encode(), kind, small),
                ROWS[2]: posting(port, "/network", json.dumps(rows.tolist()).encode(), kind, scores),
            },
            "BentoML, file": {
                ROWS[0]: posting(port, "/identity_of_file", x.tobytes(), file, small),
                ROWS[2]: posting(port, "/network_of_file", rows.tobytes(), file, scores),
            },
        }


class Identity(torch.nn.Module):
    """Returns the numbers that it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Touch every number."""
        return x * 1.0


def serve_hivemind() -> None:
    """Serve both models as experts, print the address of the server, and go on until the input ends."""
    from hivemind import DHT, ModuleBackend, Server
    from hivemind.utils.tensor_descr import BatchTensorDescriptor

    torch.set_num_threads(1)
    network = of_torch()
    experts = {
        "identity.0": ModuleBackend(
            "identity.0", Identity(), args_schema=(BatchTensorDescriptor(SMALL),), max_batch_size=BATCH
        ),
        "network.0": ModuleBackend(
            "network.0",
            network,
            optimizer=torch.optim.Adam(network.parameters()),
            args_schema=(BatchTensorDescriptor(WIDTHS[0]),),
            max_batch_size=BATCH,
        ),
    }
    dht = DHT(host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True)
    server = Server(dht, experts, num_connection_handlers=1, start=True)
    print(dht.get_visible_maddrs()[0], flush=True)
    sys.stdin.read()
    server.shutdown()
    dht.shutdown()


@contextlib.contextmanager
def hivemind() -> Iterator[Columns]:
    from hivemind import DHT
    from hivemind.moe.client.expert import create_remote_experts
    from hivemind.moe.client.remote_expert_worker import RemoteExpertWorker
    from hivemind.moe.expert_uid import ExpertInfo
    from hivemind.p2p import PeerID

    with started("--serve-hivemind", script=__file__) as address:
        dht = DHT(host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=[address], start=True)
        peer = PeerID.from_base58(address.rsplit("/", 1)[1])
        experts = create_remote_experts([ExpertInfo(uid, peer) for uid in ("identity.0", "network.0")], dht)
        x, seed = torch.ones(1, SMALL, requires_grad=True), torch.ones(1, SMALL)

        def forward() -> object:
            with torch.no_grad():
                return experts[0](x)

        small = (forward, lambda: experts[0](x).backward(seed))
        yield {"hivemind": dict(zip(ROWS, small + by_torch(experts[1]), strict=True))}
        RemoteExpertWorker.run_coroutine(experts[0].p2p.shutdown())
        dht.shutdown()


PEERS = {"ray": ray, "bentoml": bentoml, "hivemind": hivemind}


def best(row: Row, *, rounds: int, seconds: float) -> dict[str, float]:
    """Return the calls per second of each column in the best of interleaved rounds."""
    repeats = {name: max(1, int(seconds / min(time_once(task, 3) for _ in range(3)))) for name, task in row.items()}
    times: dict[str, list[float]] = {name: [] for name in row}
    for _ in range(rounds):
        for name, task in row.items():
            times[name].append(time_once(task, repeats[name]))
    return {name: 1 / min(values) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.2, help="length of one round of one column")
    parser.add_argument("--only", default="", help="peers whose name contains this")
    parser.add_argument("--json", type=Path, default=Path("build/peers.json"))
    parser.add_argument("--serve-hivemind", action="store_true", help="be the process with hivemind's server")
    arguments = parser.parse_args()
    if arguments.serve_hivemind:
        serve_hivemind()
        return 0
    results: dict[str, dict] = {}
    with contextlib.ExitStack() as stack:
        columns = stack.enter_context(labnet())
        for name, peer in PEERS.items():
            if importlib.util.find_spec(name) is None:
                print(f"{name} is not installed")
            elif arguments.only in name:
                columns |= stack.enter_context(peer())
        print(f"{'':<22}{'':<20}{'calls/s':>10}{'labnet / this':>15}")
        for name in ROWS:
            row = {column: tasks[name] for column, tasks in columns.items() if name in tasks}
            results[name] = best(row, rounds=arguments.rounds, seconds=arguments.seconds)
            for column, rate in results[name].items():
                print(f"{name:<22}{column:<20}{rate:>10.0f}{results[name]['labnet'] / rate:>15.2f}", flush=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
