"""Models for the tests, the same wherever they are made."""

import labnet as ln
from labnet import nn


def fill(model, seed=0):
    """Give a model weights that are the same in every process."""
    for number, parameter in enumerate(model.parameters()):
        values = [((i * 7 + (number + seed) * 3) % 11 - 5) / 8 for i in range(parameter.size)]
        parameter.assign(ln.asarray(values).reshape(parameter.shape))
    return model


def small():
    return fill(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))


def adam():
    return ln.optim.Adam(lr=0.01)


def batch(step, rows=1):
    """Return the inputs and targets of a step."""
    x = [[(step + row) % 5 - 2.0, (step * row + step) % 3 - 1.0, 0.5] for row in range(rows)]
    return ln.asarray(x), ln.asarray([[float((step + row) % 2), 1.0] for row in range(rows)])


def train_alone(model, optimizer, steps, rows=1):
    """Train a model in this process; return the losses."""
    losses = []
    for step in range(steps):
        x, y = batch(step, rows)
        loss = ln.loss.mse(model(x), y)
        optimizer(loss.backward())
        losses.append(loss.item())
    return losses


def bits(state):
    """Return the bytes of every weight."""
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}
