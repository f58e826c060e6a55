"""What every op should give, written a second time without labnet and mostly without NumPy's own function."""

import itertools
import math

import numpy as np


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
    "reshape": lambda x, shape: np.array([v.item() for v in x.flat]).reshape(shape),
    "broadcast_to": lambda x, shape: np.ones(shape) * x,
    "sum_to": sum_to,
    "permute_dims": permute_dims,
    "matrix_transpose": lambda x: permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)),
    "expand_dims": lambda x, axis: x.reshape(np.insert(x.shape, axis if axis >= 0 else x.ndim + 1 + axis, 1)),
    "astype": lambda x, dtype: np.array([np.dtype(dtype).type(v) for v in x.flat]).reshape(x.shape),
    "getitem": getitem,
    "scatter_add": scatter_add,
    "ndtr": each(lambda a: math.erfc(-a / math.sqrt(2)) / 2),
    "gelu": gelu,
    "silu": each(lambda a: a / (1 + math.exp(-a))),
    "elu": lambda x, alpha=1.0: each(lambda a: a if a > 0 else alpha * math.expm1(a))(x),
    "leaky_relu": lambda x, negative_slope=0.01: each(lambda a: a if a > 0 else negative_slope * a)(x),
    "hardtanh": lambda x, min_val=-1.0, max_val=1.0: each(lambda a: min(max(a, min_val), max_val))(x),
    "relu6": each(lambda a: min(max(a, 0.0), 6.0)),
    "threshold": lambda x, threshold, value: each(lambda a: a if a > threshold else value)(x),
    "softmax": softmax,
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
