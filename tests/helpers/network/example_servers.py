"""The servers of the documented examples, each in a process of its own: `with process("composed", a, b, c) as url`."""

import asyncio
import contextlib
import json
import sys

import labnet as ln
from labnet import nn
from tests.helpers.network.fork_server import forked_server

LR = 0.05
WIDTH = 3


def linear(seed):
    ln.manual_seed(int(seed))
    return nn.Linear(WIDTH, WIDTH)


def local_weight():
    return ln.asarray([[0.5, -0.25, 0.125]] * WIDTH, requires_grad=True)


def functions():
    """Serve a model by hand: the backward of one route is captured for another."""
    weight = ln.full((WIDTH, 1), 2.0, requires_grad=True)

    def run_model(user, x):
        y = x @ weight
        user.opt = lambda jacobian: ln.optim.sgd(y.backward(jacobian), lr=0.1)
        return y

    def optimize_model(user, jacobian):
        user.opt(jacobian)

    routes = {"run_model": run_model, "optimize_model": optimize_model, "weight": lambda: weight.detach()}
    return ln.network.serve(routes, port=0)


def model(seed):
    return ln.network.serve_model(linear(seed), ln.optim.SGD(lr=LR), port=0, name=f"linear {seed}")


def composed(*urls):
    """A and B side by side, C on A's output, and a weight of this server."""
    a, b, c = (ln.network.remote_model(url) for url in urls)
    weight = local_weight()

    async def forward(x):
        of_a, of_b = await ln.network.all(a(x), b(x))
        return (await c(of_a)) * of_b @ weight

    async def statistics():
        names = ("A", "B", "C")
        return dict(
            zip(names, await ln.network.all(a.statistics(), b.statistics(), c.statistics()), strict=True),
        )

    routes = {"statistics": statistics, "weight": lambda: weight.detach()}
    return ln.network.serve_model(forward, ln.optim.SGD(lr=LR), port=0, routes=routes, name="composed")


def relay(kind, url):
    """Return what another server computes as it is."""
    remote = ln.network.remote_model(url)

    async def awaiting(x):
        return await remote(x)

    kinds = {
        "remote": remote,
        "async": awaiting,
        "lambda": lambda x: remote(x),
        "blocking": ln.network.remote_model(url, blocking=True),
    }
    return ln.network.serve_model(kinds[kind], ln.optim.SGD(lr=LR), port=0, name="relay")


def no_parameter_first():
    weight = ln.full((WIDTH, 1), 2.0, requires_grad=True)
    routes = {"weight": lambda: weight.detach()}
    return ln.network.serve_model(
        lambda x: nn.relu(x) @ weight, ln.optim.SGD(lr=LR), port=0, routes=routes, name="relu first"
    )


def own_statistics():
    return ln.network.serve_model(
        linear(0), ln.optim.SGD(lr=LR), port=0, routes={"statistics": lambda: {"accuracy": 0.9}}
    )


def asks_a_neighbour():
    """Serve statistics of a server whose address is told later, so that rings can be built."""
    neighbour = []

    async def statistics():
        if not neighbour:
            return {}
        return {"next": await ln.network.tfetch(neighbour[0] + "/statistics")}

    def connect(address):
        neighbour.append(bytes(address.tolist()).decode())

    return ln.network.serve({"statistics": statistics, "connect": connect}, port=0)


def never_says():
    async def statistics():
        await asyncio.Event().wait()

    return ln.network.serve({"statistics": statistics, "route": lambda: 1}, port=0)


def runner(*options):
    return ln.network.serve_runner(port=0, allow_shell="shell" in options)


@contextlib.contextmanager
def process(name, *arguments):
    """Run one of these servers in a process; gives its URL."""
    with forked_server(name, *arguments, program="example_servers") as where:
        yield where["url"]


@contextlib.contextmanager
def processes(*servers):
    """Run several of them; gives their URLs."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(process(*server)) for server in servers]


def main(name, *arguments):
    with globals()[name](*arguments) as server:
        print(json.dumps({"url": server.url}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
