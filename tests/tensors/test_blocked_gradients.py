"""Gradients where an op blocks them: an infinite slope, or NaN, behind it stays out; at NaN they are torch's."""

import math

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from tests.helpers.tensors.gradient_blocking import BLOCKING, FLAT, VALUES

torch = pytest.importorskip("torch", reason="comparison with torch: pip install torch==2.13.0 (extra `peers`)")
functional = torch.nn.functional

#: The functions of `BLOCKING` in torch.
PEERS = {
    "relu": functional.relu,
    # one by one, since torch's vectors of AVX2, unlike those of AVX-512, have NaN at NaN
    "elu": lambda x: torch.cat([functional.elu(one) for one in x.split(1)]),
    "leaky_relu": functional.leaky_relu,
    "threshold": lambda x: functional.threshold(x, 0.5, 3.0),
    "clip": lambda x: x.clamp(-1, 1),
    "clip from below": lambda x: x.clamp(0.0),
    "sign": torch.sgn,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "minimum": lambda x: torch.minimum(torch.zeros_like(x), x),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "power 0": lambda x: x**0,
    "powers 0": lambda x: x ** torch.zeros_like(x),
    "max": torch.max,
    "min": torch.min,
    "tril": lambda x: torch.tril(x.reshape(3, 3)),
    "median": lambda x: torch.median(x),
    "indexing": lambda x: x[2:5],
}


@pytest.mark.parametrize("upstream", [1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", BLOCKING)
def test_what_is_blocked_gets_zero_whatever_comes_from_behind(name, upstream):
    ours, theirs = BLOCKING[name], PEERS[name]
    x, peer = ln.asarray(np.array(VALUES), requires_grad=True), torch.tensor(VALUES, dtype=torch.float64)
    peer.requires_grad = True
    with np.errstate(invalid="ignore"):
        y, z = ours(x), theirs(peer)
    z.backward(torch.full_like(z, upstream))
    expected = np.zeros(len(VALUES)) if peer.grad is None else peer.grad.numpy(force=True)
    np.testing.assert_allclose(y.backward(np.full(y.shape, upstream))[x].numpy(), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("ndim", [0, 1, 3])
def test_relu_keeps_the_bits_of_a_gradient_or_returns_zero(dtype, ndim):
    for value, expected in ((-1.0, 0.0), (0.0, 0.0), (2.0, -math.inf), (math.nan, -math.inf)):
        x = ln.full((1,) * ndim, value, dtype=dtype, requires_grad=True)
        found = nn.relu(x).backward(np.full((1,) * ndim, -math.inf, dtype))[x]
        assert (found.dtype, found.shape, found.item()) == (ln.asarray(x).dtype, (1,) * ndim, expected)


@pytest.mark.parametrize("name", FLAT)
def test_flat_places_have_no_slope_even_for_an_infinite_gradient(name):
    function, values = FLAT[name]
    x = ln.asarray(np.array(values), requires_grad=True)
    y = function(x)
    assert y.backward(np.full(y.shape, math.inf))[x].tolist() == [0.0] * len(values)


@pytest.mark.parametrize("order", [0.5, 1.0, 3.0, math.inf])
def test_rows_of_zeros_are_normalized_without_nan(order):
    x = ln.zeros((2, 3), dtype="float64", requires_grad=True)
    found = nn.normalize(x, p=order).sum().backward()[x].numpy()
    peer = torch.zeros((2, 3), dtype=torch.float64, requires_grad=True)
    functional.normalize(peer, p=order).sum().backward()
    np.testing.assert_allclose(found, peer.grad.numpy())


def test_an_infinite_slope_behind_stays_where_the_op_lets_it_through():
    x = ln.asarray([-1.0, 4.0], requires_grad=True)
    assert ln.sqrt(nn.relu(x)).sum().backward()[x].tolist() == [0.0, 0.25]
    x = ln.asarray([-1.0, 0.0], requires_grad=True)
    assert ln.sqrt(ln.max(x)).backward()[x].tolist() == [0.0, math.inf]
    x = ln.asarray([[3.0, 3.0], [0.0, -1.0]], requires_grad=True)
    assert ln.sqrt(ln.max(x, axis=1)).sum().backward()[x].tolist()[1] == [math.inf, 0.0]


def test_linear_layers_with_relu_block_an_infinite_gradient():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    model[0].weight.assign([[1.0, 0.0], [0.0, 1.0]])
    x = ln.asarray([[-1.0, 4.0]], requires_grad=True)
    found = ln.sqrt(model(x)).sum().backward()
    assert found[x].tolist() == [[0.0, 0.25]]
    assert found[model[0].weight].tolist() == [[0.0, 0.0], [-0.25, 1.0]]


def test_values_that_a_later_one_overwrites_get_no_gradient():
    value = ln.asarray([1.0, 2.0], requires_grad=True)
    written = ln.ops.setitem(ln.ones(2), value, ([0, 0],))
    assert written.backward(np.float32([math.inf, 1.0]))[value].tolist() == [0.0, math.inf]


@pytest.mark.parametrize("window", [math.nan, 1.0, -math.inf])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 1), (3, 1, 1), (3, 2, 1), (2, 2, 0), (2, 1, 0)])
def test_pooling_gives_the_gradient_to_an_element_of_the_image(window, kernel, stride, padding):
    values = np.full((1, 1, 4, 4), window)
    values[0, 0, 1, 2] = math.nan if math.isnan(window) else 0.5
    values[0, 0, 2, 3] = 0.25
    x, peer = ln.asarray(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    if math.isnan(window):
        values[...] = 0.0
        values[0, 0, 1, 2] = math.nan
        x, peer = ln.asarray(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    out = nn.max_pool2d(x, kernel, stride, padding)
    theirs = functional.max_pool2d(peer, kernel, stride, padding)
    theirs.sum().backward()
    found = out.backward(np.ones(out.shape))[x].numpy()
    np.testing.assert_array_equal(out.numpy(), theirs.detach().numpy())
    np.testing.assert_array_equal(found, peer.grad.numpy())


def test_pooling_blocks_infinite_gradients():
    x = ln.asarray([[0.0, -1.0], [-2.0, -3.0]], requires_grad=True)
    assert ln.sqrt(nn.max_pool2d(x, 2)).backward()[x].tolist() == [[math.inf, 0.0], [0.0, 0.0]]
    x = ln.asarray([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    out = nn.max_pool2d(x, 2, 1)  # the windows overlap
    found = out.backward(np.full(out.shape, math.inf, "float32"))[x]
    assert found.tolist() == [[0.0, math.inf, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("alpha", "expected"), [(1.0, [math.exp(-1), 0.0, 0.0]), (0.5, [0.5 * math.exp(-1), 0.0, 0.0])]
)
def test_the_second_gradient_of_elu_is_zero_where_it_jumps(alpha, expected):
    x = ln.asarray(np.array([-1.0, 0.0, 1.0]), requires_grad=True)
    slope = ln.grad(nn.elu(x, alpha).sum(), x, create_graph=True)
    assert slope.tolist()[1:] == [alpha, 1.0]
    np.testing.assert_allclose(ln.grad(slope.sum(), x).numpy(), expected)


def test_the_slope_of_a_power_depends_on_an_exponent_of_zero():
    x, n = ln.asarray(np.array([2.0]), requires_grad=True), ln.asarray(np.array([0.0]), requires_grad=True)
    slope = ln.grad((x**n).sum(), x, create_graph=True)
    np.testing.assert_allclose(ln.grad(slope.sum(), n).numpy(), [0.5])


def test_numbers_of_numpy_among_the_arguments_leave_the_dtype_alone():
    x, half = ln.asarray([[1.0, -2.0]]), np.float64(0.5)
    outputs = [nn.threshold(x, half, half), nn.elu(x, half), nn.leaky_relu(x, half), nn.hardtanh(x, -half, half)]
    outputs += [ln.clip(x, -half, half), ln.vector_norm(x, ord=half), nn.normalize(x, half, 0), nn.dropout(x, half)]
    outputs += [nn.threshold(x, np.array(0.5), np.array(0.5)), nn.scaled_dot_product_attention(*[x.mT] * 3, scale=half)]
    assert {out.dtype.name for out in outputs} == {"float32"}
    assert nn.threshold(ln.asarray([math.nan, 0.5, 2.0]), 0.5, 7.0).tolist()[1:] == [7.0, 2.0]


# Attention


def attended(mask, *, float_mask=False):
    """Outputs and gradients of one attention, ours and torch's, for a mask of booleans."""
    rng = np.random.default_rng(0)
    shape = (*mask.shape[:-2], mask.shape[-2], 3)
    arrays = [rng.standard_normal((*shape[:-2], n, 3)) for n in (mask.shape[-2], mask.shape[-1], mask.shape[-1])]
    given = np.where(mask, 0.0, -math.inf) if float_mask else mask
    ours, theirs = [ln.asarray(a, requires_grad=True) for a in arrays], [torch.tensor(a) for a in arrays]
    for tensor in theirs:
        tensor.requires_grad = True
    out = nn.scaled_dot_product_attention(*ours, ln.asarray(given))
    peer = functional.scaled_dot_product_attention(*theirs, torch.tensor(given))
    found = (out * out + out).sum().backward()
    (peer * peer + peer).sum().backward()
    return [out.numpy(), *(found[x].numpy() for x in ours)], [peer.detach().numpy(), *(x.grad.numpy() for x in theirs)]


@pytest.mark.parametrize("float_mask", [False, True])
def test_a_query_without_keys_attends_to_nothing_and_has_no_gradient(float_mask):
    mask = np.random.default_rng(1).random((2, 4, 5)) > 0.4
    mask[0, 1] = mask[1, 3] = False
    got, expected = attended(mask, float_mask=float_mask)
    assert not got[0][0, 1].any()
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_mask_of_one_column_holds_for_all_keys():
    q = ln.asarray(np.eye(2, dtype="float32")[None])
    out = nn.scaled_dot_product_attention(q, q, q, ln.asarray([[[False], [True]]]))
    assert out[0, 0].tolist() == [0.0, 0.0]
    assert ln.isfinite(out).all()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_a_padded_sample_in_a_batch_leaves_the_others_alone(need_weights, compiled):
    ln.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, batch_first=True)
    x, padding = ln.randn((3, 5, 4)), np.zeros((3, 5), bool)
    padding[1] = padding[2, 3:] = True

    def slopes(x, padding):
        out, weights = layer(x, x, x, padding, need_weights=need_weights)
        total = (out * out).sum() if weights is None else (out * out).sum() + (weights * weights).sum()
        found = total.backward()
        return [out, *(found[p] for p in layer.parameters())]

    got = (ln.jit(slopes) if compiled else slopes)(x, ln.asarray(padding))
    alone = slopes(x[ln.asarray([0, 2])], ln.asarray(padding[[0, 2]]))
    np.testing.assert_allclose(got[0].numpy()[[0, 2]], alone[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[0].numpy()[1], np.tile(layer.out_proj.bias.numpy(), (5, 1)), atol=1e-7)
    assert all(ln.isfinite(gradient).all() for gradient in got)
    np.testing.assert_allclose(got[1].numpy(), alone[1].numpy(), rtol=1e-4, atol=1e-6)


def test_a_transformer_trains_with_a_padded_sample():
    ln.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), 2)
    x, padding = ln.randn((2, 3, 4), requires_grad=True), ln.asarray([[False, False, True], [True, True, True]])
    found = (encoder(x, src_key_padding_mask=padding) ** 2).sum().backward()
    assert all(ln.isfinite(gradient).all() for gradient in found.values())
    slope = ln.grad((encoder(x, src_key_padding_mask=padding) ** 2).sum(), x, create_graph=True)
    assert ln.isfinite(ln.grad((slope * slope).sum(), x)).all()


# Clipping


@pytest.mark.parametrize("worst", [math.nan, math.inf, 3.0])
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_that_are_not_finite_are_clipped_as_in_torch(worst, compiled):
    u, v = ln.ones(2, requires_grad=True), ln.ones(1, requires_grad=True)

    def clipped(factor):
        found = ln.optim.clip_norm(((u * 100).sum() + (v * factor).sum()).backward(), 1.0)
        return [found[u], found[v]]

    got = (ln.jit(clipped) if compiled else clipped)(ln.asarray([worst]))
    peers = [torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)]
    ((peers[0] * 100).sum() + (peers[1] * worst).sum()).backward()
    torch.nn.utils.clip_grad_norm_(peers, 1.0)
    for one, other in zip(got, peers, strict=True):
        np.testing.assert_allclose(one.numpy(), other.grad.numpy(), rtol=1e-5)


def test_running_products_let_no_infinite_slope_through_a_zero():
    x = ln.asarray([4.0, 4.0, 0.0, 0.0], requires_grad=True)
    assert ln.sqrt(ln.cumulative_prod(x)).sum().backward()[x].tolist() == [0.75, 0.5, math.inf, 0.0]
