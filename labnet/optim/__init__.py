"""Optimizers: callables that take the gradients of a backward and change the parameters."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from labnet.optim.algorithms import SGD, Adagrad, Adam, AdamW, Lion, Muon, RMSprop
from labnet.optim.functional import clip_norm, clip_value, sgd
from labnet.optim.optimizer import Optimizer, watch

if TYPE_CHECKING:
    from labnet.optim import lr_scheduler as lr_scheduler
    from labnet.optim.averaging import EMA


def __getattr__(name: str) -> Any:
    if name == "lr_scheduler":
        return import_module("labnet.optim.lr_scheduler")
    if name == "EMA":
        return import_module("labnet.optim.averaging").EMA
    raise AttributeError(f"module 'labnet.optim' has no attribute {name!r}")


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
