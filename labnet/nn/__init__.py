"""Modules and functions for models; names and layouts are torch's."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from labnet.nn import counting as counting
from labnet.nn import init as init
from labnet.nn.functions.activation import silu
from labnet.nn.functions.attention import scaled_dot_product_attention
from labnet.nn.functions.common import dropout, embedding, linear
from labnet.nn.functions.convolution import conv2d
from labnet.nn.functions.normalization import layer_norm, normalize
from labnet.nn.layers.activation import (
    CELU,
    ELU,
    GELU,
    GLU,
    SELU,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softmin,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from labnet.nn.layers.attention import MultiheadAttention
from labnet.nn.layers.batchnorm import BatchNorm1d, BatchNorm2d
from labnet.nn.layers.common import (
    Dropout,
    Dropout1d,
    Dropout2d,
    Embedding,
    Flatten,
    GroupNorm,
    Identity,
    InstanceNorm1d,
    InstanceNorm2d,
    LayerNorm,
    RMSNorm,
    Unflatten,
)
from labnet.nn.layers.containers import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from labnet.nn.layers.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from labnet.nn.layers.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from labnet.nn.layers.transformer import (
    PositionalEncoding,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from labnet.nn.modules import Linear, Module, Parameter
from labnet.ops import elu, gelu, hardtanh, leaky_relu, log_softmax, relu, relu6, sigmoid, softmax, tanh, threshold

if TYPE_CHECKING:
    from labnet.nn import functional as functional
    from labnet.nn import utils as utils
    from labnet.nn.functions.pooling import avg_pool2d, max_pool2d
    from labnet.nn.layers.losses import (
        BCELoss,
        BCEWithLogitsLoss,
        CosineEmbeddingLoss,
        CosineSimilarity,
        CrossEntropyLoss,
        HuberLoss,
        KLDivLoss,
        L1Loss,
        MarginRankingLoss,
        MSELoss,
        NLLLoss,
        SmoothL1Loss,
    )
    from labnet.nn.layers.pooling import (
        AdaptiveAvgPool1d,
        AdaptiveAvgPool2d,
        AdaptiveMaxPool1d,
        AdaptiveMaxPool2d,
        AvgPool1d,
        AvgPool2d,
        MaxPool1d,
        MaxPool2d,
        PixelShuffle,
        ReflectionPad2d,
        ReplicationPad2d,
        Upsample,
        ZeroPad2d,
    )

#: Modules that are imported on first use of themselves or of one of their names.
_LAZY = {
    "functional": (),
    "utils": (),
    "functions.pooling": (
        "avg_pool2d",
        "max_pool2d",
    ),
    "layers.losses": (
        "BCELoss",
        "BCEWithLogitsLoss",
        "CosineEmbeddingLoss",
        "CosineSimilarity",
        "CrossEntropyLoss",
        "HuberLoss",
        "KLDivLoss",
        "L1Loss",
        "MarginRankingLoss",
        "MSELoss",
        "NLLLoss",
        "SmoothL1Loss",
    ),
    "layers.pooling": (
        "AdaptiveAvgPool1d",
        "AdaptiveAvgPool2d",
        "AdaptiveMaxPool1d",
        "AdaptiveMaxPool2d",
        "AvgPool1d",
        "AvgPool2d",
        "MaxPool1d",
        "MaxPool2d",
        "PixelShuffle",
        "ReflectionPad2d",
        "ReplicationPad2d",
        "Upsample",
        "ZeroPad2d",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _LAZY.items():
        if name in names or name == module:
            found = import_module(f"labnet.nn.{module}")
            value = globals()[name] = getattr(found, name) if names else found
            return value
    raise AttributeError(f"module 'labnet.nn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "CosineEmbeddingLoss",
    "CosineSimilarity",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Embedding",
    "Flatten",
    "GRUCell",
    "GroupNorm",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "HuberLoss",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "KLDivLoss",
    "L1Loss",
    "LSTMCell",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "MarginRankingLoss",
    "MaxPool1d",
    "MaxPool2d",
    "Mish",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "NLLLoss",
    "PReLU",
    "Parameter",
    "ParameterDict",
    "ParameterList",
    "PixelShuffle",
    "PositionalEncoding",
    "RMSNorm",
    "RNNCell",
    "ReLU",
    "ReLU6",
    "ReflectionPad2d",
    "ReplicationPad2d",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "Unflatten",
    "Upsample",
    "ZeroPad2d",
    "avg_pool2d",
    "conv2d",
    "dropout",
    "elu",
    "embedding",
    "functional",
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
    "utils",
]
