"""Modules and functions for models; names and layouts are torch's."""

from labnet.nn import counting as counting
from labnet.nn import init as init
from labnet.nn.functional import (
    conv2d,
    dropout,
    embedding,
    layer_norm,
    linear,
    normalize,
    scaled_dot_product_attention,
)
from labnet.nn.layers.activation import (
    ELU,
    GELU,
    Hardtanh,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    Threshold,
)
from labnet.nn.layers.attention import MultiheadAttention
from labnet.nn.layers.batchnorm import BatchNorm1d, BatchNorm2d
from labnet.nn.layers.common import Dropout, Embedding, Flatten, LayerNorm
from labnet.nn.layers.containers import ModuleList, Sequential
from labnet.nn.layers.convolution import AvgPool2d, Conv2d, MaxPool2d
from labnet.nn.layers.recurrent import LSTM
from labnet.nn.layers.transformer import (
    PositionalEncoding,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from labnet.nn.modules import Linear, Module
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
    "ELU",
    "GELU",
    "LSTM",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "Hardtanh",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "PositionalEncoding",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Threshold",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
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
    "linear",
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
