"""A small ResNet learns digits: the program of a torch user with other imports."""

import numpy as np
from sklearn.datasets import load_digits

from labnet import asarray, flatten, nn, no_grad, optim
from labnet.nn import functional as F  # noqa: N812 the usual name

TRAINED, WIDTHS = 1408, (8, 16, 32)


def conv3x3(inputs, outputs, stride=1):
    """Return a convolution with padding and without a bias."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two convolutions, added to their input."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        """Map images (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """A convolution, three blocks and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv3x3(1, WIDTHS[0]), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(inplace=True))
        self.layer1 = BasicBlock(WIDTHS[0], WIDTHS[0], stride=1)
        self.layer2 = BasicBlock(WIDTHS[0], WIDTHS[1], stride=2)
        self.layer3 = BasicBlock(WIDTHS[1], WIDTHS[2], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(WIDTHS[2], 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        """Map images (N, 1, 8, 8) to logits (N, 10)."""
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(flatten(self.avgpool(x), 1))


def digits():
    """Return shuffled images and labels."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return (images[order] / 16).astype("float32").reshape((-1, 1, 8, 8)), labels[order]


def batches(epochs=2, size=64):
    """Return images and labels of each step."""
    images, labels = digits()
    starts = range(0, TRAINED, size)
    return [(images[at : at + size], labels[at : at + size]) for _ in range(epochs) for at in starts]


def optimizer_of(model):
    """Return the optimizer of a model."""
    return optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def loss_of(model, images, labels):
    """Return the loss per image."""
    return F.cross_entropy(model(images), labels, label_smoothing=0.05)


def train(model, data, compiled=lambda step: step):
    """Return the loss of each step."""
    optimizer = optimizer_of(model)

    @compiled
    def step(images, labels):
        optimizer.zero_grad()
        loss = loss_of(model, images, labels)
        loss.backward()
        optimizer.step()
        return loss

    return [step(asarray(images), asarray(labels)).item() for images, labels in data]


if __name__ == "__main__":
    import labnet as ln

    ln.manual_seed(0)
    net, (images, labels) = ResNet(), digits()
    found = train(net, batches())  # compiled=ln.jit pays for itself in longer training
    print(f"loss: {found[0]:.2f} at first, {found[-1]:.2f} at last")
    net.eval()
    with no_grad():
        right = (net(asarray(images[TRAINED:])).argmax(1) == asarray(labels[TRAINED:])).float().mean().item()
    print("recognised" if right > 0.9 else "not recognised", f"{right:.1%} of the images that it has not seen")
