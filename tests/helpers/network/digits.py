"""Handwritten digits and a small model for them, the same in every process."""

import numpy as np

import labnet as ln
from labnet import nn

OPTIMIZERS = {
    "sgd": lambda: ln.optim.SGD(lr=0.05),
    "momentum": lambda: ln.optim.SGD(lr=0.05, momentum=0.9),
    "adam": lambda: ln.optim.Adam(lr=3e-3),
}


def make_model(seed=0):
    ln.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.relu, nn.Linear(32, 10))


def batches(steps, size=32):
    """Give (images, labels), always the same ones."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        chosen = rng.integers(0, len(images), size)
        yield ln.asarray((images[chosen] / 16).astype("float32")), ln.asarray(labels[chosen])
