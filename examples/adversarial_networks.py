"""A generator and a discriminator with an optimizer each learn a ring of eight spots: the program of a torch user.

The imports from labnet are all that differs from torch. It prints where points of the generator lie; ``python
examples/adversarial_networks.py ring.png`` draws them, with matplotlib.
"""

import numpy as np

from labnet import asarray, nn, no_grad, ones_like, optim, randn, zeros_like
from labnet.nn import functional as F  # noqa: N812 the usual name

NOISE, HIDDEN, SPOTS = 8, 64, 8


def generator():
    """Return a network from noise (N, 8) to points (N, 2)."""
    return nn.Sequential(
        nn.Linear(NOISE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2)
    )


def discriminator():
    """Return a network from points (N, 2) to logits (N, 1), positive for real ones."""
    return nn.Sequential(
        nn.Linear(2, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1)
    )


def batches(steps=2000, size=128):
    """Return points of the ring and noise."""
    draws = np.random.default_rng(0)
    angles = draws.integers(0, SPOTS, (steps, size)) * (2 * np.pi / SPOTS)
    real = np.stack([np.cos(angles), np.sin(angles)], -1) + 0.05 * draws.standard_normal((steps, size, 2))
    return list(zip(real.astype("float32"), draws.standard_normal((steps, size, NOISE), dtype="float32"), strict=True))


def optimizer_of(model, lr):
    """Return the optimizer of a model."""
    return optim.Adam(model.parameters(), lr=lr, betas=(0.5, 0.99))


def loss_of_discriminator(discriminator, real, fake):
    """Return the loss of telling real points from others."""
    says_real, says_fake = discriminator(real), discriminator(fake)
    loss = F.binary_cross_entropy_with_logits(says_real, ones_like(says_real))
    return loss + F.binary_cross_entropy_with_logits(says_fake, zeros_like(says_fake))


def loss_of_generator(discriminator, fake):
    """Return the loss of generated points that the discriminator recognises."""
    says_fake = discriminator(fake)
    return F.binary_cross_entropy_with_logits(says_fake, ones_like(says_fake))


def train(generator, discriminator, data, compiled=lambda step: step):
    """Return the losses of discriminator and generator in each step."""
    of_generator, of_discriminator = optimizer_of(generator, 1e-3), optimizer_of(discriminator, 2e-3)

    @compiled
    def step(real, noise):
        fake = generator(noise)
        of_discriminator.zero_grad()
        loss = loss_of_discriminator(discriminator, real, fake.detach())
        loss.backward()
        of_discriminator.step()
        of_generator.zero_grad()
        deceived = loss_of_generator(discriminator, fake)
        deceived.backward()
        of_generator.step()
        return loss, deceived

    return [[loss.item() for loss in step(asarray(real), asarray(noise))] for real, noise in data]


@no_grad()
def points_of(model, count=1000):
    """Return points of the generator."""
    return np.asarray(model(randn(count, NOISE)))


if __name__ == "__main__":
    import sys

    import labnet as ln

    ln.manual_seed(0)
    artist = generator()
    found = train(artist, discriminator(), batches(), compiled=ln.jit)
    points = points_of(artist)
    counts, _, _ = np.histogram2d(-points[:, 1], points[:, 0], bins=(18, 48), range=[(-1.4, 1.4)] * 2)
    print(*("".join(" .:+#@"[min(int(n), 5)] for n in row) for row in counts), sep="\n")
    angles = np.arange(SPOTS) * (2 * np.pi / SPOTS)
    apart = np.linalg.norm(points[:, None] - np.stack([np.cos(angles), np.sin(angles)], -1), axis=-1)
    near = apart.min(1) < 0.25
    reached = len(set(apart[near].argmin(1)))
    print(f"spots reached: {reached} of {SPOTS}; {near.mean():.0%} of the points are near one")
    if sys.argv[1:]:
        from matplotlib import pyplot

        pyplot.scatter(*points.T, s=4)
        pyplot.savefig(sys.argv[1])
