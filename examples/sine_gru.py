"""A GRU learns to continue a sine wave: the program of a torch user with other imports.

It prints the continuation of a wave; ``python examples/sine_gru.py sine.png`` draws it, with matplotlib.
"""

import numpy as np

from labnet import asarray, cat, nn, no_grad, optim
from labnet.nn import functional as F  # noqa: N812 the usual name

HIDDEN, LENGTH = 24, 40


class Forecast(nn.Module):
    """A GRU and a linear layer: each number of a series predicts the next."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x, h=None):
        """Map series (N, T, 1) to the numbers that follow, of the same shape."""
        y, h = self.gru(x, h)
        return self.head(y)


def batches(steps=200, size=16):
    """Return noisy waves of other phases and periods, and what follows each number."""
    draws = np.random.default_rng(0)
    phase, period = draws.uniform(0, 2 * np.pi, (steps, size, 1)), draws.uniform(18, 22, (steps, size, 1))
    waves = np.sin(phase + np.arange(LENGTH + 1) * 2 * np.pi / period)[..., None]
    seen = waves + 0.05 * draws.standard_normal(waves.shape)
    return list(zip(seen[:, :, :-1].astype("float32"), waves[:, :, 1:].astype("float32"), strict=True))


def optimizer_of(model):
    """Return the optimizer of a model."""
    return optim.Adam(model.parameters(), lr=1e-2)


def loss_of(model, seen, following):
    """Return the mean squared error of the predictions."""
    return F.mse_loss(model(seen), following)


def train(model, data, compiled=lambda step: step):
    """Return the loss of each step."""
    optimizer = optimizer_of(model)

    @compiled
    def step(seen, following):
        optimizer.zero_grad()
        loss = loss_of(model, seen, following)
        loss.backward()
        optimizer.step()
        return loss

    return [step(asarray(seen), asarray(following)).item() for seen, following in data]


@no_grad()
def continued(model, series, steps):
    """Return a series (1, T, 1) with as many predictions behind it."""
    for _ in range(steps):
        series = cat([series, model(series)[:, -1:]], dim=1)
    return np.asarray(series).ravel()


if __name__ == "__main__":
    import sys

    import labnet as ln

    ln.manual_seed(0)
    net = Forecast()
    found = train(net, batches())  # compiled=ln.jit pays for itself in longer training
    wave = np.sin(np.arange(70) * 2 * np.pi / 20).astype("float32")
    guess = continued(net, ln.asarray(wave[None, :30, None]), 40)
    for at in range(20, 60, 2):
        line = [" "] * 49
        line[round(24 + 22 * wave[at])], line[round(24 + 22 * guess[at])] = "o", "*"
        print("".join(line), "seen" if at < 30 else "predicted")
    print("* is the model, o the wave where they differ")
    print("learned" if found[-1] < 0.05 else "not learned", f"with a loss of {found[-1]:.3f}")
    if sys.argv[1:]:
        from matplotlib import pyplot

        pyplot.plot(wave, "--", label="wave")
        pyplot.plot(guess, label="continued after 30 numbers")
        pyplot.legend()
        pyplot.savefig(sys.argv[1])
