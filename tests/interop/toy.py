"""A fifth library, and its adapter: what `docs/bring-your-own-model.md` shows."""

import numpy as np

import labnet as ln


class Perceptron:
    """A model of the toy library: rows of weights that are trained by their own rule."""

    def __init__(self, inputs, outputs):
        self.weights = np.linspace(-1, 1, inputs * outputs, dtype="float32").reshape(inputs, outputs)

    def respond(self, rows):
        return rows @ self.weights


class Rule:
    """An optimizer of the toy library: steps against the gradient, with friction."""

    def __init__(self, rate):
        self.rate, self.speed = rate, np.float32(0)

    def moved(self, weights, gradient):
        self.speed = np.float32(0.5) * self.speed + gradient
        return weights - np.float32(self.rate) * self.speed


class PerceptronAdapter(ln.interop.ModelAdapter):
    """Serves a perceptron, and trains it with a rule."""

    def __init__(self, model, rule=None):
        self.model, self.rule = model, rule
        self.has_optimizer, self.optimizer_name = rule is not None, "toy.Rule"

    def call(self, inputs, named, *, training, wanted):
        (rows,) = inputs
        return self.model.respond(rows), (rows, self.model.weights)

    def pull_back(self, record, gradients):
        rows, weights = record
        return [gradients @ weights.T], {"weights": rows.T @ gradients}

    def parameters(self):
        return {"weights": self.model.weights}

    def load_state(self, state):
        self.model.weights = state["weights"].copy()

    def apply(self, gradients):
        self.model.weights = self.rule.moved(self.model.weights, gradients["weights"])

    def optimizer_state(self):
        return {"speed": np.array(self.rule.speed)} if self.rule else {}

    def load_optimizer_state(self, state):
        self.rule.speed = state["speed"].copy()

    def hyperparameters(self):
        return {"rate": self.rule.rate} if self.rule else {}

    def set_hyperparameters(self, numbers):
        self.rule.rate = numbers["rate"]


def adapt(model, optimizer, options):
    """Return the adapter of a perceptron; None for another model."""
    if not isinstance(model, Perceptron):
        return None
    options.refuse(model)
    return PerceptronAdapter(model, optimizer if isinstance(optimizer, Rule) else None)
