"""An autoencoder and a variational one learn to draw digits: the program of a torch user with other imports.

It prints digits that the second one makes up; ``python examples/variational_autoencoder.py digits.png`` draws more of
them, with matplotlib.
"""

import numpy as np
from sklearn.datasets import load_digits

from labnet import asarray, exp, nn, no_grad, optim, randn
from labnet.nn import functional as F  # noqa: N812 the usual name

LATENT, HIDDEN = 8, 64


class Autoencoder(nn.Module):
    """Images (N, 64) through a code of eight numbers."""

    def __init__(self, codes=LATENT):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, codes))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 64))

    def forward(self, images, noise):
        """Return the loss per image of drawing it again from its code."""
        return F.mse_loss(self.decoder(self.encoder(images)).sigmoid(), images, reduction="sum") / len(images)


class VAE(Autoencoder):
    """An autoencoder whose codes have a normal distribution."""

    def __init__(self):
        super().__init__(2 * LATENT)

    def forward(self, images, noise):
        """Return the negative evidence lower bound per image."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        logits = self.decoder(mean + exp(0.5 * log_variance) * noise)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        return (F.binary_cross_entropy_with_logits(logits, images, reduction="sum") + divergence) / len(images)


def batches(steps=400, size=64):
    """Return images and the noise of their codes."""
    images = (load_digits().data / 16).astype("float32")
    draws = np.random.default_rng(0)
    return [
        (images[draws.integers(0, len(images), size)], draws.standard_normal((size, LATENT), dtype="float32"))
        for _ in range(steps)
    ]


def optimizer_of(model):
    """Return the optimizer of a model."""
    return optim.Adam(model.parameters(), lr=3e-3)


def loss_of(model, images, noise):
    """Return the loss per image."""
    return model(images=images, noise=noise)


def train(model, data, compiled=lambda step: step):
    """Return the loss of each step."""
    optimizer = optimizer_of(model)

    @compiled
    def step(images, noise):
        optimizer.zero_grad()
        loss = loss_of(model, images, noise)
        loss.backward()
        optimizer.step()
        return loss

    return [step(asarray(images), asarray(noise)).item() for images, noise in data]


@no_grad()
def made_up(model, count):
    """Return images (count, 8, 8) of random codes."""
    return np.asarray(model.decoder(randn(count, LATENT)).sigmoid().reshape(count, 8, 8))


if __name__ == "__main__":
    import sys

    import labnet as ln

    ln.manual_seed(0)
    for model in (Autoencoder(), VAE()):
        found = train(model, batches(), compiled=ln.jit)
        print(f"{type(model).__name__}: loss {found[0]:.1f} at first, {found[-1]:.1f} at last")
    print("made up:")
    for row in np.hstack(list(made_up(model, 6))):
        print("|", "".join(" .:+#@"[int(shade * 5.99)] * 2 for shade in row))
    if sys.argv[1:]:
        from matplotlib import pyplot

        pyplot.imsave(sys.argv[1], np.vstack([np.hstack(list(made_up(model, 16))) for _ in range(8)]), cmap="gray")
