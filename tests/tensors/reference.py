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
}
