"""Modules and functions that models are built from; names and layouts are torch's."""

from labnet.nn import init as init
from labnet.nn.modules import Linear, Module, ReLU, Sequential, Tanh
from labnet.ops import log_softmax, relu, sigmoid, tanh

__all__ = ["Linear", "Module", "ReLU", "Sequential", "Tanh", "init", "log_softmax", "relu", "sigmoid", "tanh"]
