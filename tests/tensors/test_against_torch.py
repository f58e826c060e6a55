"""Every differentiable op against torch, where it is installed: values, first and second gradients, float64."""

import numpy as np
import pytest

import labnet as ln
from labnet.ops.core.registry import REGISTRY
from tests.tensors.test_registry import flattened, float_inputs, gradients_of, invoke, trainable

torch = pytest.importorskip("torch", reason="comparison with torch: pip install torch==2.13.0 (extra `peers`)")


def dims(x, axis):
    """What torch takes for an axis; None stands for all of them."""
    return tuple(range(x.ndim)) if axis is None else axis


def reduction(function):
    return lambda x, axis=None, keepdims=False: function(x, dim=dims(x, axis), keepdim=keepdims)


def whole(function):
    """A reduction for which torch has no None: over all dimensions, one after the other."""

    def apply(x, axis=None, keepdims=False):
        axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
        for a in sorted((a % x.ndim for a in axes), reverse=True):
            x = function(x, dim=a, keepdim=keepdims)
        return x

    return apply


def spread(function):
    def apply(x, axis=None, keepdims=False, correction=0):
        return function(x, dim=dims(x, axis), keepdim=keepdims, correction=correction)

    return apply


def vector_norm(x, axis=None, keepdims=False, **order):
    return torch.linalg.vector_norm(x, dim=axis, keepdim=keepdims, **order)


def median(x, axis=None, keepdims=False):
    axes = list(range(x.ndim)) if axis is None else [a % x.ndim for a in ([axis] if isinstance(axis, int) else axis)]
    kept = [a for a in range(x.ndim) if a not in axes]
    flat = x.permute((*kept, *axes)).reshape([x.shape[a] for a in kept] + [-1])
    out = torch.quantile(flat, 0.5, dim=-1, interpolation="midpoint")
    return out.reshape([1 if a in axes else n for a, n in enumerate(x.shape)]) if keepdims else out


def cumulative(function, start):
    def apply(x, axis=0, include_initial=False):
        out = function(x, dim=axis)
        first = torch.full_like(out.narrow(axis, 0, 1), start) if include_initial else None
        return out if first is None else torch.cat([first, out], dim=axis)

    return apply


def pad(x, pad_width, constant_values=0):
    flat = [int(n) for pair in reversed(np.broadcast_to(pad_width, (x.ndim, 2))) for n in pair]
    return torch.nn.functional.pad(x, flat, value=constant_values)


def index(key):
    """An index as torch takes it: lists as tensors."""
    parts = key if isinstance(key, tuple) else (key,)
    return tuple(torch.as_tensor(part) if isinstance(part, list) else part for part in parts)


def setitem(x, value, key):
    out = x.clone()
    out[index(key)] = value
    return out


def concat(arrays, axis=0):
    return torch.cat([a.reshape(-1) for a in arrays]) if axis is None else torch.cat(arrays, dim=axis)


#: Ops that torch has under the same name.
SAME = (
    *("abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "copysign"),
    *("cos", "cosh", "divide", "erf", "exp", "expm1", "floor", "hypot", "log", "log10", "log1p", "log2", "logaddexp"),
    *("matmul", "maximum", "minimum", "multiply", "negative", "positive", "pow", "reciprocal", "relu"),
    *("remainder", "reshape", "round", "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "subtract", "tan", "tanh"),
    *("trunc", "addcdiv", "addcmul", "fmod", "frac", "lerp", "logit", "nan_to_num", "outer", "rsqrt"),
)

#: torch's spelling where it is another one.
THEIRS = {
    "astype": lambda x, dtype: x.to(getattr(torch, dtype)),
    "broadcast_to": lambda x, shape: torch.broadcast_to(x, shape),
    "meshgrid": lambda *arrays, indexing="xy": torch.meshgrid(*arrays, indexing=indexing),
    "broadcast_arrays": lambda *arrays: torch.broadcast_tensors(*arrays),
    "clip": torch.clamp,
    "concat": concat,
    "cumulative_prod": cumulative(torch.cumprod, 1.0),
    "cumulative_sum": cumulative(torch.cumsum, 0.0),
    "diff": lambda x, axis=-1, n=1: torch.diff(x, n=n, dim=axis),
    "expand_dims": lambda x, axis: x.reshape(np.expand_dims(np.empty(x.shape), axis).shape),
    "flip": lambda x, axis=None: torch.flip(x, list(range(x.ndim)) if axis is None else np.atleast_1d(axis).tolist()),
    "getitem": lambda x, key: x[index(key)],
    "log_softmax": lambda x, axis=-1: torch.log_softmax(x, axis),
    "softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "matrix_transpose": lambda x: x.mT,
    "max": reduction(torch.amax),
    "mean": reduction(torch.mean),
    "median": median,
    "min": reduction(torch.amin),
    "moveaxis": lambda x, source, destination: torch.movedim(x, source, destination),
    "pad": pad,
    "permute_dims": lambda x, axes: x.permute(*axes),
    "prod": whole(torch.prod),
    "repeat": lambda x, repeats, axis=None: torch.repeat_interleave(x, torch.as_tensor(repeats), dim=axis),
    "roll": lambda x, shift, axis=None: torch.roll(x, shift, axis),
    "scatter_add": lambda x, key, shape: torch.zeros(shape, dtype=x.dtype).index_put(
        (torch.as_tensor(np.arange(shape[0])[key]),), x, accumulate=True
    ),
    "setitem": setitem,
    "sort": lambda x, axis=-1, descending=False: torch.sort(x, dim=axis, descending=descending).values,
    "squeeze": lambda x, axis=None: torch.squeeze(x) if axis is None else torch.squeeze(x, axis),
    "stack": lambda arrays, axis=0: torch.stack(arrays, dim=axis),
    "std": spread(torch.std),
    "sum": reduction(torch.sum),
    "sum_to": lambda x, shape: x.sum_to_size(shape),
    "take": lambda x, indices, axis=0: torch.index_select(x, axis, torch.as_tensor(indices) % x.shape[axis]),
    "take_along_axis": lambda x, indices, axis=-1: torch.take_along_dim(
        x, torch.as_tensor(indices) % x.shape[axis], axis
    ),
    "tensordot": lambda x1, x2, axes=2: torch.tensordot(x1, x2, dims=axes),
    "tile": lambda x, repetitions: torch.tile(x, repetitions),
    "tril": lambda x, k=0: torch.tril(x, k),
    "triu": lambda x, k=0: torch.triu(x, k),
    "unstack": lambda x, axis=0: torch.unbind(x, axis),
    "var": spread(torch.var),
    "vecdot": lambda x1, x2, axis=-1: (x1 * x2).sum(axis),
    "vector_norm": vector_norm,
    "diagonal": lambda x, k=0, axis1=0, axis2=1: torch.diagonal(x, k, axis1, axis2),
    "einsum": lambda arrays, subscripts: torch.einsum(subscripts, *arrays),
    "gather": lambda x, axis, index: torch.gather(x, axis, torch.as_tensor(index)),
    "logsumexp": lambda x, axis=None, keepdims=False: torch.logsumexp(x, dims(x, axis), keepdims),
    "nanmax": reduction(torch.amax),
    "nanmin": reduction(torch.amin),
    "nanmean": reduction(torch.nanmean),
    "nansum": reduction(torch.nansum),
    "cross": lambda x1, x2, axis=-1: torch.linalg.cross(x1, x2, dim=axis),
    "cummax": lambda x, axis: torch.cummax(x, axis),
    "cummin": lambda x, axis: torch.cummin(x, axis),
    "logcumsumexp": lambda x, axis: torch.logcumsumexp(x, axis),
    "topk": lambda x, k, axis=-1, largest=True: torch.topk(x, k, axis, largest),
    "trace": lambda x, k=0: torch.diagonal(x, k).sum(),
    "unfold": lambda x, axis, size, step: x.unfold(axis, size, step),
    "diag": lambda x, k=0: torch.diag(x, k),
    "where": lambda c, a, b: torch.where(c != 0, a, b),
}

PEERS = {**{name: getattr(torch, name) for name in SAME}, **THEIRS}
#: Differentiable here, with the gradient zero, and not in torch.
NOT_THERE = {"floor_divide"}


def torch_can(op, sample):
    """Torch has no slices with a negative step, and no defined gradient for two values written to one place."""
    key = sample.static.get("key", ())
    parts = key if isinstance(key, tuple) else (key,)
    backwards = any(isinstance(part, slice) and (part.step or 1) < 0 for part in parts)
    return not backwards and not (op.name == "setitem" and [0, 0, 2] in parts)


CASES = [
    pytest.param(REGISTRY[name], sample, id=f"{name}-{i}")
    for name in sorted(PEERS)
    for i, sample in enumerate(REGISTRY[name].samples)
    if torch_can(REGISTRY[name], sample) and sample.static.get("dtype", "float64") == "float64"
]


def test_every_differentiable_op_of_the_namespace_is_compared():
    ours = {name for name, op in REGISTRY.items() if op.differentiable and name in ln.__all__}
    assert ours - PEERS.keys() == NOT_THERE


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_values_and_gradients_of_two_orders_are_torchs(op, sample):
    rng = np.random.default_rng(3)
    arrays = float_inputs(op, sample)
    ours = trainable(op, sample, arrays)
    theirs = [torch.tensor(a, requires_grad=flag) for a, flag in zip(arrays, gradients_of(op, sample), strict=True)]
    out = flattened(invoke(op, ours, sample.static))
    peer = torch.cat([part.reshape(-1) for part in invoke(op, theirs, sample.static, PEERS[op.name])])
    np.testing.assert_allclose(out.numpy(), peer.detach().numpy(), rtol=1e-10, atol=1e-12)

    weights = rng.standard_normal(out.shape)
    leaves = [t for t in ours if t.requires_grad]
    peers = [t for t in theirs if t.requires_grad]
    # squaring makes the first gradient depend on the inputs also for linear ops
    first = ln.grad((out * out * weights).sum(), leaves, create_graph=True)
    loss = (peer * peer * torch.as_tensor(weights)).sum()
    peer_first = torch.autograd.grad(loss, peers, create_graph=True, materialize_grads=True)
    for got, expected in zip(first, peer_first, strict=True):
        np.testing.assert_allclose(got.numpy(), expected.detach().numpy(force=True), rtol=1e-9, atol=1e-11)

    probes = [rng.standard_normal(t.shape) for t in leaves]
    total = sum((g * p).sum() for g, p in zip(first, probes, strict=True))
    peer_total = sum((g * torch.as_tensor(p)).sum() for g, p in zip(peer_first, probes, strict=True))
    if not peer_total.requires_grad:
        return
    second = ln.grad(total, leaves) if total.requires_grad else [ln.zeros_like(t) for t in leaves]
    peer_second = torch.autograd.grad(peer_total, peers, materialize_grads=True)
    for got, expected in zip(second, peer_second, strict=True):
        np.testing.assert_allclose(got.numpy(), expected.numpy(force=True), rtol=1e-8, atol=1e-10)


def test_arrays_travel_by_dlpack_in_both_directions():
    ours = ln.asarray([[1.0, 2.0], [3.0, 4.0]])
    theirs = torch.from_dlpack(ours)
    assert theirs.tolist() == ours.tolist()
    back = ln.from_dlpack(theirs)
    assert back.dtype == ln.float32
    back[0, 0] = 9.0
    assert theirs[0, 0].item() == 1.0
    ours += 1
    assert theirs[0, 0].item() == 1.0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max", [1.0, 3.0, 3.0, 2.0]),
        ("min", [1.0, 1.0, 1.0, 2.0]),
        ("prod", [0.0, 2.0, 3.0, 4.0]),
        ("prod", [0.0, 2.0, 0.0, 4.0]),
        ("cumulative_prod", [2.0, 0.0, 3.0, 0.0]),
        ("cumulative_prod", [0.0, 5.0, 3.0, 2.0]),
        ("std", [2.0, 2.0, 2.0, 2.0]),
        ("vector_norm", [0.0, 0.0, 0.0, 0.0]),
        ("abs", [0.0, -0.0, 1.0, -1.0]),
        ("sqrt", [0.0, 1.0, 4.0, 9.0]),
        ("log", [0.0, 1.0, 2.0, 3.0]),
        ("square", [np.inf, -np.inf, 0.0, 1.0]),
        ("exp", [-np.inf, 800.0, 0.0, np.nan]),
        ("tanh", [np.inf, -np.inf, 0.0, np.nan]),
        ("sigmoid", [np.inf, -np.inf, 1000.0, np.nan]),
        ("sort", [3.0, 1.0, 3.0, 2.0]),
    ],
)
def test_gradients_at_ties_zeros_and_infinities_are_torchs(name, values):
    x = ln.asarray(np.array(values), requires_grad=True)
    y = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    weights = np.arange(1.0, 5.0)
    with np.errstate(all="ignore"):
        out = REGISTRY[name].function(x)
    (out * weights[: out.size].reshape(out.shape)).sum().backward()
    peer = PEERS[name](y)
    (peer * torch.as_tensor(weights[: out.size].reshape(out.shape))).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("base", "exponent"), [(0.0, 2.0), (0.0, 1.0), (0.0, 0.0), (2.0, 0.0), (0.0, 0.5), (-2.0, 3.0)]
)
def test_gradients_of_a_power_are_torchs_also_at_zero(base, exponent):
    x, p = ln.asarray(base, dtype="float64", requires_grad=True), ln.asarray(exponent, dtype="float64")
    y = torch.tensor(base, dtype=torch.float64, requires_grad=True)
    (x**p).backward()
    (y ** torch.tensor(exponent, dtype=torch.float64)).backward()
    assert x.grad.item() == y.grad.item()
