"""Functions that block a gradient at some values: what comes from behind must not matter there."""

import math

import labnet as ln
from labnet import nn

VALUES = [math.nan, -math.inf, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, math.inf]

BLOCKING = {
    "relu": nn.relu,
    "elu": nn.elu,
    "leaky_relu": nn.leaky_relu,
    "threshold": lambda x: nn.threshold(x, 0.5, 3.0),
    "clip": lambda x: ln.clip(x, -1, 1),
    "clip from below": lambda x: ln.clip(x, 0.0),
    "sign": ln.sign,
    "floor": ln.floor,
    "ceil": ln.ceil,
    "round": ln.round,
    "trunc": ln.trunc,
    "maximum": lambda x: ln.maximum(x, ln.zeros_like(x)),
    "minimum": lambda x: ln.minimum(ln.zeros_like(x), x),
    "where": lambda x: ln.where(x > 0, x, 0.0),
    "power 0": lambda x: x**0,
    "powers 0": lambda x: x ** ln.zeros_like(x),
    "max": ln.max,
    "min": ln.min,
    "tril": lambda x: ln.tril(x.reshape((3, 3))),
    "median": ln.median,
    "indexing": lambda x: x[2:5],
}

#: Kinks and flat places where torch multiplies: there the slope is 0, or the subgradient that labnet chose.
FLAT = {
    "abs": (ln.abs, [0.0]),
    "hypot": (lambda x: ln.hypot(x, 0.0), [0.0]),
    "copysign": (lambda x: ln.copysign(x, 1.0), [0.0]),
    "atan2": (lambda x: ln.atan2(x, 0.0), [0.0]),
    "zero to a power": (lambda x: ln.pow(0.0, x), [2.0]),
    "hardtanh": (nn.hardtanh, [-2.0, 1.0, math.nan]),
    "relu6": (nn.relu6, [-2.0, 0.0, 6.0, 9.0]),
    "product of zeros": (lambda x: ln.prod(ln.stack([x, ln.zeros_like(x), x]), axis=0), [3.0]),
    "standard deviation": (lambda x: ln.std(ln.stack([x, x]), axis=0), [3.0]),
    "norm": (lambda x: ln.vector_norm(ln.stack([x, x]), axis=0), [0.0]),
    "norm of order 1/2": (lambda x: ln.vector_norm(ln.stack([x, x]), axis=0, ord=0.5), [0.0]),
    "greatest magnitude": (lambda x: ln.vector_norm(ln.stack([x, x.detach() + 9]), axis=0, ord=math.inf), [1.0]),
    "mae": (lambda x: ln.loss.mae(x, x.detach(), reduction="none"), [1.0]),
    "dropout": (lambda x: nn.dropout(x, 1.0), [1.0, math.inf]),
}
