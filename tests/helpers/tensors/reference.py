"""What every op should give, written a second time without labnet and mostly without NumPy's own function."""

import itertools
import math
import operator
import statistics

import numpy as np

from labnet.kernels.scalar_expression import evaluate, parse
from labnet.ops.core.registry import scalar_functions


def each(function):
    """Apply a function of numbers to broadcast arrays, element by element."""

    def apply(*arrays):
        arrays = np.broadcast_arrays(*arrays)
        values = [function(*(a[index].item() for a in arrays)) for index in np.ndindex(arrays[0].shape)]
        return np.array(values).reshape(arrays[0].shape)

    return apply


def fold(function):
    """Reduce over axes with a function of a list of numbers."""

    def apply(x, axis=None, keepdims=False):
        axes = range(x.ndim) if axis is None else [a % x.ndim for a in ([axis] if isinstance(axis, int) else axis)]
        kept = [a for a in range(x.ndim) if a not in axes]
        out = np.empty([x.shape[a] for a in kept])
        for index in np.ndindex(out.shape):
            where = dict(zip(kept, index, strict=True))
            out[index] = function([v.item() for v in x[tuple(where.get(a, slice(None)) for a in range(x.ndim))].flat])
        return out.reshape([1 if a in axes else n for a, n in enumerate(x.shape)]) if keepdims else out

    return apply


def matmul(x1, x2):
    left = x1[None, :] if x1.ndim == 1 else x1
    right = x2[:, None] if x2.ndim == 1 else x2
    out = np.sum(left[..., :, :, None] * right[..., None, :, :], axis=-2)
    out = out[..., 0] if x2.ndim == 1 else out
    return (out[..., 0, :] if x2.ndim > 1 else out[..., 0]) if x1.ndim == 1 else out


def log_softmax(x, axis=-1):
    e = np.exp(x.astype("float64"))
    return np.log(e / e.sum(axis=axis, keepdims=True))


def argmax(x, axis=None, keepdims=False):
    best = fold(max)(x, axis, keepdims=True)
    first = np.cumsum(x == best, axis=axis).reshape(x.shape)
    position = fold(lambda flags: flags.index(1))
    return position(((x == best) & (first == 1)).astype(int), axis, keepdims)


def sum_to(x, shape):
    out = np.zeros(shape)
    for index in np.ndindex(x.shape):
        tail = index[x.ndim - len(shape) :]
        out[tuple(0 if n == 1 else i for i, n in zip(tail, shape, strict=True))] += x[index]
    return out


def scatter_add(x, key, shape):
    positions = np.arange(math.prod(shape)).reshape(shape)[key]
    out = np.zeros(math.prod(shape))
    for position, value in zip(np.ravel(positions), np.ravel(x), strict=True):
        out[position] += value
    return out.reshape(shape)


def getitem(x, key):
    flat = [v.item() for v in x.flat]
    positions = np.arange(x.size).reshape(x.shape)[key]
    return np.array([flat[p] for p in np.ravel(positions)]).reshape(np.shape(positions))


def permute_dims(x, axes):
    axes = [a % x.ndim for a in axes]
    out = np.empty([x.shape[a] for a in axes])
    for index in itertools.product(*(range(n) for n in out.shape)):
        source = [0] * x.ndim
        for i, a in zip(index, axes, strict=True):
            source[a] = i
        out[index] = x[tuple(source)]
    return out


def setitem(x, value, key):
    places = np.arange(x.size).reshape(x.shape)[key]
    out = [v.item() for v in x.flat]
    for place, v in zip(np.ravel(places), np.ravel(np.ones(np.shape(places), value.dtype) * value), strict=True):
        out[place] = v
    return np.array(out, x.dtype).reshape(x.shape)


def along(function):
    """Apply a function that turns a list of numbers into another list to each line along an axis."""

    def apply(x, axis=-1, **static):
        lines = x.reshape(1, -1) if axis is None else np.moveaxis(x, axis, -1)
        results = [function([v.item() for v in lines[index]], **static) for index in np.ndindex(lines.shape[:-1])]
        length = len(results[0]) if results else lines.shape[-1]
        out = np.array(results).reshape(*lines.shape[:-1], length)
        return out.reshape(-1) if axis is None else np.moveaxis(out, -1, axis)

    return apply


def repeat(x, repeats, axis=None):
    def one(values):
        times = [repeats] * len(values) if isinstance(repeats, int) else repeats
        return [v for v, n in zip(values, times, strict=True) for _ in range(n)]

    return along(one)(x, axis)


def roll(x, shift, axis=None):
    if axis is None:
        return along(lambda v: v[-shift % len(v) :] + v[: -shift % len(v)])(x.reshape(-1)).reshape(x.shape)
    pairs = [(shift, axis)] if isinstance(axis, int) else zip(shift, axis, strict=True)
    for s, a in pairs:
        x = along(lambda v, s=s: v[-s % len(v) :] + v[: -s % len(v)])(x, a)
    return x


def flip(x, axis=None):
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    for a in axes:
        x = along(lambda v: v[::-1])(x, a)
    return x


def tile(x, repetitions):
    ndim = max(x.ndim, len(repetitions))
    x = x.reshape((1,) * (ndim - x.ndim) + x.shape)
    for a, n in enumerate((1,) * (ndim - len(repetitions)) + tuple(repetitions)):
        x = along(lambda v, n=n: v * n)(x, a)
    return x


def pad(x, pad_width, constant_values=0):
    out = np.full([n + b + a for n, (b, a) in zip(x.shape, pairs(pad_width, x.ndim), strict=True)], constant_values)
    out = out.astype(x.dtype)
    for index in np.ndindex(x.shape):
        out[tuple(i + b for i, (b, _) in zip(index, pairs(pad_width, x.ndim), strict=True))] = x[index]
    return out


def pairs(width, ndim):
    if isinstance(width, int):
        return [(width, width)] * ndim
    return [width] * ndim if isinstance(width[0], int) else list(width)


def triangle(keep):
    def apply(x, k=0):
        out = x.copy()
        for index in np.ndindex(x.shape):
            if not keep(index[-1] - index[-2], k):
                out[index] = 0
        return out

    return apply


def scan(function):
    def apply(x, axis=None, include_initial=False):
        start = math.prod if function == "prod" else sum

        def one(values):
            return [start(values[:n]) for n in range(0 if include_initial else 1, len(values) + 1)]

        return along(one)(x, 0 if axis is None else axis)

    return apply


def diff(x, axis=-1, n=1):
    def one(values):
        for _ in range(n):
            values = [b != a if isinstance(a, bool) else b - a for a, b in itertools.pairwise(values)]
        return values

    return along(one)(x, axis)


def concat(arrays, axis=0):
    if axis is None:
        return np.array([v.item() for a in arrays for v in a.flat])
    return np.moveaxis(np.array([layer for a in arrays for layer in np.moveaxis(a, axis, 0)]), 0, axis)


def meshgrid(*arrays, indexing="xy"):
    shape = [len(a) for a in arrays]
    grids = [np.array([a[index[i]] for index in np.ndindex(*shape)]).reshape(shape) for i, a in enumerate(arrays)]
    return tuple(np.swapaxes(g, 0, 1) if indexing == "xy" else g for g in grids)


def broadcast_arrays(*arrays):
    total = sum(np.zeros(a.shape) for a in arrays)
    return tuple(np.ones(total.shape, a.dtype) * a for a in arrays)


def squeeze(x, axis=None):
    if axis is None:
        axis = [i for i, n in enumerate(x.shape) if n == 1]
    axes = [a % x.ndim for a in ([axis] if isinstance(axis, int) else axis)]
    return x.reshape([n for i, n in enumerate(x.shape) if i not in axes])


def expand_dims(x, axis):
    axes = [axis] if isinstance(axis, int) else axis
    shape = list(x.shape)
    for a in sorted(a % (x.ndim + len(axes)) for a in axes):
        shape.insert(a, 1)
    return x.reshape(shape)


def moveaxis(x, source, destination):
    source, destination = ([v] if isinstance(v, int) else v for v in (source, destination))
    order = [a for a in range(x.ndim) if a not in [s % x.ndim for s in source]]
    for d, s in sorted((d % x.ndim, s % x.ndim) for d, s in zip(destination, source, strict=True)):
        order.insert(d, s)
    return permute_dims(x, order)


def tensordot(x1, x2, axes=2):
    left, right = (range(x1.ndim - axes, x1.ndim), range(axes)) if isinstance(axes, int) else axes
    letters = "abcdefghij"
    first = list(letters[: x1.ndim])
    second = list(letters[x1.ndim : x1.ndim + x2.ndim])
    for a, b in zip(left, right, strict=True):
        second[b] = first[a]
    free = [c for c in first + second if (c in first) != (c in second)]
    return np.einsum(f"{''.join(first)},{''.join(second)}->{''.join(free)}", x1, x2)


def vecdot(x1, x2, axis=-1):
    total = x1 * x2 if x1.ndim == x2.ndim else x1 * np.broadcast_to(x2, x1.shape)
    return fold(sum)(total, axis)


def unique(x):
    values = [v.item() for v in x.flat]
    distinct = sorted(set(values))
    first = [values.index(v) for v in distinct]
    inverse = np.array([distinct.index(v) for v in values], int).reshape(x.shape)
    return (
        np.array(distinct, x.dtype),
        np.array(first, int),
        inverse,
        np.array([values.count(v) for v in distinct], int),
    )


def variance(values, correction=0.0):
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values) / (len(values) - correction)


def norm(x, axis=None, keepdims=False, ord=2):
    if math.isinf(ord):
        return fold(lambda v: (max if ord > 0 else min)(map(abs, v)))(x, axis, keepdims)
    if ord == 0:
        return fold(lambda v: sum(n != 0 for n in v))(x, axis, keepdims)
    return fold(lambda v: math.fsum(abs(n) ** ord for n in v) ** (1 / ord))(x, axis, keepdims)


def spread(function):
    return lambda x, axis=None, keepdims=False, correction=0.0: fold(lambda v: function(v, correction))(
        x, axis, keepdims
    )


def ordered(values, descending=False):
    return sorted(values, reverse=descending)


def order(values, descending=False):
    return sorted(range(len(values)), key=lambda i: values[i], reverse=descending)


def searchsorted(x1, x2, side="left"):
    before = (lambda a, b: a < b) if side == "left" else (lambda a, b: a <= b)
    return np.array([sum(before(a, b) for a in x1) for b in x2.flat], int).reshape(x2.shape)


#: What has to hold for the inputs of an op before it makes sense.
PREPARE = {"searchsorted": lambda x1, x2: [np.sort(x1), x2]}


def gelu(x, approximate="none"):
    cubic = each(lambda a: 0.5 * a * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))))
    return (cubic if approximate == "tanh" else each(lambda a: 0.5 * a * math.erfc(-a / math.sqrt(2))))(x)


def softmax(x, axis=-1):
    e = np.exp(x.astype("float64"))
    return e / e.sum(axis=axis, keepdims=True)


def both_sides(*values):
    return [(value, value) if isinstance(value, int) else value for value in values]


def taps(x_shape, w_shape, stride=1, padding=0, dilation=1, groups=1):
    """Every multiplication of a convolution, as indices (of the image, of the weight, of the result)."""
    (n, _, height, width), (k, c, rows, columns) = x_shape, w_shape
    if padding == "same":
        before, after = [(s - 1) // 2 for s in (rows, columns)], [s // 2 for s in (rows, columns)]
    else:
        before = after = both_sides(padding)[0]
    stride, dilation = both_sides(stride, dilation)
    out = [
        (size + b + a - d * (kernel - 1) - 1) // s + 1
        for size, b, a, d, kernel, s in zip(
            (height, width), before, after, dilation, (rows, columns), stride, strict=True
        )
    ]
    found = []
    for image, f, y, x, channel, i, j in np.ndindex(n, k, *out, c, rows, columns):
        source = (y * stride[0] + i * dilation[0] - before[0], x * stride[1] + j * dilation[1] - before[1])
        if 0 <= source[0] < height and 0 <= source[1] < width:
            group = f // (k // groups)
            found.append(((image, group * c + channel, *source), (f, channel, i, j), (image, f, y, x)))
    return (n, k, *out), found


def conv2d(x, weight, bias, **static):
    shape, found = taps(x.shape, weight.shape, **static)
    out = np.zeros(shape) + bias.reshape(-1, 1, 1)
    for at, by, to in found:
        out[to] += float(x[at]) * weight[by]
    return out


def conv2d_input(y, weight, shape, **static):
    out = np.zeros(shape)
    for at, by, to in taps(shape, weight.shape, **static)[1]:
        out[at] += float(y[to]) * weight[by]
    return out


def conv2d_weight(x, y, shape, **static):
    out = np.zeros(shape)
    for at, by, to in taps(x.shape, shape, **static)[1]:
        out[by] += float(x[at]) * y[to]
    return out


def pools(shape, kernel_size, stride=None, padding=0, dilation=1):
    """Yield each window of the last two dimensions: its place, and the elements inside the image."""
    kernel, step, width, spread = both_sides(kernel_size, kernel_size if stride is None else stride, padding, dilation)
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(shape[-2:], kernel, step, width, spread, strict=True)
    ]
    for lead in np.ndindex(*shape[:-2]):
        for y, x in np.ndindex(*out):
            elements = [
                (*lead, y * step[0] + i * spread[0] - width[0], x * step[1] + j * spread[1] - width[1])
                for i, j in np.ndindex(*kernel)
            ]
            inside = [e for e in elements if 0 <= e[-2] < shape[-2] and 0 <= e[-1] < shape[-1]]
            yield (*lead, y, x), inside, kernel[0] * kernel[1]


def pooled(function, x, **static):
    """Collect {place: function of a window's elements} as an array."""
    values = {place: function(place, inside, size) for place, inside, size in pools(x.shape, **static)}
    out = np.empty([1 + max(axis) for axis in zip(*values, strict=True)])
    for place, value in values.items():
        out[place] = value
    return out


def max_pool2d(x, **static):
    return pooled(lambda place, inside, size: max(x[e].item() for e in inside), x, **static)


def max_pool2d_pick(y, x, **static):
    return pooled(lambda place, inside, size: y[max(inside, key=lambda e: x[e].item())], x, **static)


def max_pool2d_input(y, x, **static):
    out = np.zeros(x.shape)
    for place, inside, _ in pools(x.shape, **static):
        out[max(inside, key=lambda e: x[e].item())] += y[place]
    return out


def avg_pool2d(x, count_include_pad=True, **static):
    def average(place, inside, size):
        return math.fsum(x[e].item() for e in inside) / (size if count_include_pad else len(inside))

    return pooled(average, x, **static)


def avg_pool2d_input(y, shape, count_include_pad=True, **static):
    out = np.zeros(shape)
    for place, inside, size in pools(shape, **static):
        for element in inside:
            out[element] += y[place] / (size if count_include_pad else len(inside))
    return out


def cross_entropy_with_logits(x, labels, axis=-1):
    return -np.sum(np.log(softmax(x, axis)) * np.moveaxis(np.eye(x.shape[axis])[labels], -1, axis), axis=axis)


def standardize(x, dims=1, eps=1e-5):
    rows = x.astype("float64").reshape(-1, math.prod(x.shape[-dims:]))
    return np.array([(r - r.mean()) / math.sqrt(r.var() + eps) for r in rows]).reshape(x.shape)


def running(best):
    """The best element so far and its position, from the best pair of a list of values."""

    def apply(x, axis):
        rows = np.moveaxis(x, axis, -1)
        found = [
            [[best(row[: end + 1].tolist()) for end in range(len(row))] for row in rows.reshape(-1, rows.shape[-1])]
        ]
        pairs = np.array(found, "float64").reshape(*rows.shape, 2)
        return tuple(np.moveaxis(part, -1, axis) for part in (pairs[..., 0], np.abs(pairs[..., 1])))

    return apply


def argselect(x, start, stop, axis=-1, descending=False):
    return np.take(along(order)(x, axis=axis, descending=descending), range(start, stop), axis)


def topk(x, k, axis=-1, largest=True):
    order = np.argsort(-x.astype("float64") if largest else x, axis=axis, kind="stable")
    first = np.take(order, range(k), axis)
    return np.take_along_axis(x, first, axis), first


REFERENCE = {
    "add": each(lambda a, b: a + b),
    "subtract": each(lambda a, b: a - b),
    "multiply": each(lambda a, b: a * b),
    "divide": each(lambda a, b: a / b),
    "pow": each(lambda a, b: a**b),
    "maximum": each(max),
    "negative": each(lambda a: -a),
    "exp": each(math.exp),
    "log": each(math.log),
    "sqrt": each(math.sqrt),
    "tanh": each(math.tanh),
    "relu": each(lambda a: a if a > 0 else 0.0),
    "sigmoid": each(lambda a: 1 / (1 + math.exp(-a))),
    "equal": each(lambda a, b: a == b),
    "not_equal": each(lambda a, b: a != b),
    "greater": each(lambda a, b: a > b),
    "greater_equal": each(lambda a, b: a >= b),
    "less": each(lambda a, b: a < b),
    "less_equal": each(lambda a, b: a <= b),
    "where": each(lambda c, a, b: a if c else b),
    "sum": fold(math.fsum),
    "mean": fold(lambda values: math.fsum(values) / len(values)),
    "max": fold(max),
    "argmax": argmax,
    "log_softmax": log_softmax,
    "matmul": matmul,
    "linear": lambda x, weight, bias: np.einsum("...i,oi->...o", x, weight) + bias,
    "mean_squared_error": lambda x1, x2: np.mean(np.square(x1 - x2)),
    "reshape": lambda x, shape: np.array([v.item() for v in x.flat]).reshape(shape),
    "broadcast_to": lambda x, shape: np.ones(shape) * x,
    "sum_to": sum_to,
    "permute_dims": permute_dims,
    "matrix_transpose": lambda x: permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)),
    "expand_dims": expand_dims,
    "astype": lambda x, dtype: np.array([np.dtype(dtype).type(v) for v in x.flat]).reshape(x.shape),
    "getitem": getitem,
    "scatter_add": scatter_add,
    "abs": each(lambda a: a if a >= 0 else -a),
    "positive": each(lambda a: a),
    "sign": each(lambda a: (a > 0) - (a < 0)),
    "square": each(lambda a: a * a),
    "reciprocal": each(lambda a: 1 / a),
    "hypot": each(math.hypot),
    "floor": each(math.floor),
    "ceil": each(math.ceil),
    "trunc": each(math.trunc),
    "round": each(round),
    "floor_divide": each(lambda a, b: a // b),
    "remainder": each(lambda a, b: a % b),
    "minimum": each(min),
    "clip": each(lambda a, low, high: min(max(a, low), high)),
    "copysign": each(math.copysign),
    "nextafter": lambda x1, x2: np.broadcast_arrays(x1, x2)[0] + np.sign(x2 - x1) * np.spacing(np.abs(x1)),
    "signbit": each(lambda a: math.copysign(1, a) < 0),
    "expm1": each(math.expm1),
    "log1p": each(math.log1p),
    "log2": each(math.log2),
    "log10": each(math.log10),
    "logaddexp": each(lambda a, b: math.log(math.exp(a) + math.exp(b))),
    "erf": each(math.erf),
    **{name: each(getattr(math, name)) for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh")},
    **{name: each(getattr(math, name)) for name in ("asinh", "acosh", "atanh", "atan2")},
    "logical_and": each(lambda a, b: bool(a and b)),
    "logical_or": each(lambda a, b: bool(a or b)),
    "logical_xor": each(lambda a, b: bool(a) != bool(b)),
    "logical_not": each(lambda a: not a),
    "bitwise_and": each(operator.and_),
    "bitwise_or": each(operator.or_),
    "bitwise_xor": each(operator.xor),
    "bitwise_invert": each(lambda a: not a if isinstance(a, bool) else ~a),
    "bitwise_left_shift": each(operator.lshift),
    "bitwise_right_shift": each(operator.rshift),
    "isnan": each(math.isnan),
    "isinf": each(math.isinf),
    "isfinite": each(math.isfinite),
    "setitem": setitem,
    "take": lambda x, indices, axis=0: along(lambda v: [v[i] for i in indices])(x, axis),
    "take_along_axis": lambda x, indices, axis=-1: np.take_along_axis(x, np.array(indices), axis),
    "broadcast_arrays": broadcast_arrays,
    "concat": concat,
    "stack": lambda arrays, axis=0: concat([np.expand_dims(a, axis) for a in arrays], axis),
    "unstack": lambda x, axis=0: tuple(np.moveaxis(x, axis, 0)),
    "meshgrid": meshgrid,
    "tensordot": tensordot,
    "vecdot": vecdot,
    "flip": flip,
    "roll": roll,
    "tile": tile,
    "repeat": repeat,
    "pad": pad,
    "tril": triangle(lambda distance, k: distance <= k),
    "triu": triangle(lambda distance, k: distance >= k),
    "squeeze": squeeze,
    "moveaxis": moveaxis,
    "min": fold(min),
    "argmin": lambda x, axis=None, keepdims=False: argmax(-x.astype(float), axis, keepdims),
    "all": fold(lambda values: all(map(bool, values))),
    "any": fold(lambda values: any(map(bool, values))),
    "count_nonzero": fold(lambda values: sum(v != 0 for v in values)),
    "cumulative_sum": scan("sum"),
    "cumulative_prod": scan("prod"),
    "diff": diff,
    "sort": along(ordered),
    "argsort": along(order),
    "argselect": argselect,
    "searchsorted": searchsorted,
    "nonzero": lambda x: tuple(np.array([i for i in np.ndindex(x.shape) if x[i]], int).reshape(-1, x.ndim).T),
    "unique_all": unique,
    "unique_counts": lambda x: unique(x)[::3],
    "unique_inverse": lambda x: unique(x)[::2],
    "unique_values": lambda x: unique(x)[0],
    "prod": fold(math.prod),
    "var": spread(variance),
    "std": spread(lambda values, correction: math.sqrt(variance(values, correction))),
    "median": fold(statistics.median),
    "vector_norm": norm,
    "sum_of_squares": fold(lambda values: math.fsum(value * value for value in values)),
    "ndtr": each(lambda a: math.erfc(-a / math.sqrt(2)) / 2),
    "gelu": gelu,
    "silu": each(lambda a: a / (1 + math.exp(-a))),
    "elu": lambda x, alpha=1.0: each(lambda a: a if a > 0 else alpha * math.expm1(a))(x),
    "leaky_relu": lambda x, negative_slope=0.01: each(lambda a: a if a > 0 else negative_slope * a)(x),
    "hardtanh": lambda x, min_val=-1.0, max_val=1.0: each(lambda a: min(max(a, min_val), max_val))(x),
    "relu6": each(lambda a: min(max(a, 0.0), 6.0)),
    "threshold": lambda x, threshold, value: each(lambda a: a if a > threshold else value)(x),
    "softmax": softmax,
    "rsqrt": each(lambda a: 1 / math.sqrt(a)),
    "frac": each(lambda a: math.modf(a)[0]),
    "logit": lambda x, eps=0.0: each(lambda a: math.log(a / (1 - a)))(np.clip(x.astype("float64"), eps, 1 - eps)),
    "lerp": each(lambda a, b, w: a + w * (b - a)),
    "isclose": each(lambda a, b: math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-8)),
    "fmod": each(math.fmod),
    "addcmul": each(lambda a, b, c: a + b * c),
    "addcdiv": each(lambda a, b, c: a + b / c),
    "nan_to_num": lambda x, nan=0.0: np.nan_to_num(x, nan=nan),
    "gather": lambda x, axis, index: np.take_along_axis(
        x[tuple(slice(None) if i == axis % x.ndim else slice(n) for i, n in enumerate(np.shape(index)))],
        np.array(index),
        axis,
    ),
    "one_hot": lambda x, num_classes: np.eye(num_classes, dtype="int64")[x.astype(int)],
    "topk": topk,
    "diagonal": lambda x, k=0, axis1=0, axis2=1: np.diagonal(x, k, axis1, axis2),
    "diag": lambda x, k=0: np.diag(x, k),
    "unfold": lambda x, axis, size, step: np.moveaxis(np.lib.stride_tricks.sliding_window_view(x, size, axis), axis, 0)[
        ::step
    ].swapaxes(0, axis),
    "einsum": lambda arrays, subscripts: np.einsum(subscripts, *arrays),
    "outer": lambda x1, x2: x1[:, None] * x2,
    "cross": lambda x1, x2, axis=-1: np.cross(*np.broadcast_arrays(x1, x2), axis=axis),
    "trace": lambda x, k=0: sum(x[i, i + k] for i in range(min(x.shape[0], x.shape[1] - k))),
    "cummax": running(lambda values: max((v, i) for i, v in enumerate(values))),
    "cummin": running(lambda values: min((v, -i) for i, v in enumerate(values))),
    "logcumsumexp": lambda x, axis: np.log(np.cumsum(np.exp(x.astype("float64")), axis)),
    "logsumexp": fold(lambda values: math.log(math.fsum(map(math.exp, values)))),
    "nansum": fold(math.fsum),
    "nanmean": fold(lambda values: math.fsum(values) / len(values)),
    "nanmax": fold(max),
    "nanmin": fold(min),
    "nanargmax": argmax,
    "nanargmin": lambda x, axis=None, keepdims=False: argmax(-x.astype(float), axis, keepdims),
    "conv2d": conv2d,
    "conv2d_input": conv2d_input,
    "conv2d_weight": conv2d_weight,
    "max_pool2d": max_pool2d,
    "max_pool2d_input": max_pool2d_input,
    "max_pool2d_pick": max_pool2d_pick,
    "avg_pool2d": avg_pool2d,
    "avg_pool2d_input": avg_pool2d_input,
    "binary_cross_entropy_with_logits": each(lambda z, y: math.log1p(math.exp(z)) - z * y),
    "cross_entropy_with_logits": cross_entropy_with_logits,
    "standardize": standardize,
}


def reference_of(op):
    """Return the reference of an op: the one above, or its scalar expression computed by functions of NumPy."""
    if op.name in REFERENCE or op.scalar is None:
        return REFERENCE[op.name]

    def call(name, *parts):
        return getattr(np, name)(*parts) if hasattr(np, name) else REFERENCE[name](*parts)

    tree = parse(op.scalar, tuple(op.parameters), scalar_functions())
    return lambda *arrays, **static: evaluate(tree, op.parameters | dict(zip(op.parameters, arrays)) | static, call)  # noqa: B905
