"""Serve plain functions: one captures its backward for another, so a client trains by hand.

``python examples/serve_functions.py`` starts the server in a process of its own and trains it from this one.
"""

from processes import running

import labnet as ln


def server():
    weight = ln.zeros((2, 1), requires_grad=True)
    optimizer = ln.optim.SGD(lr=0.1)

    def run_model(user, x):
        y = x @ weight
        user.opt = lambda jacobian: optimizer(y.backward(jacobian))  # kept for this client until its next call
        return y

    def optimize_model(user, jacobian):
        user.opt(jacobian)

    routes = {"run_model": run_model, "optimize_model": optimize_model, "weight": lambda: weight.detach()}
    return ln.network.serve(routes, port=0)


def main():
    ln.manual_seed(0)
    wanted = ln.asarray([[2.0], [-1.0]])
    with running(server) as (url,):
        for step in range(1, 101):
            x = ln.randn((16, 2))
            y = ln.network.tfetch(f"{url}/run_model", x, blocking=True)  # a tensor is sent: POST
            error = y - x @ wanted
            ln.network.tfetch(f"{url}/optimize_model", error * 2 / len(x), blocking=True)
            if step % 20 == 0:
                print(f"step {step:3}: mean squared error {(error**2).mean().item():.6f}")
        weight = ln.network.tfetch(f"{url}/weight", blocking=True)  # nothing is sent: GET
    print("learned:", [round(value, 3) for (value,) in weight.tolist()], "wanted:", [2.0, -1.0])


if __name__ == "__main__":
    main()
