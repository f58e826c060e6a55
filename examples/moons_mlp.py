"""A multilayer perceptron separates two moons with a hinge loss: the program of a torch user with other imports.

It prints a map of the two classes; ``python examples/moons_mlp.py moons.png`` draws it too, with matplotlib.
"""

import numpy as np
from sklearn.datasets import make_moons

from labnet import asarray, nn, no_grad, optim
from labnet.nn import functional as F  # noqa: N812 the usual name


class MLP(nn.Module):
    """Two hidden layers of 16 neurons."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        """Map points (..., 2) to scores (...), which are positive for one moon."""
        return self.layers(x).squeeze(-1)


def moons():
    """Return points and their classes, -1 or 1."""
    points, labels = make_moons(n_samples=100, noise=0.1, random_state=0)
    return points.astype("float32"), (labels * 2 - 1).astype("float32")


def batches(steps=100):
    """Return all points and their classes, once for each step."""
    return [moons()] * steps


def optimizer_of(model):
    """Return the optimizer of a model."""
    return optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)


def loss_of(model, points, labels):
    """Return the mean hinge loss with a margin of one."""
    return F.relu(1 - labels * model(points)).mean()


def train(model, data, compiled=lambda step: step):
    """Return the loss of each step."""
    optimizer = optimizer_of(model)

    @compiled
    def step(points, labels):
        optimizer.zero_grad()
        loss = loss_of(model, points, labels)
        loss.backward()
        optimizer.step()
        return loss

    return [step(asarray(points), asarray(labels)).item() for points, labels in data]


def scores(model, width=64, height=16):
    """Return the scores on a grid over the moons."""
    grid = np.stack(np.meshgrid(np.linspace(-1.5, 2.5, width), np.linspace(1.4, -1, height)), axis=-1)
    with no_grad():
        return np.asarray(model(asarray(grid.astype("float32"))))


if __name__ == "__main__":
    import sys

    import labnet as ln

    ln.manual_seed(0)
    net, (points, labels) = MLP(), moons()
    found = train(net, batches(), compiled=ln.jit)
    print(*("".join(".#"[int(score > 0)] for score in row) for row in scores(net)), sep="\n")
    right = ((np.asarray(net(asarray(points))) > 0) == (labels > 0)).mean()
    print(f"loss: {found[0]:.2f} at first, {found[-1]:.3f} at last")
    print(f"{right:.0%} of the points are on their side")
    if sys.argv[1:]:
        from matplotlib import pyplot

        pyplot.imshow(scores(net, 400, 240), extent=(-1.5, 2.5, -1, 1.4), cmap="coolwarm", vmin=-3, vmax=3)
        pyplot.scatter(*points.T, c=labels, cmap="coolwarm", edgecolors="black")
        pyplot.savefig(sys.argv[1])
