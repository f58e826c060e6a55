"""A network learns a function from its differential equation alone: the program of a torch user with other imports.

A damped oscillator, u'' + 2 d u' + w^2 u = 0 with u(0) = 1 and u'(0) = 0. The loss has second derivatives of the
network, and training differentiates them once more. ``python examples/physics_informed.py wave.png`` draws the
solution too, with matplotlib.
"""

import numpy as np

from labnet import asarray, nn, no_grad, ones_like, optim, zeros
from labnet.ops import grad  # from torch.autograd import grad

DAMPING, FREQUENCY, END = 0.5, 3.0, 3.0


def network():
    """Return a network from times (N, 1) to displacements (N, 1)."""
    return nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def batches(steps=3000, size=64):
    """Return random times."""
    draws = np.random.default_rng(0)
    return [END * draws.random((size, 1), dtype="float32") for _ in range(steps)]


def derivative(u, t):
    """Return du/dt of each row, which can be differentiated again."""
    return grad(u, [t], grad_outputs=ones_like(u), create_graph=True)[0]


def loss_of(model, t):
    """Return the mean square error in the equation and in the initial values."""
    t.requires_grad_()
    u = model(t)
    velocity = derivative(u, t)
    residual = derivative(velocity, t) + 2 * DAMPING * velocity + FREQUENCY**2 * u
    start = zeros(1, 1, requires_grad=True)
    first = model(start)
    at_start = (first - 1).square() + (derivative(first, start) / FREQUENCY).square()
    return (residual / FREQUENCY).square().mean() + at_start.sum()


def train(model, data, compiled=lambda step: step):
    """Return the loss of each step."""
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.999)

    @compiled
    def step(t):
        optimizer.zero_grad()
        loss = loss_of(model, t)
        loss.backward()
        optimizer.step()
        return loss

    losses = []
    for t in data:
        losses.append(step(asarray(t)).item())
        schedule.step()
    return losses


def solution(t):
    """Return the displacements at times t."""
    w = np.sqrt(FREQUENCY**2 - DAMPING**2)
    return np.exp(-DAMPING * t) * (np.cos(w * t) + DAMPING / w * np.sin(w * t))


if __name__ == "__main__":
    import sys

    import labnet as ln

    ln.manual_seed(0)
    net = network()
    found = train(net, batches(), compiled=ln.jit)
    t = np.linspace(0, END, 61, dtype="float32")
    with no_grad():
        learned = np.asarray(net(asarray(t[:, None])))[:, 0]
    for at in range(0, 61, 3):
        line = [" "] * 49
        line[round(24 + 22 * solution(t[at]))], line[round(24 + 22 * learned[at])] = "o", "*"
        print("".join(line))
    error = abs(learned - solution(t)).max()
    print("* is the network, o the solution where they differ")
    print("solved" if error < 0.2 else "not solved", f"with an error of at most {error:.3f}; loss {found[-1]:.4f}")
    if sys.argv[1:]:
        from matplotlib import pyplot

        pyplot.plot(t, solution(t), "--", label="solution")
        pyplot.plot(t, learned, label="network")
        pyplot.legend()
        pyplot.savefig(sys.argv[1])
