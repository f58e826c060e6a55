"""Optimizers: callables that take the gradients of a backward and change the parameters."""

from labnet.optim.algorithms import SGD, Adam, AdamW
from labnet.optim.functional import clip_norm, sgd
from labnet.optim.optimizer import Optimizer, watch

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_norm", "sgd", "watch"]
