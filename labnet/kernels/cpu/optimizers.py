"""Kernels of optimizers.

Arrays: values, gradients, then new values, and states, of all parameters, each group in the same order.
"""

# mypy: ignore-errors
# Numba finds the types.

import numpy as np
from numba import njit

from labnet.kernels.cpu.arrays import INSIDE, OPTIONS, WRITE, count_of, data_of, flat_size, item
from labnet.kernels.machine_code.array_layout import FLOAT32, READ


@njit(**INSIDE)
def _same_sizes(arrays, groups, read):
    """Return whether corresponding arrays of all groups fit and have one size; the first `read` are read only."""
    count = count_of(arrays) // groups
    for i in range(count):
        size = flat_size(item(arrays, i), READ, FLOAT32)
        if size < 0:
            return False
        for group in range(1, groups):
            flags = READ if group < read else WRITE
            if flat_size(item(arrays, group * count + i), flags, FLOAT32) != size:
                return False
    return True


@njit(**OPTIONS)
def sgd(arrays, lr):
    """Take a step of plain gradient descent with every parameter; arrays: values, gradients, new values."""
    if not _same_sizes(arrays, 3, 2):
        return 0
    count = count_of(arrays) // 3
    for i in range(count):
        value, gradient, out = item(arrays, i), data_of(item(arrays, count + i)), data_of(item(arrays, 2 * count + i))
        values = data_of(value)
        for k in range(flat_size(value, 0, FLOAT32)):
            out[k] = values[k] - lr * gradient[k]
    return 1


@njit(**OPTIONS)
def sgd_with_momentum(arrays, lr, momentum):
    """Take a step with momentum; arrays: values, gradients, new values, velocities, which are overwritten."""
    if not _same_sizes(arrays, 4, 2):
        return 0
    count = count_of(arrays) // 4
    for i in range(count):
        value, gradient, out = item(arrays, i), data_of(item(arrays, count + i)), data_of(item(arrays, 2 * count + i))
        values, velocity = data_of(value), data_of(item(arrays, 3 * count + i))
        for k in range(flat_size(value, 0, FLOAT32)):
            speed = momentum * velocity[k] + gradient[k]
            velocity[k] = speed
            out[k] = values[k] - lr * speed
    return 1


@njit(**OPTIONS)
def adam(arrays, keep, beta1, rest1, beta2, rest2, root, eps, size):
    """Take a step of Adam with every parameter; the order of operations is that of `labnet.optim.Adam`.

    Arrays: values, gradients, new values, means, mean squares; the last two are overwritten. `keep` is the
    share of a value that weight decay leaves.
    """
    if not _same_sizes(arrays, 5, 2):
        return 0
    count = count_of(arrays) // 5
    for i in range(count):
        value, gradient, out = item(arrays, i), data_of(item(arrays, count + i)), data_of(item(arrays, 2 * count + i))
        values, mean, square = (
            data_of(value),
            data_of(item(arrays, 3 * count + i)),
            data_of(item(arrays, 4 * count + i)),
        )
        for k in range(flat_size(value, 0, FLOAT32)):
            slope = gradient[k]
            first = slope * rest1 + beta1 * mean[k]
            second = (slope * slope) * rest2 + beta2 * square[k]
            mean[k], square[k] = first, second
            out[k] = values[k] * keep - first / (np.sqrt(second) * root + eps) * size
    return 1
