"""Modules, losses, optimizers and files on a GPU: the same numbers as on the CPU."""

import copy

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from tests.helpers.cuda.device_arrays import assert_same

LAYERS = {
    "Linear": (lambda: nn.Linear(3, 2), (4, 3)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 2, padding=1), (1, 2, 3, 3)),
    "Conv2d-groups": (lambda: nn.Conv2d(2, 4, (2, 1), 2, groups=2, bias=False), (1, 2, 4, 3)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (1, 2, 4, 4)),
    "MaxPool2d-overlapping": (lambda: nn.MaxPool2d(3, 2, 1), (1, 1, 5, 5)),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), (1, 2, 4, 4)),
    "LayerNorm": (lambda: nn.LayerNorm((2, 3)), (2, 2, 3)),
    "LayerNorm-plain": (lambda: nn.LayerNorm(5, elementwise_affine=False), (3, 5)),
    "Flatten": (nn.Flatten, (2, 3, 2)),
    "ReLU": (nn.ReLU, (3, 4)),
    "ReLU6": (nn.ReLU6, (3, 4)),
    "GELU": (nn.GELU, (3, 4)),
    "GELU-tanh": (lambda: nn.GELU(approximate="tanh"), (3, 4)),
    "SiLU": (nn.SiLU, (3, 4)),
    "ELU": (nn.ELU, (3, 4)),
    "LeakyReLU": (nn.LeakyReLU, (3, 4)),
    "Hardtanh": (nn.Hardtanh, (3, 4)),
    "Threshold": (lambda: nn.Threshold(0.2, 5.0), (3, 4)),
    "Sigmoid": (nn.Sigmoid, (3, 4)),
    "Tanh": (nn.Tanh, (3, 4)),
    "Softmax": (lambda: nn.Softmax(-1), (3, 4)),
    "LogSoftmax": (lambda: nn.LogSoftmax(-1), (3, 4)),
    "Softplus": (nn.Softplus, (3, 4)),
    "Mish": (nn.Mish, (3, 4)),
    "Hardswish": (nn.Hardswish, (3, 4)),
    "PReLU": (nn.PReLU, (3, 4)),
    "GLU": (nn.GLU, (3, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 3)),
    "RMSNorm": (lambda: nn.RMSNorm(4), (3, 4)),
    "Conv1d": (lambda: nn.Conv1d(2, 2, 3, padding=1), (1, 2, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 1, 2, stride=2), (1, 2, 2, 2)),
    "MaxPool2d-up": (lambda: nn.MaxPool2d(2, ceil_mode=True), (1, 1, 3, 3)),
    "Conv3d": (lambda: nn.Conv3d(2, 2, 2, padding=(1, 0, 1)), (1, 2, 2, 3, 2)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 1, 2, stride=2), (1, 2, 2, 2, 1)),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), (1, 2, 2, 4, 2)),
    "AvgPool3d": (lambda: nn.AvgPool3d(2, 1), (1, 1, 3, 3, 2)),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d((2, 3)), (1, 2, 3, 4)),
    "Fold": (lambda: nn.Sequential(nn.Unfold(2), nn.Fold((3, 4), 2)), (1, 2, 3, 4)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3, alpha=0.5), (1, 4, 3)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(2), (2, 2, 2, 1, 2)),
    "AvgPool2d-up": (lambda: nn.AvgPool2d(2, ceil_mode=True), (1, 1, 3, 3)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 1)), (1, 1, 3, 3)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), (1, 1, 2, 2)),
    "Upsample-bilinear": (lambda: nn.Upsample(size=(3, 3), mode="bilinear"), (1, 1, 2, 2)),
    "GRU": (lambda: nn.GRU(2, 2), (2, 1, 2)),
    "RNN": (lambda: nn.RNN(2, 2), (2, 1, 2)),
    "PositionalEncoding": (lambda: nn.PositionalEncoding(4, dropout=0.0, max_len=8), (3, 2, 4)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(3, 4), nn.relu, nn.Linear(4, 2)), (5, 3)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(2, 1, 2, dropout=0.0), (2, 1, 2)),
}


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def assert_modules_agree(make, *inputs):
    """Compare outputs and all gradients of a module on both devices."""
    ln.manual_seed(0)
    here = make()
    there = copy.deepcopy(here).to("cuda")
    out = here(*map(ln.asarray, inputs))
    other = there(*[ln.asarray(x, device="cuda") for x in inputs])
    for expected, found in zip(leaves_of(out), leaves_of(other), strict=True):
        assert found.device == "cuda"
        assert_same(found, expected.detach().numpy(), rtol=1e-4, atol=1e-4)
    if not leaves_of(out)[0].requires_grad:
        return
    sum((part * part).sum() for part in leaves_of(out)).backward()
    sum((part * part).sum() for part in leaves_of(other)).backward()
    for (name, expected), (_, found) in zip(here.named_parameters(), there.named_parameters(), strict=True):
        assert found.device == found.grad.device == "cuda", name
        assert_same(found.grad, expected.grad.numpy(), rtol=1e-3, atol=1e-3)


def leaves_of(value):
    return [value] if isinstance(value, ln.Tensor) else [leaf for part in value for leaf in leaves_of(part)]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_agree_with_the_cpu(name):
    make, shape = LAYERS[name]
    assert_modules_agree(make, values(shape))


def test_embedding_agrees_with_the_cpu():
    assert_modules_agree(lambda: nn.Embedding(5, 3, padding_idx=2), np.array([[1, 2, 2], [0, 4, 1]]))


@pytest.mark.parametrize("named", [{}, {"num_layers": 2, "batch_first": True, "bias": False}, {"bidirectional": True}])
def test_lstm_agrees_with_the_cpu(named):
    assert_modules_agree(lambda: nn.LSTM(2, 2, **named), values((2, 3, 2)))


def test_attention_agrees_with_the_cpu():
    x = values((3, 1, 4))
    assert_modules_agree(lambda: nn.MultiheadAttention(4, 2, dropout=0.0), x, x, x)


def test_transformer_decoder_agrees_with_the_cpu():
    layer = lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(2, 1, 2, dropout=0.0), 1)  # noqa: E731
    assert_modules_agree(layer, values((2, 1, 2)), values((2, 1, 2), 1))


LOSSES = {
    "mse": (ln.loss.mse, values((4, 3), 1)),
    "mae": (ln.loss.mae, values((4, 3), 1)),
    "cross_entropy": (ln.loss.cross_entropy, np.array([0, 2, 1, 1])),
    "cross_entropy-weighted": (
        lambda x, y: ln.loss.cross_entropy(
            x, y, weight=ln.asarray([1.0, 2.0, 0.5], device=x.device), ignore_index=1, label_smoothing=0.1
        ),
        np.array([0, 2, 1, 1]),
    ),
    "huber": (ln.loss.huber, values((4, 3), 1)),
    "kl_div": (ln.loss.kl_div, abs(values((4, 3), 1))),
    "binary_cross_entropy": (ln.loss.binary_cross_entropy, (values((4, 3), 1) > 0).astype("float32")),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_agree_with_the_cpu(name):
    loss, target = LOSSES[name]
    here = ln.asarray(values((4, 3)), requires_grad=True)
    there = ln.asarray(values((4, 3)), device="cuda", requires_grad=True)
    expected, found = loss(here, ln.asarray(target)), loss(there, ln.asarray(target, device="cuda"))
    assert found.device == "cuda"
    assert_same(found, expected.detach().numpy())
    expected.backward()
    found.backward()
    assert_same(there.grad, here.grad.numpy())


OPTIMIZERS = {
    "sgd": lambda: ln.optim.SGD(lr=0.1),
    "momentum": lambda: ln.optim.SGD(lr=0.1, momentum=0.9),
    "adam": lambda: ln.optim.Adam(lr=0.05),
    "adamw": lambda: ln.optim.AdamW(lr=0.05, weight_decay=0.3),
    "nesterov": lambda: ln.optim.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "amsgrad": lambda: ln.optim.Adam(lr=0.05, weight_decay=0.1, amsgrad=True),
    "rmsprop": lambda: ln.optim.RMSprop(lr=0.01, momentum=0.5, centered=True, eps=1e-4),
    "adagrad": lambda: ln.optim.Adagrad(lr=0.05),
    "lion": lambda: ln.optim.Lion(lr=0.05, weight_decay=0.1),
}


def trained(device, make_optimizer, steps=3):
    ln.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.tanh, nn.Linear(4, 2)).to(device)
    optimizer = make_optimizer()
    x, y = ln.asarray(values((5, 3)), device=device), ln.asarray(values((5, 2), 1), device=device)
    for _ in range(steps):
        optimizer(ln.loss.mse(model(x), y).backward())
    return model, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_agree_with_the_cpu(name):
    here, optimizer = trained("cpu", OPTIMIZERS[name])
    there, other = trained("cuda", OPTIMIZERS[name])
    for key, value in here.state_dict().items():
        assert there.state_dict()[key].device == "cuda"
        assert_same(there.state_dict()[key], value.numpy())
    expected = optimizer.state_dict(here.named_parameters())
    found = other.state_dict(there.named_parameters())
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert_same(found[key], value.numpy())


def test_optimizers_of_functions_agree_with_the_cpu():
    results = []
    for device in ("cpu", "cuda"):
        x = ln.asarray(values(4), device=device, requires_grad=True)
        gradients = ln.optim.clip_norm((x * x).sum().backward(), 1.0)
        ln.optim.sgd(gradients, lr=0.5)
        results.append(x.detach().to("cpu").numpy())
    assert_same(results[1], results[0])


def test_training_goes_on_with_a_saved_state(tmp_path):
    model, optimizer = trained("cuda", OPTIMIZERS["adam"])
    ln.io.save(tmp_path / "model.safetensors", model.state_dict())
    ln.io.save(tmp_path / "state.safetensors", optimizer.state_dict(model.named_parameters()))
    other = nn.Sequential(nn.Linear(3, 4), nn.tanh, nn.Linear(4, 2)).to("cuda")
    other.load_state_dict(ln.io.load(tmp_path / "model.safetensors"))
    assert all(parameter.device == "cuda" for parameter in other.parameters())
    again = OPTIMIZERS["adam"]()
    again.load_state_dict(ln.io.load(tmp_path / "state.safetensors"), other.named_parameters())
    x, y = ln.asarray(values((5, 3)), device="cuda"), ln.asarray(values((5, 2), 1), device="cuda")
    for each, step in ((model, optimizer), (other, again)):
        step(ln.loss.mse(each(x), y).backward())
    for key, value in model.state_dict().items():
        assert_same(other.state_dict()[key], value.to("cpu").numpy())


def test_moving_a_module_keeps_its_parameters_names_and_gradients():
    layer = nn.Linear(3, 2)
    kept = layer.weight.numpy().copy()
    parameters = list(layer.parameters())
    assert layer.to("cuda") is layer
    assert [parameter is other for parameter, other in zip(layer.parameters(), parameters, strict=True)] == [True, True]
    assert layer.weight.device == layer.bias.device == "cuda"
    assert layer.weight.requires_grad
    assert_same(layer.weight, kept)
    layer(ln.ones((1, 3), device="cuda")).sum().backward()
    assert layer.weight.grad.device == "cuda"
    assert_same(layer.to("cpu").weight, kept)


def test_gradients_go_back_to_the_device_they_are_for():
    x = ln.asarray([1.0, 2.0], requires_grad=True)
    (x.to("cuda") * 3).to("cpu").sum().backward()
    assert x.grad.device == "cpu"
    assert x.grad.tolist() == [3.0, 3.0]


def test_dropout_keeps_its_mean_and_is_off_in_evaluation():
    ln.manual_seed(0)
    layer = nn.Dropout(0.5)
    x = ln.ones(200, device="cuda")
    out = layer(x).to("cpu").numpy()
    assert set(out.tolist()) == {0.0, 2.0}
    assert 0.6 < out.mean() < 1.4
    assert layer.eval()(x).tolist() == [1.0] * 200
