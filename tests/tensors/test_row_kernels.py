"""Kernels of rows, channels, attention and recurrences: the bits of NumPy, and the gradients of the ops."""

import numpy as np
import pytest

import labnet as ln
from labnet import kernels, nn
from labnet.kernels import blas
from labnet.nn.functions import attention_tiles, channel_statistics, normalization
from labnet.nn.layers.recurrence import recur_gated
from tests.tensors.test_kernels import with_and_without

SHAPES = [
    *((1,), (7,), (0, 5), (3, 1), (2, 7), (4, 8), (3, 128), (3, 129), (2, 255), (2, 256), (2, 500), (2, 511)),
    *((3, 5, 1000), (2, 5000), (300, 64), (1, 20_000)),
    *((900, 3), (500, 10), (33, 255)),
]
SPECIAL = {
    "normal": [],
    "nan": [np.nan],
    "infinite": [np.inf, -np.inf],
    "zeros": None,
}


@pytest.fixture(autouse=True, scope="module")
def loaded():
    if not blas.link():
        pytest.skip("NumPy's BLAS has other names here, so there are no compiled kernels: NumPy does their work")
    assert kernels.load()


def values(shape, kind="normal", seed=0):
    rng = np.random.default_rng(seed)
    found = (rng.standard_normal(shape) * 3).astype("float32")
    if SPECIAL[kind] is None:
        return np.where(found > 0, np.float32(0), np.float32(-0.0))
    for number in SPECIAL[kind] if found.size else ():
        found.flat[rng.integers(found.size)] = number
    return found


def assert_same_bits(one, other):
    """Compare all bits, but for those of NaN, which NumPy does not define."""
    one, other = np.asarray(one), np.asarray(other)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    broken = np.isnan(one)
    np.testing.assert_array_equal(broken, np.isnan(other))
    bits = f"i{one.dtype.itemsize}"
    np.testing.assert_array_equal(one.view(bits)[~broken], other.view(bits)[~broken])


def assert_kernels_agree(compute):
    """Return what kernels compute, after a check that NumPy computes the same bits."""
    with np.errstate(all="ignore"):
        fast, slow = with_and_without(compute)
    assert len(fast) == len(slow)
    for one, other in zip(fast, slow, strict=True):
        assert_same_bits(one, other)
    return fast


def passes(function, *arrays, seed=9):
    """Return the result of a function, and the gradients of all its inputs."""
    leaves = [ln.asarray(array, requires_grad=True) for array in arrays]
    out = function(*leaves)
    g = np.random.default_rng(seed).standard_normal(out.shape).astype(out.dtype)
    found = out.backward(ln.asarray(g))
    return [out.numpy(), *(found[leaf].numpy() for leaf in leaves)]


def labelled(x):
    labels = np.random.default_rng(4).integers(0, x.shape[-1], x.shape[:-1])
    return ln.ops.cross_entropy_with_logits(x, labels=labels)


ROWS = {
    "softmax": nn.softmax,
    "log_softmax": nn.log_softmax,
    "cross_entropy": labelled,
    "standardize": ln.ops.standardize,
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ROWS)
def test_rows_have_the_same_bits(name, shape, kind):
    if name == "cross_entropy" and len(shape) == 1:
        shape = (1, *shape)
    assert_kernels_agree(lambda: passes(ROWS[name], values(shape, kind)))


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 40, 50), (7, 1, 9)])
def test_several_dimensions_are_standardized_with_the_same_bits(shape):
    assert_kernels_agree(lambda: passes(lambda x: ln.ops.standardize(x, dims=2, eps=0.1), values(shape)))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", ROWS)
def test_inputs_that_lie_anyhow_in_memory_have_the_same_values(name, dtype):
    whole = values((12, 10)).astype(dtype)
    unaligned = np.frombuffer(b"\0" + whole.tobytes(), "uint8")[1:].view(dtype).reshape(whole.shape)
    read_only = whole.copy()
    read_only.flags.writeable = False
    expected = ROWS[name](ln.asarray(whole)).numpy()
    for x in (unaligned, read_only, np.asfortranarray(whole), whole[:, ::-1][:, ::-1], np.repeat(whole, 2, 1)[:, ::2]):
        (found,) = assert_kernels_agree(lambda x=x: [ROWS[name](ln.asarray(x)).numpy()])
        np.testing.assert_allclose(found, expected, rtol=1e-3 if dtype == "float16" else 1e-5, atol=1e-6)


def test_labels_that_are_no_classes_are_refused_as_before():
    x = ln.zeros((2, 3))
    for labels in ([0, 3], [0, -4]):
        with pytest.raises((IndexError, ln.errors.AxisError)):
            ln.ops.cross_entropy_with_logits(x, labels=np.array(labels))
    last = ln.ops.cross_entropy_with_logits(values((1, 3)), labels=np.array([-1])).numpy()
    assert_same_bits(last, ln.ops.cross_entropy_with_logits(values((1, 3)), labels=np.array([2])).numpy())


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint16"])
def test_labels_of_other_dtypes_count(dtype):
    labels = np.array([2, 0])
    found = ln.ops.cross_entropy_with_logits(values((2, 3)), labels=labels.astype(dtype))
    assert_same_bits(found.numpy(), ln.ops.cross_entropy_with_logits(values((2, 3)), labels=labels).numpy())


# Normalization with scale and shift


NORMS = {
    "layer_norm": lambda x, w, b: nn.layer_norm(x, w.shape, w, b),
    "layer_norm without bias": lambda x, w: nn.layer_norm(x, w.shape, w),
    "rms_norm": lambda x, w: nn.functional.rms_norm(x, w.shape, w),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((3, 1), 1),
        ((1, 7), 1),
        ((5,), 1),
        ((4, 8), 1),
        ((64, 64), 1),
        ((2, 3, 1000), 1),
        ((2, 3, 4, 5), 2),
        ((2, 3), 2),
    ],
)
@pytest.mark.parametrize("name", NORMS)
def test_norms_are_one_step_with_the_values_of_the_ops(name, shape, dims, dtype, monkeypatch):
    inputs = 3 if name == "layer_norm" else 2
    arrays = [values(shape).astype(dtype), *(values(shape[-dims:], seed=k).astype(dtype) for k in (1, 2))][:inputs]
    found = assert_kernels_agree(lambda: passes(NORMS[name], *arrays))
    monkeypatch.setattr(normalization, "scaled", lambda *_, **__: None)
    expected = passes(NORMS[name], *arrays)
    if name != "rms_norm":  # so that it does not matter which of the two computed
        for one, other in zip(found, expected, strict=True):
            assert_same_bits(one, other)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        (2, 1),
        (7, 5),
        (300, 4),
        (20, 1),
        (9, 1, 3, 3),
        (2, 3, 4, 5),
        (5, 3, 1, 1),
        (8, 4, 28, 28),
        (1, 3, 9, 9),
        (4, 3, 2),
    ],
)
def test_batch_norm_is_one_step_with_the_values_of_the_ops(shape, affine, monkeypatch):
    def compute():
        kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
        model = kind(shape[1], affine=affine)
        for seed, parameter in enumerate(model.parameters()):
            parameter.assign(values(shape[1:2], seed=seed))
        x = ln.asarray(values(shape), requires_grad=True)
        out = model(x)
        found = out.backward(ln.asarray(values(shape, seed=5)))
        gradients = [found[leaf].numpy() for leaf in (x, *model.parameters())]
        return [out.numpy(), model.running_mean.numpy(), model.running_var.numpy(), *gradients]

    found = assert_kernels_agree(compute)
    monkeypatch.setattr(channel_statistics, "standardize_channels", lambda *_: None)
    expected = compute()
    for one, other in zip(found[:3], expected[:3], strict=True):
        assert_same_bits(one, other)
    for one, other in zip(found[3:], expected[3:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


# Attention


def masked(rng, lead, queries, keys, kind):
    """Return named arguments of attention."""
    if kind == "causal":
        return {"is_causal": True}
    if kind == "scale":
        return {"scale": 0.3}
    if kind == "booleans":
        mask = rng.random((queries, keys)) < 0.6
        mask[0] = False  # a query without any key
        return {"attn_mask": ln.asarray(mask)}
    if kind == "numbers":
        return {"attn_mask": ln.asarray(rng.standard_normal((*lead, queries, keys)).astype("float32"))}
    if kind == "keys":
        return {"attn_mask": ln.asarray(rng.random((*lead[:1], *(1,) * max(len(lead) - 1, 0), 1, keys)) < 0.7)}
    if kind == "nan":
        bias = np.where(rng.random((queries, keys)) < 0.9, -np.inf, 0).astype("float32")
        bias[-1, -1] = np.nan
        return {"attn_mask": ln.asarray(bias)}
    return {}


@pytest.mark.parametrize("kind", ["plain", "causal", "scale", "booleans", "numbers", "keys", "nan"])
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1, 1, 1),
        (1, 5, 3, 2),
        (5, 1, 4, 4),
        (7, 7, 8, 8),
        (65, 65, 16, 8),
        (130, 70, 8, 1),
        (300, 128, 1, 4),
        (600, 40, 4, 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("lead", [(), (3,), (2, 4)], ids=str)
def test_attention_in_tiles_has_the_same_bits_and_the_values_of_the_ops(lead, sizes, kind, monkeypatch):
    queries, keys, inner, width = sizes
    arrays = [
        values((*lead, *shape), seed=k) for k, shape in enumerate([(queries, inner), (keys, inner), (keys, width)])
    ]

    def compute():
        named = masked(np.random.default_rng(3), lead, queries, keys, kind)
        return passes(lambda *x: nn.scaled_dot_product_attention(*x, **named), *arrays)

    found = assert_kernels_agree(compute)
    monkeypatch.setattr(attention_tiles, "attend", lambda *_: None)
    with np.errstate(all="ignore"):
        expected = compute()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("is_padded", [True, False])
def test_multi_head_attention_has_the_values_of_its_weights(is_padded, is_causal):
    def compute(*, need_weights):
        ln.manual_seed(0)
        model, x = nn.MultiheadAttention(16, 4, batch_first=True), ln.randn((3, 70, 16), requires_grad=True)
        padding = ln.asarray(np.random.default_rng(0).random((3, 70)) < 0.3) if is_padded else None
        out, _ = model(x, x, x, padding, need_weights=need_weights, is_causal=is_causal)
        found = out.backward(ln.randn(out.shape))
        return [out.numpy(), *(found[leaf].numpy() for leaf in (x, *model.parameters()))]

    found = assert_kernels_agree(lambda: compute(need_weights=False))
    for one, other in zip(found, compute(need_weights=True), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_attention_keeps_no_matrix_of_all_scores():
    q = ln.asarray(values((1, 600, 8)), requires_grad=True)
    out = nn.scaled_dot_product_attention(q, q, q)
    assert out.node is not None
    assert out.node.nbytes < 600 * 600 * 4 / 4


def test_a_bias_with_a_gradient_gets_it():
    q, bias = ln.asarray(values((4, 8)), requires_grad=True), ln.zeros((4, 4), requires_grad=True)
    found = nn.scaled_dot_product_attention(q, q, q, bias).sum().backward()
    assert found[bias].shape == (4, 4)


# Recurrences


@pytest.mark.parametrize("named", [{}, {"bidirectional": True, "num_layers": 2}, {"bias": False}], ids=str)
@pytest.mark.parametrize(("steps", "samples"), [(1, 1), (2, 3), (9, 1), (9, 8), (5, 33)])
@pytest.mark.parametrize("width", [1, 5, 32])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrences_have_the_same_bits(kind, width, steps, samples, named):
    def compute():
        ln.manual_seed(1)
        model, x = kind(3, width, **named), ln.randn((steps, samples, 3), requires_grad=True)
        out, _ = model(x)
        found = out.backward(ln.randn(out.shape))
        return [out.numpy(), *(found[leaf].numpy() for leaf in (x, *model.parameters()))]

    assert_kernels_agree(compute)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_gated_units_have_the_values_of_their_cell(bias, dtype):
    ln.manual_seed(3)
    model, cell = nn.GRU(3, 4, bias=bias).to(dtype), nn.GRUCell(3, 4, bias=bias).to(dtype)
    for name, parameter in cell.named_parameters():
        parameter.assign(getattr(model, f"{name}_l0"))
    x, hidden = ln.randn((6, 2, 3), dtype=dtype, requires_grad=True), ln.randn((2, 4), dtype=dtype, requires_grad=True)
    out, last = model(x, ln.expand_dims(hidden, axis=0))
    state, states = hidden, []
    for step in range(6):
        state = cell(x[step], state)
        states.append(state)
    expected = ln.stack(states)
    np.testing.assert_allclose(out.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(last.numpy()[0], out.numpy()[-1])
    g = ln.randn(out.shape, dtype=dtype)
    found, wanted = out.backward(g), expected.backward(g)
    for one, other in ((x, x), (hidden, hidden), *zip(model.parameters(), cell.parameters(), strict=True)):
        np.testing.assert_allclose(found[one].numpy(), wanted[other].numpy(), rtol=1e-4, atol=1e-5)


# Higher orders


SECOND = {
    "layer_norm": (lambda x, w, b: nn.layer_norm(x, 4, w, b), (3, 4), (4,), (4,)),
    "rms_norm": (lambda x, w: nn.functional.rms_norm(x, 4, w), (3, 4), (4,)),
    "batch_norm": (lambda x, w, b: nn.functional.batch_norm(x, None, None, w, b, training=True), (5, 4), (4,), (4,)),
    "attention": (nn.scaled_dot_product_attention, (3, 4), (5, 4), (5, 2)),
    "softmax": (nn.softmax, (3, 4)),
    "GRU": (recur_gated, (2, 1, 6), (6, 2), (1, 2)),
}


@pytest.mark.parametrize("name", SECOND)
def test_gradients_of_gradients_are_those_of_finite_differences(name):
    function, *shapes = SECOND[name]
    arrays = [values(shape, seed=k).astype("float64") / 3 for k, shape in enumerate(shapes)]
    weights = [values(shape, seed=7 + k).astype("float64") for k, shape in enumerate(shapes)]

    def slope(arrays, *, create_graph):
        leaves = [ln.asarray(array, requires_grad=True) for array in arrays]
        out = function(*leaves)
        gradients = ln.grad((out * out).sum(), leaves, create_graph=create_graph)
        parts = [(g * ln.asarray(w)).sum() for g, w in zip(gradients, weights, strict=True)]
        return leaves, sum(parts[1:], parts[0])

    leaves, total = slope(arrays, create_graph=True)
    found = ln.grad(total, leaves)
    direction = [values(shape, seed=20 + k).astype("float64") for k, shape in enumerate(shapes)]
    step = 1e-5
    ends = [
        slope([a + sign * step * d for a, d in zip(arrays, direction, strict=True)], create_graph=False)[1].item()
        for sign in (1, -1)
    ]
    expected = (ends[0] - ends[1]) / (2 * step)
    along = sum((g.numpy() * d).sum() for g, d in zip(found, direction, strict=True))
    np.testing.assert_allclose(along, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize(
    "shape",
    [
        *((4096,), (5003,), (1, 8192), (3, 5, 1000), (900, 7), (5000, 1), (64, 129), (70_001,), (70, 577), (9, 1023)),
        *((9, 1025), (1031, 8), (17, 3, 200)),
    ],
)
def test_sums_of_rows(shape, kind):
    x = ln.asarray(values(shape, kind))
    options = [{}, {"keepdims": True}, {"axis": -1}, {"axis": len(shape) - 1, "keepdims": True}, {"axis": 0}]
    options += [{"axis": (0,)}, {"axis": 0, "keepdims": True}]

    def compute():
        return [*[ln.sum(x, **one).numpy() for one in options], ln.mean(x).numpy(), ln.sum(x[::2]).numpy()]

    assert_kernels_agree(compute)
