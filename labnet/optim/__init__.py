"""Optimizers: callables that take the gradients of a backward and change the parameters."""

from labnet.optim import lr_scheduler as lr_scheduler
from labnet.optim.algorithms import SGD, Adagrad, Adam, AdamW, Lion, Muon, RMSprop
from labnet.optim.averaging import EMA
from labnet.optim.functional import clip_norm, clip_value, sgd
from labnet.optim.optimizer import Optimizer, watch

__all__ = [
    "EMA",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Lion",
    "Muon",
    "Optimizer",
    "RMSprop",
    "clip_norm",
    "clip_value",
    "lr_scheduler",
    "sgd",
    "watch",
]
