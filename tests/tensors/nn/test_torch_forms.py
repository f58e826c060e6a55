"""What a torch user types: the same text with `labnet.nn` and `torch.nn`, values, gradients, eager and compiled."""

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest

import labnet as ln
import labnet.nn.functional as F  # noqa: N812 the usual name
from labnet import nn
from labnet.errors import DTypeError, ShapeError
from labnet.nn import functional
from tests.helpers.tensors.torch_comparison import (
    assert_functions_agree,
    assert_modules_agree,
    normal,
    same_weights,
    to_torch,
    torch_or_skip,
)


def integers(*shape, below, seed=0):
    return np.random.default_rng((seed, *shape)).integers(0, below, shape)


IMAGES, SIGNALS, ROWS, VOLUMES = (2, 4, 7, 6), (2, 4, 9), (3, 6), (2, 4, 5, 4, 6)
#: (text, shape of the input)
LAYERS = [
    ("Identity(54, unused=True)", ROWS),
    ("Flatten(1)", IMAGES),
    ("Unflatten(1, (2, 3))", ROWS),
    ("ReLU(inplace=True)", ROWS),
    ("ReLU6(inplace=True)", ROWS),
    ("ReLU(False)", ROWS),
    ("LeakyReLU(0.2, inplace=True)", ROWS),
    ("ELU(alpha=0.5)", ROWS),
    ("CELU(alpha=0.7)", ROWS),
    ("SELU()", ROWS),
    ("GELU(approximate='tanh')", ROWS),
    ("GELU('none')", ROWS),
    ("SiLU()", ROWS),
    ("Mish()", ROWS),
    ("Softplus(beta=2, threshold=3)", ROWS),
    ("Softsign()", ROWS),
    ("Softshrink(0.3)", ROWS),
    ("Hardshrink(0.3)", ROWS),
    ("Tanhshrink()", ROWS),
    ("Hardswish()", ROWS),
    ("Hardsigmoid()", ROWS),
    ("Hardtanh(-0.5, 0.7)", ROWS),
    ("LogSigmoid()", ROWS),
    ("Sigmoid()", ROWS),
    ("Tanh()", ROWS),
    ("Threshold(0.1, 20)", ROWS),
    ("GLU()", ROWS),
    ("GLU(dim=1)", IMAGES),
    ("PReLU()", ROWS),
    ("PReLU(4)", IMAGES),
    ("Softmax(dim=0)", ROWS),
    ("Softmax(1)", IMAGES),
    ("LogSoftmax(dim=1)", ROWS),
    ("Softmin(dim=1)", ROWS),
    ("Dropout(0.3, inplace=True)", ROWS),
    ("Dropout2d(0.3)", IMAGES),
    ("LayerNorm(6)", ROWS),
    ("RMSNorm(6)", ROWS),
    ("RMSNorm([7, 6], eps=1e-3)", IMAGES),
    ("GroupNorm(2, 4)", IMAGES),
    ("GroupNorm(4, 4, affine=False)", SIGNALS),
    ("InstanceNorm2d(4, affine=True)", IMAGES),
    ("BatchNorm1d(6)", ROWS),
    ("BatchNorm2d(4)", IMAGES),
    ("Conv1d(4, 6, 3)", SIGNALS),
    ("Conv1d(4, 6, 3, stride=2, padding=2, groups=2)", SIGNALS),
    ("Conv1d(4, 4, 3, padding='same', dilation=2, bias=False)", SIGNALS),
    ("Conv2d(4, 6, 3, 1, 1)", IMAGES),
    ("Conv2d(4, 6, 3, padding=(1, 2), padding_mode='reflect')", IMAGES),
    ("Conv2d(4, 6, 3, padding=1, padding_mode='circular')", IMAGES),
    ("Conv2d(4, 6, 3, padding=1, padding_mode='replicate')", IMAGES),
    ("ConvTranspose1d(4, 6, 3)", SIGNALS),
    ("ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1)", SIGNALS),
    ("ConvTranspose2d(4, 6, 3)", IMAGES),
    ("ConvTranspose2d(4, 6, 3, 2, 1, 1)", IMAGES),
    ("ConvTranspose2d(4, 6, (3, 2), (2, 3), groups=2, dilation=2, bias=False)", IMAGES),
    ("MaxPool1d(3)", SIGNALS),
    ("MaxPool1d(3, 2, 1, ceil_mode=True)", SIGNALS),
    ("MaxPool2d(3, stride=2, ceil_mode=True)", IMAGES),
    ("MaxPool2d(3, 2, padding=1, ceil_mode=True)", IMAGES),
    ("MaxPool2d((2, 3), stride=(3, 2), dilation=(2, 1))", IMAGES),
    ("AvgPool1d(3, 2, 1)", SIGNALS),
    ("AvgPool1d(4, ceil_mode=True)", SIGNALS),
    ("AvgPool2d(3, 2, 1, ceil_mode=True)", IMAGES),
    ("AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)", IMAGES),
    ("AvgPool2d(2, divisor_override=3)", IMAGES),
    ("AdaptiveAvgPool1d(4)", SIGNALS),
    ("AdaptiveAvgPool2d(1)", IMAGES),
    ("AdaptiveAvgPool2d((3, 4))", IMAGES),
    ("AdaptiveAvgPool2d((None, 2))", IMAGES),
    ("AdaptiveMaxPool1d(3)", SIGNALS),
    ("AdaptiveMaxPool1d(4)", SIGNALS),
    ("AdaptiveMaxPool2d((3, 4))", IMAGES),
    ("Upsample(scale_factor=2)", IMAGES),
    ("Upsample(size=(10, 5), mode='nearest')", IMAGES),
    ("Upsample(scale_factor=1.7, mode='bilinear')", IMAGES),
    ("Upsample(size=(3, 11), mode='bilinear', align_corners=True)", IMAGES),
    ("Upsample(scale_factor=2, mode='linear')", SIGNALS),
    ("Upsample(scale_factor=1.5, mode='nearest-exact')", IMAGES),
    ("PixelShuffle(2)", IMAGES),
    ("ZeroPad2d((1, 0, 2, 1))", IMAGES),
    ("ReflectionPad2d(2)", IMAGES),
    ("ReplicationPad2d((0, 1, 2, 3))", IMAGES),
    ("GRU(6, 5)", (4, 3, 6)),
    ("GRU(6, 5, num_layers=2, bidirectional=True, batch_first=True)", (3, 4, 6)),
    ("GRU(6, 5, bias=False)", (4, 6)),
    ("RNN(6, 5)", (4, 3, 6)),
    ("RNN(6, 5, 2, 'relu', bidirectional=True)", (4, 3, 6)),
    ("LSTM(6, 5, 2, True, True)", (3, 4, 6)),
    ("GRUCell(6, 5)", ROWS),
    ("LSTMCell(6, 5, bias=False)", ROWS),
    ("RNNCell(6, 5, nonlinearity='relu')", ROWS),
    ("Dropout1d(0.2)", SIGNALS),
    ("InstanceNorm1d(4)", SIGNALS),
    ("Embedding(9, 5, padding_idx=2)", None),
    ("Conv3d(4, 6, 2)", VOLUMES),
    ("Conv3d(4, 6, (3, 2, 3), stride=(2, 1, 2), padding=(1, 0, 2), groups=2)", VOLUMES),
    ("Conv3d(4, 6, 3, padding='same', dilation=(1, 2, 1), bias=False)", VOLUMES),
    ("Conv3d(4, 6, 3, padding=(2, 1, 1), padding_mode='circular')", (1, 4, 3, 2, 3)),
    ("ConvTranspose3d(4, 6, 2)", VOLUMES),
    ("ConvTranspose3d(4, 6, 3, 2, 1, 1)", VOLUMES),
    ("ConvTranspose3d(4, 6, (2, 3, 2), (3, 2, 1), (1, 0, 1), groups=2, dilation=(2, 1, 2), bias=False)", VOLUMES),
    ("BatchNorm3d(4)", VOLUMES),
    ("InstanceNorm3d(4, affine=True)", VOLUMES),
    ("GroupNorm(2, 4)", VOLUMES),
    ("LocalResponseNorm(3, alpha=0.5)", IMAGES),
    ("LocalResponseNorm(2)", SIGNALS),
    ("MaxPool3d(2)", VOLUMES),
    ("MaxPool3d((3, 2, 2), stride=2, padding=(1, 1, 0), ceil_mode=True)", VOLUMES),
    ("MaxPool3d(2, 1, dilation=(2, 1, 2))", VOLUMES),
    ("AvgPool3d((2, 2, 3))", VOLUMES),
    ("AvgPool3d(3, 2, 1, ceil_mode=True, count_include_pad=False)", VOLUMES),
    ("AvgPool3d(2, divisor_override=3)", VOLUMES),
    ("MaxPool1d(3, 2, 1, return_indices=True)", SIGNALS),
    ("MaxPool2d(3, 2, padding=1, ceil_mode=True, return_indices=True)", IMAGES),
    ("MaxPool3d(2, 2, ceil_mode=True, return_indices=True)", VOLUMES),
    ("AdaptiveAvgPool3d((2, None, 4))", VOLUMES),
    ("AdaptiveMaxPool3d((2, 2, 4))", VOLUMES),
    ("AdaptiveMaxPool3d((3, 1, 4), return_indices=True)", VOLUMES),
    ("AdaptiveMaxPool2d((3, 4), return_indices=True)", IMAGES),
    ("AdaptiveMaxPool1d(4, return_indices=True)", SIGNALS),
    ("LPPool1d(2, 3, stride=2)", SIGNALS),
    ("LPPool2d(4, (2, 3))", IMAGES),
    ("PixelUnshuffle(2)", (2, 3, 4, 6)),
    ("ChannelShuffle(2)", IMAGES),
    ("Unfold((3, 2), dilation=(1, 2), padding=(0, 1), stride=2)", IMAGES),
    ("Fold((5, 6), (2, 3), stride=2, padding=1)", (2, 12, 9)),
    ("UpsamplingNearest2d(scale_factor=2)", IMAGES),
    ("UpsamplingBilinear2d(size=(9, 11))", IMAGES),
    ("ConstantPad1d((1, 2), 3.5)", SIGNALS),
    ("ConstantPad2d(1, 0.5)", IMAGES),
    ("ConstantPad3d((1, 0, 2, 1, 0, 1), 2.0)", VOLUMES),
    ("ZeroPad1d(2)", SIGNALS),
    ("ZeroPad3d(1)", VOLUMES),
    ("ReflectionPad1d((2, 1))", SIGNALS),
    ("ReflectionPad3d(1)", VOLUMES),
    ("ReplicationPad1d(2)", SIGNALS),
    ("ReplicationPad3d((0, 1, 2, 0, 1, 1))", VOLUMES),
    ("CircularPad1d(2)", SIGNALS),
    ("CircularPad2d((1, 2, 0, 1))", IMAGES),
    ("CircularPad3d(1)", VOLUMES),
    ("Softmax2d()", IMAGES),
    ("RReLU(0.1, 0.3)", ROWS),
    ("AlphaDropout(0.2)", ROWS),
    ("Dropout3d(0.2)", VOLUMES),
]


def made(text):
    torch = torch_or_skip()
    ln.manual_seed(0)
    theirs = text.replace("inplace=True", "inplace=False")  # which torch refuses for leaves
    return eval(f"nn.{text}", {"nn": nn}), eval(f"nn.{theirs}", {"nn": torch.nn})


def given(shape, dtype="float32"):
    return integers(3, 4, below=9) if shape is None else normal(*shape, dtype=dtype) * np.asarray(2, dtype)


@pytest.mark.parametrize(("text", "shape"), LAYERS, ids=[text for text, _ in LAYERS])
def test_a_layer_computes_what_torchs_does(text, shape):
    ours, theirs = made(text)
    if "Dropout" in text or "RReLU" in text:
        ours.eval()
        theirs.eval()
    assert_modules_agree(ours, theirs, given(shape))


@pytest.mark.parametrize(
    ("text", "shape"), [case for case in LAYERS if "Dropout" not in case[0] and "RReLU" not in case[0]][::3], ids=str
)
def test_a_compiled_layer_computes_and_learns_the_same(text, shape):
    ours, _ = made(text)
    if "Embedding" in text:
        return
    eager, x = copy.deepcopy(ours), ln.asarray(given(shape))

    def run(layer):
        out = layer(x)
        out = out[0] if isinstance(out, tuple) else out
        return (out * out).sum()

    def values(layer, wrap):
        step = wrap(lambda: ln.grad(run(layer), parameters) if (parameters := list(layer.parameters())) else run(layer))
        found = step()
        return [one.numpy() for one in (found if isinstance(found, tuple | list) else [found])]

    for one, two in zip(values(eager, lambda step: step), values(ours, ln.jit), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-5)


LOSSES = [
    ("MSELoss()", "numbers"),
    ("MSELoss(reduction='sum')", "numbers"),
    ("L1Loss(reduction='none')", "numbers"),
    ("HuberLoss(delta=0.5)", "numbers"),
    ("SmoothL1Loss(beta=0.3)", "numbers"),
    ("SmoothL1Loss(beta=0.0)", "numbers"),
    ("BCEWithLogitsLoss()", "shares"),
    ("BCEWithLogitsLoss(pos_weight=tensor([1.0, 2.0, 3.0, 0.5]))", "shares"),
    ("BCEWithLogitsLoss(weight=tensor([1.0, 2.0, 3.0, 0.5]), reduction='sum')", "shares"),
    ("BCELoss()", "probabilities"),
    ("BCELoss(weight=tensor([1.0, 2.0, 3.0, 0.5]))", "probabilities"),
    ("KLDivLoss(reduction='batchmean')", "shares"),
    ("KLDivLoss(reduction='sum', log_target=True)", "numbers"),
    ("CrossEntropyLoss()", "labels"),
    ("CrossEntropyLoss(label_smoothing=0.2)", "labels"),
    ("CrossEntropyLoss(weight=tensor([1.0, 2.0, 3.0, 0.5]))", "labels"),
    ("CrossEntropyLoss(weight=tensor([1.0, 2.0, 3.0, 0.5]), label_smoothing=0.1, ignore_index=1)", "labels"),
    ("CrossEntropyLoss(ignore_index=2, reduction='sum')", "labels"),
    ("CrossEntropyLoss(weight=tensor([1.0, 2.0, 3.0, 0.5]), reduction='none')", "labels"),
    ("CrossEntropyLoss(weight=tensor([1.0, 2.0, 3.0, 0.5]), label_smoothing=0.1)", "shares"),
    ("CrossEntropyLoss()", "ignored"),
    ("NLLLoss()", "labels"),
    ("NLLLoss(weight=tensor([1.0, 2.0, 3.0, 0.5]), ignore_index=3)", "labels"),
    ("NLLLoss()", "ignored"),
    ("CosineSimilarity(dim=1)", "numbers"),
    ("PairwiseDistance()", "numbers"),
    ("PairwiseDistance(p=1, keepdim=True)", "numbers"),
    ("HingeEmbeddingLoss(margin=0.5)", "signs"),
    ("SoftMarginLoss(reduction='sum')", "signs"),
    ("PoissonNLLLoss()", "numbers"),
    ("PoissonNLLLoss(log_input=False, full=True)", "counts"),
    ("MultiMarginLoss()", "labels"),
    ("MultiMarginLoss(p=2, margin=0.5, weight=tensor([1.0, 2.0, 3.0, 0.5]), reduction='none')", "labels"),
    ("MultiLabelSoftMarginLoss(weight=tensor([1.0, 2.0, 3.0, 0.5]))", "shares"),
    ("MultiLabelMarginLoss(reduction='none')", "several labels"),
]


def loss_inputs(kind):
    x, labels = normal(6, 4), integers(6, below=4)
    if kind == "probabilities":
        return 1 / (1 + np.exp(-x)), integers(6, 4, below=2).astype("float32")
    if kind == "ignored":
        labels[::2] = -100
    if kind == "counts":
        return np.abs(x) + np.float32(0.1), integers(6, 4, below=5).astype("float32")
    if kind == "signs":
        labels = integers(6, 4, below=2) * 2 - 1
    if kind == "several labels":
        labels = np.array([[0, 2, -1, 1], [3, -1, 0, 0], [1, 0, 2, 3], [-1, 0, 0, 0], [2, -1, -1, -1], [0, 1, 3, -1]])
    return x, {"numbers": normal(6, 4, seed=1), "shares": np.abs(np.tanh(normal(6, 4, seed=1)))}.get(kind, labels)


def both_losses(text):
    torch = torch_or_skip()
    return eval(f"nn.{text}", {"nn": nn, "tensor": ln.asarray}), eval(
        f"nn.{text}", {"nn": torch.nn, "tensor": torch.tensor}
    )


@pytest.mark.parametrize(("text", "kind"), LOSSES, ids=str)
def test_a_loss_is_torchs(text, kind):
    ours, theirs = both_losses(text)
    x, y = loss_inputs(kind)
    assert_functions_agree(lambda x: ours(x, ln.asarray(y)), lambda x: theirs(x, to_torch(y)), x)
    assert dict(ours.state_dict()).keys() == dict(theirs.state_dict()).keys()


@pytest.mark.parametrize(("text", "kind"), LOSSES, ids=str)
def test_a_compiled_loss_is_the_same(text, kind):
    ours, _ = both_losses(text)
    x, y = (ln.asarray(value) for value in loss_inputs(kind))
    weight = ln.ones(4, requires_grad=True)

    def step(x, y):
        out = ours(x * weight, y)
        out = out.sum() if out.ndim else out
        return out, ln.grad(out, weight)

    for eager, compiled in zip(step(x, y), ln.jit(step)(x, y), strict=True):
        np.testing.assert_allclose(compiled.numpy(), eager.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_of_images_counts_pixels(reduction):
    torch = torch_or_skip()
    x, y, w = normal(2, 3, 4, 5), integers(2, 4, 5, below=3), np.float32([0.5, 1, 2])
    y[0, 0] = -100
    ours = F.cross_entropy(ln.asarray(x), ln.asarray(y), ln.asarray(w), label_smoothing=0.1, reduction=reduction)
    theirs = torch.nn.functional.cross_entropy(
        to_torch(x), to_torch(y), to_torch(w), label_smoothing=0.1, reduction=reduction
    )
    np.testing.assert_allclose(ours.item(), theirs.item(), rtol=1e-5)


FUNCTIONS = [
    ("F.relu(x, inplace=True)", (3, 4)),
    ("F.softmax(x, dim=-1)", (3, 4)),
    ("F.log_softmax(x, 1)", (3, 4)),
    ("F.leaky_relu(x, 0.2, inplace=True)", (3, 4)),
    ("F.dropout(x, 0.5, training=False)", (3, 4)),
    ("F.normalize(x, dim=0)", (3, 4)),
    ("F.pad(x, (1, 2))", (3, 4)),
    ("F.pad(x, (1, 0, 2, 1), value=3.0)", (3, 4)),
    ("F.pad(x, (-1, 2, 0, -1))", (3, 4)),
    ("F.pad(x, (2, 1), mode='reflect')", (2, 3, 4)),
    ("F.pad(x, (1, 3), mode='circular')", (2, 3, 4)),
    ("F.pad(x, (1, 3), mode='replicate')", (2, 3, 4)),
    ("F.max_pool2d(x, 2)", IMAGES),
    ("F.avg_pool2d(x, (2, 3))", IMAGES),
    ("F.adaptive_avg_pool2d(x, (1, 1))", IMAGES),
    ("F.interpolate(x, scale_factor=2, mode='nearest')", IMAGES),
    ("F.interpolate(x, size=(3, 5), mode='area')", IMAGES),
    ("F.mse_loss(x, x * 0)", (3, 4)),
    ("F.max_pool3d(x, 2)", VOLUMES),
    ("F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)", (2, 4, 6, 8)),
    ("F.max_unpool2d(*F.max_pool2d(x, (3, 2), return_indices=True), (3, 2), output_size=(7, 6))", IMAGES),
    ("F.max_unpool1d(*F.max_pool1d(x, 3, return_indices=True), 3)", SIGNALS),
    ("F.max_unpool3d(*F.max_pool3d(x, (1, 2, 3), return_indices=True), (1, 2, 3))", VOLUMES),
    ("F.fold(F.unfold(x, (2, 3), padding=1), (7, 6), (2, 3), padding=1)", IMAGES),
    ("F.batch_norm(x, None, None, training=True)", IMAGES),
    ("F.batch_norm(x, x[0, :, 0, 0].detach(), x[0, :, 0, 0].detach() ** 2, x[0, :, 1, 0], x[0, :, 1, 1])", IMAGES),
    ("F.instance_norm(x)", SIGNALS),
    ("F.pairwise_distance(x, x * x)", (3, 4)),
    ("F.triplet_margin_loss(x, x * x, x * 3 - 1, margin=2.0, swap=True)", (5, 4)),
    ("F.triplet_margin_loss(x, x * x, x * 3 - 1, p=1, reduction='none')", (5, 4)),
    ("F.gaussian_nll_loss(x, x * x, x.exp(), full=True)", (5, 4)),
    ("F.gaussian_nll_loss(x, x * x, x[:, 0].exp(), reduction='sum')", (5, 4)),
    ("F.bilinear(x[:, :2], x[:, 1:], x.reshape(2, 2, 3)[:, :2], x[0, :2])", (3, 4)),
    ("F.smooth_l1_loss(x, x * 0, beta=0.5)", (3, 4)),
    ("F.binary_cross_entropy(F.sigmoid(x), x * 0 + 1)", (3, 4)),
    ("F.cosine_similarity(x, x * x, dim=1)", (3, 4)),
    ("F.layer_norm(x, (4,))", (3, 4)),
    ("F.group_norm(x, 2)", IMAGES),
    ("F.glu(x)", (3, 4)),
    ("F.hardtanh(x, -0.5, 0.5)", (3, 4)),
    ("F.threshold(x, 0.1, -2.0)", (3, 4)),
    ("F.margin_ranking_loss(x, x * 2, x * 0 + 1, margin=0.3)", (3, 4)),
    ("F.cosine_embedding_loss(x, x * x, x[:, 0] * 0 - 1, 0.1)", (3, 4)),
    ("F.cosine_embedding_loss(x, x * x, x[:, 0] * 0 + 1)", (3, 4)),
]


@pytest.mark.parametrize(("text", "shape"), FUNCTIONS, ids=str)
def test_a_function_is_torchs(text, shape):
    torch, theirs = torch_or_skip(), text.replace("inplace=True", "inplace=False")
    assert_functions_agree(
        lambda x: eval(text, {"F": F, "x": x}),
        lambda x: eval(theirs, {"F": torch.nn.functional, "x": x}),
        normal(*shape) + np.float32(0.01),
    )


def test_one_hot_is_torchs():
    torch, labels = torch_or_skip(), integers(2, 3, below=5)
    for more in ((), (7,)):
        expected = torch.nn.functional.one_hot(to_torch(labels), *more).numpy()
        np.testing.assert_array_equal(F.one_hot(ln.asarray(labels), *more).numpy(), expected)


@pytest.mark.parametrize("named", [{}, {"is_causal": True}, {"scale": 0.3}], ids=str)
def test_grouped_queries_share_keys_and_values(named):
    torch = torch_or_skip()
    arrays = normal(2, 6, 5, 4), normal(2, 2, 5, 4, seed=1), normal(2, 2, 5, 3, seed=2)
    assert_functions_agree(
        lambda *x: F.scaled_dot_product_attention(*x, enable_gqa=True, **named),
        lambda *x: torch.nn.functional.scaled_dot_product_attention(*x, enable_gqa=True, **named),
        *arrays,
    )
    with pytest.raises(ShapeError, match="heads of queries, keys and values do not fit"):
        F.scaled_dot_product_attention(*map(ln.asarray, (normal(2, 5, 5, 4), *arrays[1:])), enable_gqa=True)


def test_silu_has_a_beta():
    x = normal(20)
    np.testing.assert_allclose(nn.silu(ln.asarray(x), beta=2.0).numpy(), x / (1 + np.exp(-2 * x)), rtol=1e-6)


def test_functional_can_be_imported_in_both_ways():
    assert functional is F is nn.functional is ln.nn.functional


# Modules


class Net(nn.Module):
    """A module in torch's form."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(ln.ones(3))
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.heads = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Identity()})
        self.extra = nn.ParameterList([ln.zeros(2)])
        self.register_buffer("count", ln.zeros(()))

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x) * self.scale)
        return self.heads["a"](self.heads["b"](x)) + self.extra[0]


def test_names_of_modules_and_parameters_are_torchs():
    names = [name for name, _ in Net().named_modules()]
    assert names == ["", "layers", "layers.0", "layers.1", "heads", "heads.a", "heads.b", "extra"]
    net = Net()
    assert [name for name, _ in net.named_children()] == ["layers", "heads", "extra"]
    assert [name for name, _ in net.named_parameters(recurse=False)] == ["scale"]
    assert next(iter(dict(net.named_parameters("model")))) == "model.scale"
    assert net.get_submodule("heads.a") is net.heads["a"]
    assert net.get_parameter("layers.1.bias") is net.layers[1].bias
    assert net.get_buffer("count") is net.count
    with pytest.raises(AttributeError, match="no module 'x'"):
        net.get_submodule("heads.x")
    assert {*net.state_dict()} == {
        *("scale", "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"),
        *("heads.a.weight", "heads.a.bias", "extra.0", "count"),
    }


def test_apply_reaches_every_module_and_returns_it():
    def zero(module):
        if isinstance(module, nn.Linear):
            module.weight.assign(ln.zeros(module.weight.shape))

    net = Net()
    assert net.apply(zero) is net
    assert not any(layer.weight.numpy().any() for layer in net.layers)


def test_a_frozen_module_gets_no_gradients_and_stays_in_its_lists():
    net = Net()
    net.layers.requires_grad_(False)
    optimizer = ln.optim.SGD(net.parameters(), lr=0.1)
    before = net.layers[0].weight.numpy().copy()
    net(ln.ones((2, 3))).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(net.layers[0].weight.numpy(), before)
    assert len(list(net.parameters())) == 8
    net.requires_grad_()
    assert all(isinstance(parameter, nn.Parameter) for parameter in net.parameters())


def test_zero_grad_clears_the_gradients():
    net = Net()
    net(ln.ones((2, 3))).sum().backward()
    assert net.scale.grad is not None
    net.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_conversions_return_the_module():
    net = Net()
    assert net.to("cpu") is net.double() is net.to(dtype=ln.float32, device="cpu") is net.float() is net
    assert net.double().scale.dtype == ln.float64


def test_part_of_a_state_dict_can_be_loaded():
    net, other = Net(), Net()
    state = {**other.state_dict(), "unknown": ln.ones(1)}
    del state["scale"]
    with pytest.raises(KeyError, match="strict=False"):
        net.load_state_dict(state)
    found = net.load_state_dict(state, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["scale"], ["unknown"])
    np.testing.assert_array_equal(net.layers[0].weight.numpy(), other.layers[0].weight.numpy())
    assert str(net.load_state_dict(other.state_dict())) == "<All keys matched successfully>"


def test_forward_hooks_see_and_replace_inputs_and_outputs():
    net, seen = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), []
    handle = net[0].register_forward_hook(lambda module, inputs, output: seen.append((module, output.shape)))
    before = net.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0,))
    after = net.register_forward_hook(lambda module, inputs, named, output: output + 1, with_kwargs=True)
    out = net(ln.ones((2, 3)))
    np.testing.assert_allclose(out.numpy(), np.maximum(net[0].bias.numpy(), 0) + np.ones((2, 3)), rtol=1e-6)
    assert seen == [(net[0], (2, 3))]
    twin = copy.deepcopy(net)
    twin[0].bias.assign(ln.ones(3))
    np.testing.assert_allclose(twin(ln.ones((2, 3))).numpy(), np.full((2, 3), 2.0))
    for one in (handle, before, after):
        one.remove()
        one.remove()
    assert "forward" not in vars(net)
    np.testing.assert_allclose(net(ln.ones((2, 3))).numpy(), F.relu(net[0](ln.ones((2, 3)))).numpy())
    assert len(seen) == 2  # one by the copy, which has the hooks too


def test_a_compiled_model_runs_its_hooks():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    compiled, x = ln.jit(lambda x: net(x)), ln.ones((2, 3))
    plain = compiled(x).numpy()
    for more in (1, 2):
        net.register_forward_hook(lambda module, inputs, output: output + 1)
        np.testing.assert_allclose(compiled(x).numpy(), plain + more)


def test_sequential_passes_several_inputs_and_tuples_on():
    class Pair(nn.Module):
        def forward(self, a, b):
            return a + b, a - b

    class Total(nn.Module):
        def forward(self, both):
            return both[0] + both[1]

    x, y = ln.asarray([3.0]), ln.asarray([1.0])
    for wrap in (lambda model: model, lambda model: ln.jit(lambda *inputs: model(*inputs))):
        assert wrap(nn.Sequential(Pair(), Pair(), Total()))(x, y).tolist() == [8.0]
        assert wrap(nn.Sequential(nn.Sequential(Pair(), Pair()), Total()))(x, y).tolist() == [8.0]
    output, _ = nn.Sequential(nn.GRU(2, 3))(ln.ones((4, 1, 2)), ln.ones((1, 1, 3)))
    assert output.shape == (4, 1, 3)


def test_sequential_takes_names_and_grows():
    model = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), act=nn.ReLU()))
    assert list(model.state_dict()) == ["first.weight", "first.bias"]
    assert model.append(nn.Linear(3, 1)) is model
    assert list(model.state_dict())[-1] == "2.bias"
    assert model(ln.ones((4, 2))).shape == (4, 1)


def test_module_lists_are_edited_as_lists():
    layers = nn.ModuleList([nn.Linear(1, 1)]).append(nn.ReLU()).extend([nn.Tanh()])
    layers.insert(1, nn.Sigmoid())
    layers[-1] = nn.Identity()
    assert [type(layer).__name__ for layer in layers] == ["Linear", "Sigmoid", "ReLU", "Identity"]


def test_registered_names_are_checked():
    net = Net()
    net.register_parameter("gain", None)
    assert net.gain is None
    net.add_module("tail", nn.Linear(1, 1))
    assert "tail.weight" in net.state_dict()
    with pytest.raises(KeyError, match="has an attribute 'forward' already"):
        net.add_module("forward", nn.ReLU())
    with pytest.raises(TypeError, match="expected 'tail' to be a module"):
        net.add_module("tail", 3)


def test_cells_follow_sequences_step_by_step():
    torch = torch_or_skip()
    for name in ("GRUCell", "LSTMCell", "RNNCell"):
        ours, theirs = getattr(nn, name)(3, 4), getattr(torch.nn, name)(3, 4)
        same_weights(ours, theirs)
        state = peer = None
        for step in range(3):
            x = normal(2, 3, seed=step)
            state, peer = ours(ln.asarray(x), state), theirs(to_torch(x), peer)
            found, expected = (state[0], peer[0]) if name == "LSTMCell" else (state, peer)
            np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_module_describes_itself_as_its_author_says():
    class Scale(nn.Module):
        def extra_repr(self):
            return "by=2"

    assert repr(Scale()) == "Scale(by=2)"


def test_new_modules_can_be_copied_and_pickled():
    for module in (Net(), nn.CrossEntropyLoss(weight=ln.ones(2)), nn.GRU(2, 2), nn.MaxPool2d(2), nn.Softmax(dim=1)):
        for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert repr(twin) == repr(module)
            assert list(twin.state_dict()) == list(module.state_dict())


def test_state_dicts_go_to_torch_and_come_back():
    torch = torch_or_skip()

    def model(nn):
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.ConvTranspose2d(4, 2, 2), nn.GroupNorm(1, 2)),
            *(nn.Flatten(), nn.Linear(2 * 7 * 7, 6), nn.RMSNorm(6)),
        )

    ours, theirs = model(nn), model(torch.nn)
    same_weights(ours, theirs)
    other = model(torch.nn)
    ours.load_state_dict(other.state_dict())
    x = normal(3, 1, 8, 8)
    np.testing.assert_allclose(ours(ln.asarray(x)).numpy(), other(to_torch(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
@pytest.mark.parametrize("wrap", [lambda step: step, ln.jit], ids=["eager", "compiled"])
def test_clipping_of_gradients_is_torchs(norm_type, wrap):
    torch = torch_or_skip()
    ours = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    same_weights(ours, theirs)
    optimizer, other = ln.optim.SGD(ours.parameters(), lr=0.5), torch.optim.SGD(theirs.parameters(), lr=0.5)
    x = normal(8, 4)

    @wrap
    def step(x):
        optimizer.zero_grad()
        loss = (ours(x) ** 2).sum()
        loss.backward()
        total = nn.utils.clip_grad_norm_(ours.parameters(), 0.3, norm_type)
        nn.utils.clip_grad_value_(ours.parameters(), 0.1)
        optimizer.step()
        return total

    for _ in range(3):
        other.zero_grad()
        (theirs(to_torch(x)) ** 2).sum().backward()
        expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.3, norm_type)
        torch.nn.utils.clip_grad_value_(theirs.parameters(), 0.1)
        other.step()
        np.testing.assert_allclose(step(ln.asarray(x)).item(), expected.item(), rtol=1e-5)
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(one.numpy(), two.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(TypeError, match=r"ELU: got an unexpected keyword argument 'slope'; expected \(alpha"):
        nn.ELU(slope=1)
    with pytest.raises(ValueError, match="label_smoothing from 0 to 1"):
        F.cross_entropy(ln.ones((1, 2)), ln.asarray([0]), label_smoothing=2)
    with pytest.raises(IndexError, match=r"labels must lie in \[0, 2\), got 0 to 5"):
        F.cross_entropy(ln.ones((2, 2)), ln.asarray([5, -100]))
    with pytest.raises(ShapeError, match=r"weight of shape \(2,\), one per class"):
        F.cross_entropy(ln.ones((2, 2)), ln.ones((2, 2)), weight=ln.ones(3))
    with pytest.raises(ValueError, match="expected mode 'constant', 'reflect'"):
        F.pad(ln.ones(3), (1, 1), mode="mirror")
    with pytest.raises(ShapeError, match="two widths for each of at most 1 dimensions"):
        F.pad(ln.ones(3), (1, 1, 1))
    with pytest.raises(ValueError, match="either size or scale_factor"):
        F.interpolate(ln.ones((1, 1, 3)))
    with pytest.raises(ShapeError, match=r"Conv1d\(.*\): expected an input of shape \(N, 2, L\)"):
        nn.Conv1d(2, 2, 3)(ln.ones((1, 3, 9)))
    with pytest.raises(DTypeError, match="GroupNorm"):
        nn.GroupNorm(1, 2)(ln.ones((1, 2, 3), dtype="float64"))
    with pytest.raises(ValueError, match="num_groups=2 must divide num_channels=3"):
        nn.GroupNorm(2, 3)
    with pytest.raises(ShapeError, match="max_len=7 or more"):
        nn.PositionalEncoding(4, max_len=5)(ln.ones((7, 1, 4)))
