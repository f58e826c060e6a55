"""A convolutional network with batch normalisation learns digits: the program of a torch user with other imports.

The first three imports from labnet are all that differs from torch; a test runs the same text with both.
"""

import numpy as np
from sklearn.datasets import load_digits

from labnet import asarray, nn, no_grad, optim
from labnet.nn import functional as F  # noqa: N812 the usual name

EPOCHS, BATCH, TRAINED = 3, 64, 1408


class Net(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d((2, 2)),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        """Map images (N, 1, 8, 8) to logarithms of probabilities."""
        return F.log_softmax(self.classifier(self.features(x)), dim=1)


def digits():
    """Return shuffled images and labels."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return (images[order] / 16).astype("float32").reshape((-1, 1, 8, 8)), labels[order]


def train(model, images, labels, epochs=EPOCHS, compiled=lambda step: step):
    """Return the loss of each step."""
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    steps = TRAINED // BATCH
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, epochs=epochs, steps_per_epoch=steps)
    criterion = nn.NLLLoss()

    @compiled
    def step(x, y):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    model.train()
    losses = []
    for epoch in range(epochs):
        for at in range(steps):
            batch = slice(at * BATCH, (at + 1) * BATCH)
            losses.append(step(asarray(images[batch]), asarray(labels[batch])).item())
            if (epoch, at) != (epochs - 1, steps - 1):
                schedule.step()
    return losses


def accuracy(model, images, labels):
    """Return the share of images that are recognised."""
    model.eval()
    with no_grad():
        predicted = model(asarray(images)).argmax(1)
    return float((np.asarray(predicted) == labels).mean())


if __name__ == "__main__":
    import labnet as ln

    ln.manual_seed(0)
    net, (images, labels) = Net(), digits()
    found = train(net, images, labels, compiled=ln.jit)
    print(f"loss: {found[0]:.2f} at first, {found[-1]:.2f} at last")
    share = accuracy(net, images[TRAINED:], labels[TRAINED:])
    print("recognised" if share > 0.9 else "not recognised", f"{share:.1%} of the images that it has not seen")
