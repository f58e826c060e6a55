"""Modules, losses and optimizers: against torch where it is installed, and on real data."""

import itertools

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import DTypeError, ShapeError


def mlp(*widths):
    layers = []
    for inner, outer in itertools.pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.relu]
    return nn.Sequential(*layers[:-1])


def digits():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return (images[order] / 16).astype("float32"), labels[order]


def test_parameters_have_torchs_names_shapes_and_range():
    model = mlp(4, 8, 2)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert shapes == {"0.weight": (8, 4), "0.bias": (8,), "2.weight": (2, 8), "2.bias": (2,)}
    for name, p in model.named_parameters():
        bound = 0.5 if name.startswith("0") else 8**-0.5
        assert np.abs(p.numpy()).max() <= bound


def test_state_dict_round_trip_and_refusal():
    ln.manual_seed(1)
    a, b = mlp(3, 4, 2), mlp(3, 4, 2)
    state = a.state_dict()
    b.load_state_dict(state)
    x = ln.randn((5, 3))
    np.testing.assert_array_equal(a(x).numpy(), b(x).numpy())
    before = b.state_dict()
    with pytest.raises(KeyError, match=r"0\.bias"):
        b.load_state_dict({k: v for k, v in state.items() if k != "0.bias"})
    with pytest.raises(ShapeError, match=r"2\.weight.*\(1, 1\).*\(2, 4\)"):
        b.load_state_dict({**state, "2.weight": ln.ones((1, 1))})
    for name, value in b.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name].numpy())


def test_state_dict_does_not_change_with_training():
    model = nn.Linear(2, 1)
    state = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    taken = model.state_dict()
    ln.optim.SGD(lr=0.1)(model(ln.ones((1, 2))).sum().backward())
    for name, value in taken.items():
        np.testing.assert_array_equal(value.numpy(), state[name])
        assert not np.array_equal(value.numpy(), model.state_dict()[name].numpy())


def test_modules_nest_share_and_switch_mode():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.again = self.inner
            self.scale = ln.ones(1)

        def forward(self, x):
            return self.again(self.inner(x)) * self.scale

    model = nn.Sequential(Twice(), nn.ReLU())
    assert len(list(model.parameters())) == 2
    assert "0.scale" in model.state_dict()
    model.eval()
    assert not any(module.training for module in model.modules())
    assert "Linear(2, 2)" in repr(model)


def test_a_frozen_parameter_stays_a_parameter():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad = False
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert len(layer(ln.ones((1, 2))).sum().backward()) == 1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.Linear(3, 2)(ln.ones((4, 5))), ShapeError, r"\(\.\.\., 3\).*\(4, 5\)"),
        (lambda: nn.Linear(3, 2)(ln.ones((4, 3), dtype="float64")), DTypeError, "float32.*float64"),
        (lambda: nn.Linear(3, 2)(ln.ones(())), ShapeError, r"\(\)"),
        (lambda: ln.loss.mse(ln.ones(3), ln.ones((3, 1))), ShapeError, r"\(3,\).*\(3, 1\)"),
        (lambda: ln.loss.cross_entropy(ln.ones((2, 3)), ln.asarray([0])), ShapeError, r"\(2, 3\).*\(2,\).*\(1,\)"),
        (lambda: ln.loss.cross_entropy(ln.ones((1, 3)), ln.asarray([3])), IndexError, r"\[0, 3\).*3"),
        (lambda: ln.loss.cross_entropy(ln.ones((1, 3)), ln.asarray([1.0])), DTypeError, "float32"),
        (lambda: nn.Sequential(nn.Linear(1, 1), 3), TypeError, "layer 1"),
        (lambda: nn.Module()(1), NotImplementedError, "forward"),
        (lambda: ln.optim.SGD(lr=-1), ValueError, "-1"),
    ],
)
def test_misuse_names_both_values(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_failing_step_changes_no_parameter():
    class Broken(ln.optim.SGD):
        def updated(self, value, gradient, state):
            if value.ndim == 1:
                raise RuntimeError("no step for the bias")
            return super().updated(value, gradient, state)

    layer = nn.Linear(2, 1)
    before = layer.state_dict()
    with pytest.raises(RuntimeError):
        Broken(lr=1.0)(layer(ln.ones((1, 2))).sum().backward())
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name].numpy())


def test_an_optimizer_restricted_to_parameters_leaves_the_others():
    model = mlp(2, 3, 1)
    first, last = model[0], model[2]
    before = first.weight.numpy()
    ln.optim.SGD(lr=1.0, parameters=last.parameters())(model(ln.ones((1, 2))).sum().backward())
    np.testing.assert_array_equal(first.weight.numpy(), before)


def test_adams_first_step_is_the_learning_rate():
    weight = ln.asarray([1.0, -2.0], requires_grad=True)
    ln.optim.Adam(lr=0.1)((weight * weight).sum().backward())
    np.testing.assert_allclose(weight.numpy(), [0.9, -1.9], rtol=1e-6)


def test_an_mlp_learns_handwritten_digits_to_97_percent():
    images, labels = digits()
    ln.manual_seed(0)
    model, optimizer = mlp(64, 64, 10), ln.optim.Adam(lr=3e-3)
    x, y = ln.asarray(images[:1400]), ln.asarray(labels[:1400])
    for _ in range(20):
        for start in range(0, 1400, 32):
            batch = slice(start, start + 32)
            optimizer(ln.loss.cross_entropy(model(x[batch]), y[batch]).backward())
    with ln.no_grad():
        predicted = model(ln.asarray(images[1400:])).argmax(axis=1).numpy()
    assert (predicted == labels[1400:]).mean() >= 0.97
