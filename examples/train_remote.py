"""Serve a model in one process and train it from another, as if it were a local function.

``python examples/train_remote.py`` does both; the weights never leave the server.
"""

import asyncio

from processes import running

import labnet as ln


def server():
    ln.manual_seed(0)
    model = ln.nn.Sequential(ln.nn.Linear(1, 32), ln.tanh, ln.nn.Linear(32, 1))
    return ln.network.serve_model(model, ln.optim.Adam(lr=1e-2), port=0, name="sine")


async def train(url):
    model = ln.network.remote_model(url)
    x = ln.linspace(-3, 3, 64).reshape((64, 1))
    for step in range(1, 301):
        loss = ln.loss.mse(await model(x), ln.sin(x))
        await loss.backward()  # the gradient goes back, the server's optimizer takes the step
        if step % 60 == 0:
            print(f"step {step}: loss {loss.item():.5f}")
    statistics = await model.statistics()
    print(f"the server answered {statistics['forward']['hits']} forwards, {statistics['optimize']['hits']} backwards")


def main():
    with running(server) as (url,):
        asyncio.run(train(url))


if __name__ == "__main__":
    main()
