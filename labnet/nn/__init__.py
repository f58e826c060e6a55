"""Modules and functions that models are built from; names and layouts are torch's."""

from labnet.nn import init as init
from labnet.nn.functional import conv2d, dropout, embedding, layer_norm, normalize, scaled_dot_product_attention
from labnet.nn.modules import Linear, Module, ReLU, Sequential, Tanh
from labnet.ops import (
    avg_pool2d,
    elu,
    gelu,
    hardtanh,
    leaky_relu,
    log_softmax,
    max_pool2d,
    relu,
    relu6,
    sigmoid,
    silu,
    softmax,
    tanh,
    threshold,
)

__all__ = [
    "Linear",
    "Module",
    "ReLU",
    "Sequential",
    "Tanh",
    "avg_pool2d",
    "conv2d",
    "dropout",
    "elu",
    "embedding",
    "gelu",
    "hardtanh",
    "init",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "max_pool2d",
    "normalize",
    "relu",
    "relu6",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
    "threshold",
]
