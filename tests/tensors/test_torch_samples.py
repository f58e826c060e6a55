"""The samples that torch tests its own operators with: values, first and second gradients of labnet's, in float64."""

import functools
import warnings

import numpy as np
import pytest

import labnet as ln
from labnet import nn, ops

torch = pytest.importorskip("torch", reason="comparison with torch: pip install torch==2.13.0 expecttest")
pytest.importorskip("expecttest", reason="torch's own samples need it: pip install expecttest")


@functools.cache
def operators():
    """The operators of torch that labnet has, by name; they take seconds to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    found = {}
    for operator in op_db:
        if operator.name in CALLS and operator.variant_test_name not in OTHERS:
            found.setdefault(operator.name, []).append(operator)
    return found


#: Samples in which torch is not NumPy, or takes what the standard has not: by name, from the first argument.
NOT_NUMPYS = {
    "sort": lambda x: not x.ndim,
    "cumsum": lambda x: not x.ndim,
    "cumprod": lambda x: not x.ndim,
    "index_select": lambda x: not x.ndim,
    "cat": lambda parts: len({part.ndim for part in parts}) > 1,
    "tensordot": lambda x: x.size == 1,
}
#: Variants of torch's operators that labnet has not.
OTHERS = {"trunc_rounding", "floor_rounding", "binary", "with_dtype", "multiple"}
SAME = (
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "atan2", "ceil", "copysign"),
    *("cos", "cosh", "erf", "exp", "expm1", "floor", "hypot", "log", "log10", "log1p"),
    *("log2", "logaddexp", "matmul", "maximum", "minimum", "pow", "reciprocal", "remainder", "sigmoid", "sign"),
    *("sin", "sinh", "sqrt", "square", "tan", "tanh", "trunc"),
)


class Elsewhere(Exception):
    """An argument that labnet's function does not have."""


def renamed(given, **names):
    """Give keywords of torch their names in the standard."""
    if unknown := [name for name in given if name not in names]:
        raise Elsewhere(unknown)
    return {names[name]: value for name, value in given.items()}


def plain(function, **names):
    """A function whose positional arguments are those of torch."""
    return lambda *args, **named: function(*args, **renamed(named, **names))


def along(function, **names):
    """A function that torch gives dimensions second, and whether to keep them third."""

    def call(x, dim=None, keepdim=False, **named):
        dim = tuple(dim) if isinstance(dim, list | tuple) else dim
        given = {"axis": None if dim == () else dim, **({"keepdims": True} if keepdim else {})}
        return function(x, **given, **renamed(named, **names))

    return call


def spread(function):
    def call(x, dim=None, *, unbiased=True, correction=None, keepdim=False):
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        correction = int(unbiased) if correction is None else correction
        return along(function, correction="correction")(x, dim, keepdim, correction=correction)

    return call


def norm(x, ord=2, dim=None, keepdim=False):
    return along(ln.vector_norm, ord="ord")(x, dim, keepdim, ord=ord)


def extreme(function):
    def call(x, dim=None, keepdim=False):
        if isinstance(dim, ln.Tensor):
            raise Elsewhere("the elementwise one")
        return function(x, axis=dim, keepdims=keepdim)

    return call


def ordered(function):
    def call(x, dim=-1, descending=False, stable=True):
        return function(x, axis=dim, descending=descending)

    return call


def pooled(function):
    def call(x, *args, return_indices=False, ceil_mode=False, **named):
        if return_indices or ceil_mode or len(args) > 3:
            raise Elsewhere("return_indices, ceil_mode, divisor_override")
        names = ("kernel_size", "stride", "padding", "dilation", "count_include_pad")
        return function(x, *args, **renamed(named, **{name: name for name in names}))

    return call


def squeezed(x, dim=None):
    if dim is None or not x.ndim or x.shape[dim] != 1:
        raise Elsewhere("torch leaves what has another length as it is")
    return ln.squeeze(x, dim)


def taken_along(x, index, dim=None):
    if dim is None or x.ndim != index.ndim:
        raise Elsewhere("flattened")
    return ln.take_along_axis(x, index, axis=dim)


def repeated(x, repeats, dim=None, output_size=None):
    return ln.repeat(x, repeats, axis=dim)


def meshed(*parts, indexing):
    return ln.meshgrid(*(parts[0] if isinstance(parts[0], list | tuple) else parts), indexing=indexing)


def loss(function):
    return plain(function, reduction="reduction")


CALLS = {
    **{name: plain(getattr(ops, name)) for name in SAME},
    "add": plain(ln.add),
    "sub": plain(ln.subtract),
    "mul": plain(ln.multiply),
    "div": plain(ln.divide),
    "neg": plain(ln.negative),
    "__radd__": plain(lambda x, y: y + x),
    "__rsub__": plain(lambda x, y: y - x),
    "__rmul__": plain(lambda x, y: y * x),
    "__rdiv__": plain(lambda x, y: y / x),
    "__rpow__": plain(lambda x, y: y**x),
    "__rmatmul__": plain(lambda x, y: y @ x),
    "__getitem__": plain(lambda x, key: x[key]),
    "where": plain(lambda x, condition, y: ln.where(condition, x, y)),
    "clamp": plain(ln.clip, min="min", max="max"),
    "sum": along(ln.sum),
    "mean": along(ln.mean),
    "prod": along(ln.prod),
    "amax": along(ln.max),
    "amin": along(ln.min),
    "max": extreme(ln.max),
    "min": extreme(ln.min),
    "std": spread(ln.std),
    "var": spread(ln.var),
    "linalg.vector_norm": norm,
    "linalg.vecdot": lambda x, y, dim=-1: ln.vecdot(x, y, axis=dim - max(x.ndim, y.ndim) if dim >= 0 else dim),
    "cumsum": along(ln.cumulative_sum),
    "cumprod": along(ln.cumulative_prod),
    "softmax": plain(nn.softmax),
    "log_softmax": plain(nn.log_softmax),
    "sort": ordered(ln.sort),
    "flip": lambda x, dims: ln.flip(x, axis=dims),
    "roll": lambda x, shifts, dims=None: ln.roll(x, shifts, axis=dims),
    "unsqueeze": lambda x, dim: ln.expand_dims(x, axis=dim),
    "squeeze": squeezed,
    "permute": lambda x, dims: ln.permute_dims(x, dims),
    "movedim": plain(ln.moveaxis),
    "reshape": plain(ln.reshape),
    "broadcast_to": plain(ln.broadcast_to),
    "tile": lambda x, dims: ln.tile(x, dims),
    "repeat_interleave": repeated,
    "take": plain(lambda x, index: ln.take(x.reshape((-1,)), index)),
    "take_along_dim": taken_along,
    "index_select": plain(lambda x, dim, index: ln.take(x, index, axis=dim)),
    "tril": lambda x, diagonal=0: ln.tril(x, k=diagonal),
    "triu": lambda x, diagonal=0: ln.triu(x, k=diagonal),
    "diff": lambda x, n=1, dim=-1, prepend=None, append=None: ln.diff(x, n=n, axis=dim, prepend=prepend, append=append),
    "cat": lambda parts, dim=0: ln.concat(parts, axis=dim),
    "stack": lambda parts, dim=0: ln.stack(parts, axis=dim),
    "unbind": lambda x, dim=0: ln.unstack(x, axis=dim),
    "meshgrid": meshed,
    "broadcast_tensors": plain(ln.broadcast_arrays),
    "tensordot": lambda x, y, dims: ln.tensordot(x, y, axes=dims),
    "mm": plain(ln.matmul),
    "bmm": plain(ln.matmul),
    "mv": plain(ln.matmul),
    "dot": plain(ln.matmul),
    "mT": plain(ln.matrix_transpose),
    "nn.functional.relu": plain(nn.relu),
    "nn.functional.relu6": plain(nn.relu6),
    "nn.functional.silu": plain(nn.silu),
    "nn.functional.elu": plain(nn.elu, alpha="alpha"),
    "nn.functional.gelu": plain(nn.gelu, approximate="approximate"),
    "nn.functional.hardtanh": plain(nn.hardtanh, min_val="min_val", max_val="max_val"),
    "nn.functional.leaky_relu": plain(nn.leaky_relu, negative_slope="negative_slope"),
    "nn.functional.threshold": plain(nn.threshold, threshold="threshold", value="value"),
    "nn.functional.linear": plain(nn.linear, bias="bias"),
    "nn.functional.layer_norm": plain(nn.layer_norm, weight="weight", bias="bias", eps="eps"),
    "nn.functional.conv2d": plain(nn.conv2d, **{n: n for n in ("bias", "stride", "padding", "dilation", "groups")}),
    "nn.functional.avg_pool2d": pooled(nn.avg_pool2d),
    "nn.functional.max_pool2d": pooled(nn.max_pool2d),
    "nn.functional.mse_loss": loss(ln.loss.mse),
    "nn.functional.l1_loss": loss(ln.loss.mae),
    "nn.functional.cross_entropy": loss(ln.loss.cross_entropy),
    "nn.functional.binary_cross_entropy_with_logits": loss(ln.loss.binary_cross_entropy),
}


def mapped(value, function):
    """Replace the tensors of torch in nested arguments."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return type(value)(mapped(each, function) for each in value)
    return tuple(value) if isinstance(value, torch.Size) else value


def found(value):
    """All tensors in nested values, of torch or of labnet."""
    if isinstance(value, torch.Tensor | ln.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for each in value for tensor in found(each)] if isinstance(value, list | tuple) else []


def ours(tensor):
    return ln.asarray(tensor.detach().numpy(), requires_grad=tensor.requires_grad)


def compare_gradients(pairs, own, leaves):
    """Compare the gradients of results, weighted at random and summed; returns the pairs of them."""
    if not pairs:
        return []
    weights = [torch.randn_like(other) for _, other in pairs]
    total = sum((other * weight).sum() for (_, other), weight in zip(pairs, weights, strict=True))
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, create_graph=True)
    total = sum(ln.sum(one * ours(weight)) for (one, _), weight in zip(pairs, weights, strict=True))
    owns = ln.grad(total, own, create_graph=True) if total.requires_grad else [ln.zeros_like(leaf) for leaf in own]
    for one, other in zip(owns, gradients, strict=True):
        values = np.zeros(one.shape) if other is None else other.numpy(force=True)
        assert one.shape == values.shape
        np.testing.assert_allclose(one.numpy(), values, rtol=1e-6, atol=1e-8)
    return list(zip(owns, gradients, strict=True))


def compare(name, theirs, args, named):
    """Compare one sample; returns whether labnet's function has its arguments."""
    expected = found(theirs)[: 1 if name in ("sort", "max", "min") else None]
    own_args, own_named = mapped(args, ours), {key: mapped(value, ours) for key, value in named.items()}
    if name in NOT_NUMPYS and NOT_NUMPYS[name](own_args[0]):
        return False
    try:
        result = found(CALLS[name](*own_args, **own_named))
    except Elsewhere:
        return False
    for one, other in zip(result, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other.detach().numpy(), rtol=1e-9, atol=1e-9)
        assert one.shape == tuple(other.shape)
    pairs = [(one, other) for one, other in zip(result, expected, strict=True) if other.requires_grad]
    if pairs:
        leaves = [leaf for leaf in found([args, named]) if leaf.requires_grad]
        own = [leaf for leaf in found([own_args, own_named]) if leaf.requires_grad]
        first = compare_gradients(pairs, own, leaves)
        if sum(leaf.numel() for leaf in leaves) < 1000:
            compare_gradients([pair for pair in first if pair[1] is not None and pair[1].requires_grad], own, leaves)
    return True


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_those_of_torch(name):
    for operator in operators()[name]:
        torch.manual_seed(0)
        compared = 0
        for sample in operator.sample_inputs("cpu", torch.float64, requires_grad=operator.supports_autograd):
            args = (sample.input, *sample.args)
            compared += compare(name, operator(*args, **sample.kwargs), args, sample.kwargs)
        assert compared, operator.variant_test_name
