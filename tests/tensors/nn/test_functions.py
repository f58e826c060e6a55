"""Functions of `labnet.nn`: values and gradients of torch, special values, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labnet as ln
from labnet import nn
from labnet.errors import DTypeError, ShapeError
from tests.helpers.tensors.torch_comparison import assert_functions_agree, normal, to_torch, torch_or_skip

ACTIVATIONS = {
    "relu": {},
    "gelu": {"approximate": "tanh"},
    "silu": {},
    "elu": {"alpha": 0.7},
    "leaky_relu": {"negative_slope": 0.2},
    "relu6": {},
    "hardtanh": {"min_val": -0.5, "max_val": 2.0},
    "threshold": {"threshold": 0.1, "value": 20.0},
    "sigmoid": {},
    "tanh": {},
}


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 0, 3)])
def test_linear_agrees_with_torch_with_and_without_a_bias(shape):
    functional = torch_or_skip().nn.functional
    x, weight, bias = normal(*shape), normal(4, 3, seed=1), normal(4, seed=2)
    assert_functions_agree(nn.linear, functional.linear, x, weight)
    assert_functions_agree(nn.linear, functional.linear, x, weight, bias)
    assert_functions_agree(lambda x, w, b: nn.linear(x, w, bias=b), functional.linear, x, weight, bias)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_agree_with_torch(name):
    functional = torch_or_skip().nn.functional
    values = np.concatenate([normal(200) * 4, np.float32([-1000, -6, -1, 0, 1, 6, 1000])])
    for static in [ACTIVATIONS[name]] if name == "threshold" else [{}, ACTIVATIONS[name]]:
        for dtype in ("float32", "float64"):
            assert_functions_agree(
                lambda x, s=static: getattr(nn, name)(x, **s),
                lambda x, s=static: getattr(functional, name)(x, **s),
                values.astype(dtype),
            )


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "elu", "leaky_relu", "relu6", "hardtanh", "sigmoid"])
def test_activations_pass_nan_on_and_survive_infinity(name):
    out = getattr(nn, name)(ln.asarray([math.nan, 1e30])).numpy()
    assert np.isnan(out[0])
    assert out[1] > 0.99


def test_gelu_is_exact_in_float64():
    x = np.linspace(-8, 8, 4001)
    expected = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
    np.testing.assert_allclose(nn.gelu(ln.asarray(x)).numpy(), expected, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_agrees_with_torch_on_large_numbers_and_every_axis(name):
    functional = torch_or_skip().nn.functional
    for axis in (-1, 0, 1):
        assert_functions_agree(
            lambda x, a=axis: getattr(nn, name)(x, axis=a),
            lambda x, a=axis: getattr(functional, name)(x, dim=a),
            normal(3, 4, 5) * 100,
        )


CONVOLUTIONS = [
    ((2, 3, 8, 9), (4, 3, 3, 3), {}),
    ((2, 3, 8, 9), (4, 3, 3, 3), {"padding": "same"}),
    ((2, 3, 8, 9), (4, 3, 2, 4), {"padding": "same", "dilation": 2}),
    ((1, 4, 11, 10), (6, 2, 3, 2), {"stride": (2, 3), "padding": (1, 2), "groups": 2}),
    ((2, 4, 9, 9), (8, 1, 3, 3), {"dilation": (2, 1), "padding": 2, "groups": 4}),
    ((2, 2, 9, 8), (3, 2, 3, 1), {"stride": (2, 1), "dilation": (3, 1)}),
    ((2, 5, 4, 4), (3, 5, 1, 1), {}),
    ((2, 5, 5, 5), (3, 5, 1, 1), {"stride": 2}),
    ((3, 6, 6), (2, 3, 3, 3), {"padding": 1}),
]


@pytest.mark.parametrize(("image", "weight", "static"), CONVOLUTIONS)
def test_conv2d_agrees_with_torch(image, weight, static):
    functional = torch_or_skip().nn.functional
    assert_functions_agree(
        lambda x, w, b: nn.conv2d(x, w, b, **static),
        lambda x, w, b: functional.conv2d(x, w, b, **static),
        normal(*image),
        normal(*weight, seed=1),
        normal(weight[0], seed=2),
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_conv2d_agrees_with_torch_for_any_geometry(data):
    functional = torch_or_skip().nn.functional
    small, two = st.integers(1, 3), lambda s: st.tuples(s, s)
    kernel, stride, dilation = (data.draw(two(small)) for _ in range(3))
    padding = data.draw(two(st.integers(0, 2)))
    groups, inner, outer, images = (data.draw(small) for _ in range(4))
    sizes = [
        data.draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 9))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    static = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    assert_functions_agree(
        lambda x, w: nn.conv2d(x, w, **static),
        lambda x, w: functional.conv2d(x, w, **static),
        normal(images, inner * groups, *sizes, dtype="float64"),
        normal(outer * groups, inner, *kernel, seed=1, dtype="float64"),
    )


def test_conv2d_second_order_agrees_with_torch():
    torch = torch_or_skip()
    static = {"stride": (2, 1), "padding": 1, "dilation": (1, 2), "groups": 2}
    image, weight = normal(2, 4, 6, 7, dtype="float64"), normal(4, 2, 3, 2, dtype="float64")
    x, w = (ln.asarray(a, requires_grad=True) for a in (image, weight))
    out = nn.conv2d(x, w, **static)
    gx, gw = ln.grad((out * out * out).sum(), [x, w], create_graph=True)
    second = ln.grad((gx * gx).sum() + (gw * gw).sum(), [x, w])
    px, pw = (to_torch(a).requires_grad_() for a in (image, weight))
    peer = torch.nn.functional.conv2d(px, pw, **static)
    slopes = torch.autograd.grad(peer.pow(3).sum(), [px, pw], create_graph=True)
    expected = torch.autograd.grad(sum(s.pow(2).sum() for s in slopes), [px, pw])
    for ours, theirs in zip(second, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-9)


POOLS = [
    ("max_pool2d", {"kernel_size": 2}),
    ("max_pool2d", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("max_pool2d", {"kernel_size": (2, 3), "stride": 1, "dilation": (2, 1)}),
    ("max_pool2d", {"kernel_size": 2, "stride": 3}),
    ("avg_pool2d", {"kernel_size": 2}),
    ("avg_pool2d", {"kernel_size": 3, "stride": (2, 1), "padding": 1}),
    ("avg_pool2d", {"kernel_size": 3, "padding": 1, "count_include_pad": False}),
]


@pytest.mark.parametrize(("name", "static"), POOLS)
@pytest.mark.parametrize("ties", [False, True])
def test_pooling_agrees_with_torch(name, static, ties):
    functional = torch_or_skip().nn.functional
    image = normal(2, 3, 8, 9)
    assert_functions_agree(
        lambda x: getattr(nn, name)(x, **static),
        lambda x: getattr(functional, name)(x, **static),
        np.round(image) if ties else image,
    )


def test_max_pool2d_of_nothing_but_minus_infinity_has_no_gradient_outside():
    x = ln.asarray(np.full((1, 1, 3, 3), -np.inf, "float32"), requires_grad=True)
    out = nn.max_pool2d(x, 2, 1, 1)
    assert np.isneginf(out.numpy()).all()
    assert out.backward(ln.ones_like(out))[x].shape == (1, 1, 3, 3)


@pytest.mark.parametrize("p", [1, 2, 3, 1.5, math.inf])
def test_normalize_agrees_with_torch(p):
    functional = torch_or_skip().nn.functional
    for axis in (0, -1):
        assert_functions_agree(
            lambda x, a=axis: nn.normalize(x, p=p, axis=a),
            lambda x, a=axis: functional.normalize(x, p=p, dim=a),
            normal(4, 5),
        )


@pytest.mark.parametrize("p", [1, 2, 3])
def test_normalize_leaves_zeros_with_a_finite_gradient(p):
    x = ln.zeros((2, 3), requires_grad=True)
    out = nn.normalize(x, p=p)
    assert out.tolist() == [[0.0] * 3] * 2
    assert np.isfinite((out * 2).sum().backward()[x].numpy()).all()


@pytest.mark.parametrize("shape", [(5,), (4, 5)])
def test_layer_norm_agrees_with_torch(shape):
    functional = torch_or_skip().nn.functional
    assert_functions_agree(
        lambda x, w, b: nn.layer_norm(x, shape, w, b, eps=1e-3),
        lambda x, w, b: functional.layer_norm(x, shape, w, b, eps=1e-3),
        normal(3, 4, 5) + 2,
        normal(*shape, seed=1),
        normal(*shape, seed=2),
    )


@pytest.mark.parametrize("padding_idx", [None, 1, -1])
def test_embedding_agrees_with_torch(padding_idx):
    functional = torch_or_skip().nn.functional
    assert_functions_agree(
        lambda i, w: nn.embedding(i, w, padding_idx),
        lambda i, w: functional.embedding(i, w, padding_idx),
        np.array([[0, 1, 1], [3, 2, 1]]),
        normal(4, 5),
    )


@pytest.mark.parametrize("static", [{}, {"is_causal": True}, {"scale": 0.3}])
def test_attention_agrees_with_torch(static):
    functional = torch_or_skip().nn.functional
    arrays = [normal(2, 3, 4, 5), normal(2, 3, 6, 5, seed=1), normal(2, 3, 6, 7, seed=2)]
    assert_functions_agree(
        lambda *qkv: nn.scaled_dot_product_attention(*qkv, **static),
        lambda *qkv: functional.scaled_dot_product_attention(*qkv, **static),
        *arrays,
    )


@pytest.mark.parametrize("kind", ["float", "bool"])
def test_attention_masks_agree_with_torch(kind):
    functional = torch_or_skip().nn.functional
    mask = normal(4, 6, seed=3) if kind == "float" else normal(4, 6, seed=3) > -0.5
    assert_functions_agree(
        nn.scaled_dot_product_attention,
        functional.scaled_dot_product_attention,
        normal(2, 4, 5),
        normal(2, 6, 5, seed=1),
        normal(2, 6, 7, seed=2),
        mask,
    )


def test_dropout_repeats_with_the_seed_keeps_the_mean_and_rests_outside_training():
    x = ln.ones(20_000, requires_grad=True)
    ln.manual_seed(3)
    first = nn.dropout(x, p=0.3)
    ln.manual_seed(3)
    assert np.array_equal(nn.dropout(x, p=0.3).numpy(), first.numpy())
    assert first.numpy().mean() == pytest.approx(1.0, abs=0.02)
    gradient = first.sum().backward()[x].numpy()
    np.testing.assert_array_equal(gradient, first.numpy())
    assert nn.dropout(x, training=False) is x
    assert not nn.dropout(x, p=1.0).numpy().any()
    assert nn.dropout(ln.ones(3, dtype="float64")).dtype == ln.float64


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: nn.conv2d(ln.ones((1, 3, 8, 8)), ln.ones((4, 2, 3, 3))),
            ShapeError,
            r"\(1, 3, 8, 8\).*\(4, 2, 3, 3\)",
        ),
        (
            lambda: nn.conv2d(ln.ones((1, 1, 2, 2)), ln.ones((1, 1, 3, 3))),
            ShapeError,
            r"\(1, 1, 2, 2\).*\(1, 1, 3, 3\)",
        ),
        (
            lambda: nn.conv2d(ln.ones((1, 1, 4, 4)), ln.ones((1, 1, 3, 3)), ln.ones(2)),
            ShapeError,
            r"\(1, 1, 3, 3\).*\(2,\)",
        ),
        (lambda: nn.max_pool2d(ln.ones((1, 1, 2, 2)), 3), ShapeError, r"\(1, 1, 2, 2\).*3"),
        (lambda: nn.avg_pool2d(ln.ones((4, 4)), 2, padding=2), ShapeError, r"\(4, 4\).*padding=2"),
        (lambda: nn.layer_norm(ln.ones((2, 3)), 4), ShapeError, r"4.*\(2, 3\)"),
        (lambda: nn.embedding(ln.asarray([4]), ln.ones((4, 2))), IndexError, r"\[0, 4\).*4"),
        (lambda: nn.embedding(ln.asarray([-1]), ln.ones((4, 2))), IndexError, r"-1"),
        (lambda: nn.embedding(ln.asarray([1.0]), ln.ones((4, 2))), DTypeError, "float32"),
        (lambda: nn.dropout(ln.ones(2), p=1.5), ValueError, "1.5"),
        (lambda: nn.gelu(ln.ones(2), approximate="cubic"), ShapeError, "cubic"),
        (lambda: nn.normalize(ln.ones((2, 2)), p=0), ValueError, "0"),
    ],
)
def test_misuse_names_both_values(call, error, words):
    with pytest.raises(error, match=words):
        call()
