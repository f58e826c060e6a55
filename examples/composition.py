"""Compose models of other servers into one, and train it from a client that knows nothing of them.

A and B are asked side by side, C gets A's output, and the server that puts them together adds a weight of its
own. One backward of the client trains all four: ``python examples/composition.py`` starts five processes.
"""

import asyncio

from processes import running

import labnet as ln

WIDTH = 4


def part(name, seed):
    ln.manual_seed(seed)
    return ln.network.serve_model(ln.nn.Linear(WIDTH, WIDTH), ln.optim.SGD(lr=0.02), port=0, name=name)


def composed(*urls):
    a, b, c = (ln.network.remote_model(url) for url in urls)
    ln.manual_seed(4)
    weight = ln.randn((WIDTH, 1)) / WIDTH
    weight.requires_grad = True

    async def model(x):
        of_a, of_b = await ln.network.all(a(x), b(x))
        return (await c(of_a) + of_b) @ weight

    async def statistics():
        found = await ln.network.all(a.statistics(), b.statistics(), c.statistics())
        return dict(zip("ABC", found, strict=True))

    routes = {"statistics": statistics}
    return ln.network.serve_model(model, ln.optim.SGD(lr=0.02), port=0, name="composed", routes=routes)


async def train(url):
    ln.manual_seed(0)
    model = ln.network.remote_model(url)
    x = ln.randn((64, WIDTH))
    target = x.sum(axis=1, keepdims=True)
    for step in range(1, 101):
        loss = ln.loss.mse(await model(x), target)
        await loss.backward()
        if step % 20 == 0:
            print(f"step {step:3}: loss {loss.item():.6f}")
    statistics = await model.statistics()
    print("\nsteps that each server took:")
    for name, version in versions(statistics):
        print(f"  {name:<10}{version:>5}")


def versions(statistics):
    """Return the name and the number of steps of a server and of those that it is composed of."""
    found = [(statistics["server"]["name"], statistics["server"]["version"])]
    for name in "ABC":
        found += versions(statistics[name]) if name in statistics else []
    return found


def main():
    with running((part, "A", 1), (part, "B", 2), (part, "C", 3)) as parts, running((composed, *parts)) as (url,):
        print(f"the client knows one address: {url}\n")
        asyncio.run(train(url))


if __name__ == "__main__":
    main()
