"""Serve a model that is nothing but another server's, behind one whose first step has no parameter.

Gradients pass through both: ``python examples/relay.py`` trains the weight of the innermost of three processes
through a server that has no weight at all.
"""

from processes import running

import labnet as ln


def origin():
    weight = ln.zeros((3, 1), requires_grad=True)
    routes = {"weight": lambda: weight.detach()}
    return ln.network.serve_model(
        lambda x: ln.nn.relu(x) @ weight, ln.optim.SGD(lr=0.2), port=0, name="origin", routes=routes
    )


def relay(url):
    return ln.network.serve_model(ln.network.remote_model(url), port=0, name="relay")


def main():
    ln.manual_seed(0)
    with running(origin) as (inner,), running((relay, inner)) as (url,):
        model = ln.network.remote_model(url, blocking=True)
        wanted = ln.asarray([[1.0], [-2.0], [0.5]])
        for step in range(1, 61):
            x = ln.randn((32, 3), requires_grad=True)
            loss = ln.loss.mse(model(x), ln.nn.relu(x).detach() @ wanted)
            gradients = loss.backward()
            if step % 15 == 0:
                print(f"step {step}: loss {loss.item():.6f}, gradient of the input {gradients[x].shape}")
        weight = ln.network.tfetch(f"{inner}/weight", blocking=True)
    print("weight of the innermost server:", [round(value, 3) for (value,) in weight.tolist()])


if __name__ == "__main__":
    main()
