"""Numbers that a layer cannot be made of: each is refused at once, by name, with what was expected."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labnet as ln
from labnet import nn
from labnet.nn.layers.function import FunctionModule

#: Layers with arguments that are right, and for each argument what it is: the least size, or a kind.
LAYERS = {
    "Linear": ({"in_features": 3, "out_features": 2}, {"in_features": 0, "out_features": 0}),
    "Conv2d": (
        {"in_channels": 2, "out_channels": 4, "kernel_size": 3},
        {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    ),
    "MaxPool2d": ({"kernel_size": 2}, {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}),
    "AvgPool2d": ({"kernel_size": 2}, {"kernel_size": 1, "stride": 1, "padding": 0}),
    "BatchNorm1d": ({"num_features": 3}, {"num_features": 1, "eps": "positive", "momentum": "share"}),
    "BatchNorm2d": ({"num_features": 3}, {"num_features": 1, "eps": "positive", "momentum": "share"}),
    "LayerNorm": ({"normalized_shape": 3}, {"normalized_shape": 1, "eps": "positive"}),
    "Dropout": ({}, {"p": "share"}),
    "Embedding": ({"num_embeddings": 4, "embedding_dim": 3}, {"num_embeddings": 1, "embedding_dim": 1}),
    "LSTM": (
        {"input_size": 3, "hidden_size": 2},
        {"input_size": 1, "hidden_size": 1, "num_layers": 1, "dropout": "share"},
    ),
    "MultiheadAttention": (
        {"embed_dim": 4, "num_heads": 2},
        {"embed_dim": 1, "num_heads": 1, "dropout": "share", "kdim": 1, "vdim": 1},
    ),
    "TransformerEncoderLayer": (
        {"d_model": 4, "nhead": 2},
        {"d_model": 1, "nhead": 1, "dim_feedforward": 1, "dropout": "share", "layer_norm_eps": "positive"},
    ),
    "TransformerDecoderLayer": (
        {"d_model": 4, "nhead": 2},
        {"d_model": 1, "nhead": 1, "dim_feedforward": 1, "dropout": "share", "layer_norm_eps": "positive"},
    ),
    "TransformerEncoder": ({"encoder_layer": nn.ReLU(), "num_layers": 1}, {"num_layers": 1}),
    "TransformerDecoder": ({"decoder_layer": nn.ReLU(), "num_layers": 1}, {"num_layers": 1}),
    "PositionalEncoding": ({"d_model": 4}, {"d_model": 1, "dropout": "share", "max_len": 1}),
    "Conv1d": (
        {"in_channels": 2, "out_channels": 4, "kernel_size": 3},
        {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    ),
    "ConvTranspose1d": (
        {"in_channels": 2, "out_channels": 4, "kernel_size": 3},
        {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "stride": 1, "padding": 0, "output_padding": 0},
    ),
    "ConvTranspose2d": (
        {"in_channels": 2, "out_channels": 4, "kernel_size": 3},
        {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "stride": 1, "padding": 0, "output_padding": 0},
    ),
    "MaxPool1d": ({"kernel_size": 2}, {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}),
    "AvgPool1d": ({"kernel_size": 2}, {"kernel_size": 1, "stride": 1, "padding": 0}),
    "GroupNorm": ({"num_groups": 1, "num_channels": 2}, {"num_groups": 1, "num_channels": 1, "eps": "positive"}),
    "InstanceNorm2d": ({"num_features": 2}, {"num_features": 1, "eps": "positive"}),
    "RMSNorm": ({"normalized_shape": 3}, {"normalized_shape": 1, "eps": "positive"}),
    "Dropout2d": ({}, {"p": "share"}),
    "GRU": (
        {"input_size": 3, "hidden_size": 2},
        {"input_size": 1, "hidden_size": 1, "num_layers": 1, "dropout": "share"},
    ),
    "RNN": (
        {"input_size": 3, "hidden_size": 2},
        {"input_size": 1, "hidden_size": 1, "num_layers": 1, "dropout": "share"},
    ),
    "GRUCell": ({"input_size": 3, "hidden_size": 2}, {"input_size": 1, "hidden_size": 1}),
    "LSTMCell": ({"input_size": 3, "hidden_size": 2}, {"input_size": 1, "hidden_size": 1}),
    "RNNCell": ({"input_size": 3, "hidden_size": 2}, {"input_size": 1, "hidden_size": 1}),
    "Dropout1d": ({}, {"p": "share"}),
    "InstanceNorm1d": ({"num_features": 2}, {"num_features": 1, "eps": "positive"}),
    "Unflatten": ({"dim": 1, "unflattened_size": (2, -1)}, {"dim": -64}),
    "Flatten": ({}, {"start_dim": -64, "end_dim": -64}),
    "Softmax": ({}, {"axis": -64}),
    "LogSoftmax": ({}, {"axis": -64}),
    "Softmin": ({}, {"axis": -64}),
    "GLU": ({}, {"dim": -64}),
    "PReLU": ({}, {"num_parameters": 1, "init": "number"}),
    "CELU": ({}, {"alpha": "number"}),
    "SiLU": ({}, {"beta": "number"}),
    "Softplus": ({}, {"beta": "number", "threshold": "number"}),
    "Softshrink": ({}, {"lambd": "number"}),
    "Hardshrink": ({}, {"lambd": "number"}),
    "HuberLoss": ({}, {"delta": "number"}),
    "SmoothL1Loss": ({}, {"beta": "number"}),
    "CrossEntropyLoss": ({}, {"label_smoothing": "number"}),
    "CosineSimilarity": ({}, {"dim": -64, "eps": "number"}),
    "CosineEmbeddingLoss": ({}, {"margin": "number"}),
    "MarginRankingLoss": ({}, {"margin": "number"}),
    "ELU": ({}, {"alpha": "number"}),
    "LeakyReLU": ({}, {"negative_slope": "number"}),
    "Hardtanh": ({}, {"min_val": "number", "max_val": "number"}),
    "Threshold": ({"threshold": 1, "value": 0}, {"threshold": "number", "value": "number"}),
    "Conv3d": (
        {"in_channels": 2, "out_channels": 4, "kernel_size": 3},
        {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    ),
    "ConvTranspose3d": (
        {"in_channels": 2, "out_channels": 4, "kernel_size": 3},
        {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "stride": 1, "padding": 0, "output_padding": 0},
    ),
    "MaxPool3d": ({"kernel_size": 2}, {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}),
    "AvgPool3d": ({"kernel_size": 2}, {"kernel_size": 1, "stride": 1, "padding": 0}),
    "BatchNorm3d": ({"num_features": 3}, {"num_features": 1, "eps": "positive", "momentum": "share"}),
    "InstanceNorm3d": ({"num_features": 2}, {"num_features": 1, "eps": "positive"}),
    "Dropout3d": ({}, {"p": "share"}),
    "AlphaDropout": ({}, {"p": "share"}),
    "EmbeddingBag": ({"num_embeddings": 4, "embedding_dim": 3}, {"num_embeddings": 1, "embedding_dim": 1}),
    "Bilinear": (
        {"in1_features": 2, "in2_features": 3, "out_features": 2},
        {"in1_features": 1, "in2_features": 1, "out_features": 1},
    ),
    "Transformer": (
        {"d_model": 4, "nhead": 2, "dim_feedforward": 2, "num_encoder_layers": 1, "num_decoder_layers": 1},
        {"d_model": 1, "nhead": 1, "num_encoder_layers": 1, "num_decoder_layers": 1, "dropout": "share"},
    ),
    "LocalResponseNorm": ({"size": 2}, {"alpha": "number", "beta": "number", "k": "number"}),
    "LPPool1d": ({"norm_type": 2, "kernel_size": 2}, {"norm_type": "number"}),
    "LPPool2d": ({"norm_type": 2, "kernel_size": 2}, {"norm_type": "number"}),
    "ConstantPad1d": ({"padding": 1, "value": 2}, {"value": "number"}),
    "ConstantPad2d": ({"padding": 1, "value": 2}, {"value": "number"}),
    "ConstantPad3d": ({"padding": 1, "value": 2}, {"value": "number"}),
    "RReLU": ({}, {"lower": "number", "upper": "number"}),
    "PairwiseDistance": ({}, {"p": "number", "eps": "number"}),
    "TripletMarginLoss": ({}, {"margin": "number", "p": "number", "eps": "number"}),
    "HingeEmbeddingLoss": ({}, {"margin": "number"}),
    "GaussianNLLLoss": ({}, {"eps": "number"}),
    "PoissonNLLLoss": ({}, {"eps": "number"}),
    "MultiMarginLoss": ({}, {"margin": "number"}),
}
#: Arguments whose default, None, stands for another one.
OPTIONAL = {
    "stride": ("MaxPool1d", "MaxPool2d", "MaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d"),
    "eps": ("RMSNorm",),
    "kdim": LAYERS,
    "vdim": LAYERS,
    "momentum": LAYERS,
}
#: Layers whose arguments are modules, tensors, names, or sizes of the result, which depend on the input.
OTHERS = {
    *("Module", "ModuleList", "ModuleDict", "Sequential", "Parameter", "ParameterList", "ParameterDict", "Identity"),
    *("GELU", "MSELoss", "L1Loss", "NLLLoss", "BCELoss", "BCEWithLogitsLoss", "KLDivLoss"),
    *("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "PixelShuffle", "Upsample"),
    *("AdaptiveAvgPool3d", "AdaptiveMaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "Fold", "Unfold"),
    *("UpsamplingNearest2d", "UpsamplingBilinear2d", "PixelUnshuffle", "ChannelShuffle", "Softmax2d"),
    *(f"{kind}Pad{dims}d" for kind in ("Zero", "Reflection", "Replication", "Circular") for dims in (1, 2, 3)),
    *("SoftMarginLoss", "MultiLabelSoftMarginLoss", "MultiLabelMarginLoss", "CTCLoss", "TripletMarginWithDistanceLoss"),
    *(name for name in nn.__all__ if name.startswith("Lazy")),
}
NO_NUMBERS = (True, "2", {}, 2j, np.ones(2))
BAD = {
    "positive": (-1e-9, -math.inf, math.nan, *NO_NUMBERS),
    "share": (-0.1, 1.5, math.inf, math.nan, *NO_NUMBERS),
    "number": (math.nan, *NO_NUMBERS),
}


def bad(kind):
    return BAD[kind] if isinstance(kind, str) else (kind - 1, kind - 100, 1.5, 2.0, math.nan, *NO_NUMBERS)


CASES = [
    (layer, name, value)
    for layer, (_, kinds) in LAYERS.items()
    for name, kind in kinds.items()
    for value in (*bad(kind), *([] if layer in OPTIONAL.get(name, ()) else [None]))
]


@pytest.mark.parametrize(("layer", "name", "value"), CASES, ids=str)
def test_a_number_that_a_layer_cannot_have_is_refused_by_name(layer, name, value):
    right, _ = LAYERS[layer]
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(nn, layer)(**{**right, name: value})
    message = str(caught.value)
    assert re.match(rf"\w+: expected \w+ .*\b\w+={re.escape(repr(value)[:20])}", message), message


@pytest.mark.parametrize("layer", LAYERS)
def test_right_numbers_are_taken_also_as_numpys(layer):
    right, _ = LAYERS[layer]
    made = getattr(nn, layer)(**right)
    numpys = {name: np.int64(value) if isinstance(value, int) else value for name, value in right.items()}
    assert repr(getattr(nn, layer)(**numpys)) == repr(made)


def test_every_layer_with_numbers_is_in_the_table():
    layers = {name: getattr(nn, name) for name in nn.__all__ if isinstance(getattr(nn, name), type)}
    with_numbers = {
        name
        for name, layer in layers.items()
        if name not in OTHERS and (not issubclass(layer, FunctionModule) or layer._names)
    }
    assert with_numbers == LAYERS.keys()


@pytest.mark.parametrize("layer", ["Conv2d", "MaxPool2d", "AvgPool2d"])
@pytest.mark.parametrize("name", ["kernel_size", "stride"])
@pytest.mark.parametrize("value", [(0, 1), (1, -1), (1,), (1, 2, 3), (1.5, 1), (True, 1), ()])
def test_a_pair_of_sizes_is_checked_too(layer, name, value):
    right, _ = LAYERS[layer]
    with pytest.raises((TypeError, ValueError), match=f"{layer}: expected {name}"):
        getattr(nn, layer)(**{**right, name: value})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.Conv2d(2, 3, 3, groups=2), "groups=2 must divide 2 and 3 channels"),
        (lambda: nn.Conv2d(1, 1, 3, padding="full"), "'full'"),
        (lambda: nn.Conv2d(1, 1, 3, stride=2, padding="same"), "stride=2"),
        (lambda: nn.MaxPool2d(2, padding=2), "at most half of kernel_size=2, got 2"),
        (lambda: nn.AvgPool2d((2, 4), padding=(0, 3)), "at most half"),
        (lambda: nn.LayerNorm(()), "at least one size"),
        (lambda: nn.LayerNorm((2, 0)), "normalized_shape=0"),
        (lambda: nn.MultiheadAttention(6, 4), "num_heads=4 must divide embed_dim=6"),
        (lambda: nn.Hardtanh(1.0, -1.0), "1.0 and -1.0"),
        (lambda: nn.GELU(approximate="erf"), "'erf'"),
        (lambda: nn.init.xavier_uniform((-1, 2)), "-1"),
        (lambda: nn.init.kaiming_normal((2, 1.5)), "1.5"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(call, words):
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        call()


IMAGE = ln.ones((1, 2, 6, 6))
FUNCTIONS = {
    "max_pool2d": (lambda **k: nn.max_pool2d(IMAGE, **{"kernel_size": 2, **k}), "kernel_size stride padding dilation"),
    "avg_pool2d": (lambda **k: nn.avg_pool2d(IMAGE, **{"kernel_size": 2, **k}), "kernel_size stride padding"),
    "conv2d": (lambda **k: nn.conv2d(IMAGE, ln.ones((2, 2, 3, 3)), **k), "stride padding dilation groups"),
    "dropout": (lambda **k: nn.dropout(IMAGE, **k), "p"),
    "layer_norm": (lambda **k: nn.layer_norm(IMAGE, **{"normalized_shape": 6, **k}), "normalized_shape"),
    "normalize": (lambda **k: nn.normalize(IMAGE, **k), "p eps"),
    "embedding": (lambda **k: nn.embedding(ln.asarray([1]), ln.ones((3, 2)), **k), "padding_idx"),
}


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [
        (function, name, value)
        for function, (_, names) in FUNCTIONS.items()
        for name in names.split()
        for value in (-5, math.nan, True, "2")
        if (function, name) not in {("normalize", "p"), ("dropout", "p")} or value is not True
    ],
    ids=str,
)
def test_functions_refuse_the_same_numbers(function, name, value):
    call, _ = FUNCTIONS[function]
    with pytest.raises((TypeError, ValueError, IndexError), match=function):
        call(**{name: value})


@pytest.mark.parametrize("features", [(0, 2), (2, 0), (0, 0)])
def test_a_linear_layer_may_have_no_features_as_in_torch(features):
    layer = nn.Linear(*features)
    assert layer(ln.ones((3, features[0]))).shape == (3, features[1])


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2))
def test_what_is_accepted_works(channels, filters, kernel, stride, padding):
    x = ln.ones((1, channels, 6, 6))
    layer = nn.Conv2d(channels, filters, kernel, stride, padding)
    side = (6 + 2 * padding - kernel) // stride + 1
    assert layer(x).shape == (1, filters, side, side)
    assert np.isfinite(layer(x).numpy()).all()


def test_an_empty_sequence_is_refused_with_its_shape():
    with pytest.raises(ln.errors.ShapeError, match=r"at least one step, got shape \(0, 1, 3\)"):
        nn.LSTM(3, 2)(ln.ones((0, 1, 3)))
