"""Elementwise ops; binary ones broadcast as in NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np

from labnet.autograd import is_recording
from labnet.kernels import exponential
from labnet.ops.core.declaration import Array, Rule, Sample
from labnet.ops.core.dispatch import PYTHON, as_tensors
from labnet.ops.core.dtypes import in_floats
from labnet.ops.core.half_precision import HALF
from labnet.ops.core.registry import FLOATS, NUMBERS, P, op
from labnet.ops.core.single_pass import in_one_pass
from labnet.ops.layout.shape import fit
from labnet.tensor import Tensor

_ndarray: Any = np.ndarray
_FLOATS = frozenset(map(np.dtype, ("float16", "float32", "float64")))
_add_up, _asarray = np.add.reduce, np.asarray

UNARY_SAMPLES = (Sample(((3, 4),)), Sample(((),)), Sample(((0, 2),)))
BINARY_SAMPLES = (
    Sample(((3, 4), (3, 4))),
    Sample(((3, 4), (4,))),
    Sample(((2, 1), (1, 3))),
    Sample(((), (2, 3))),
    Sample(((0, 2), (2,))),
)
TERNARY_SAMPLES = (Sample(((3, 4), (3, 4), (3, 4))), Sample(((3, 1), (4,), ())))


def _fitted(rule: Rule | None, position: int) -> Rule | None:
    """Wrap a rule so that its result is reduced to the operand's shape and dtype."""
    if rule is None:
        return None
    vjp = rule

    def fitted(g: Tensor, out: Tensor, *inputs: Tensor) -> Tensor:
        found, like = vjp(g, out, *inputs), inputs[position]
        return found if found.shape == like.shape and found.dtype is like.dtype else fit(found, like)

    def fitted_gradient(g: Any, out: Any, x1: Any, x2: Any) -> Any:
        like = x2 if position else x1
        if g.dtype is like.dtype:
            if g.shape == like.shape:
                return g
            if type(g) is _ndarray and g.shape[1:] == like.shape and g.dtype is not HALF:  # for example that of a bias
                return _asarray(_add_up(g))
        return fit(g, like)

    return fitted_gradient if rule is _gradient else fitted


def _gradient(g: Tensor, out: Tensor, *inputs: Tensor) -> Tensor:
    """Return the gradient unchanged."""
    return g


#: Integer dtypes of the width of floating ones, for bitwise masks.
_BITS = {"e": np.int16, "f": np.int32, "d": np.int64}


def kept(g: Any, mask: Any) -> Any:
    """Return the gradient where a mask is True, else 0; a product would turn infinities into NaN."""
    if type(g) is _ndarray and type(mask) is _ndarray and mask.dtype.char == "?" and g.dtype.char in _BITS:
        return (g.view(_BITS[g.dtype.char]) & -mask.view(np.int8)).view(g.dtype)
    return (where if isinstance(g, Tensor) or isinstance(mask, Tensor) else np.where)(mask, g, 0)


def blocked(g: Any, mask: Any) -> Any:
    """Return the gradient where a mask is False, else 0; see `kept`."""
    if type(g) is _ndarray and type(mask) is _ndarray and mask.dtype.char == "?" and g.dtype.char in _BITS:
        return (g.view(_BITS[g.dtype.char]) & (mask.view(np.int8) - 1)).view(g.dtype)
    return (where if isinstance(g, Tensor) or isinstance(mask, Tensor) else np.where)(mask, 0, g)


def is_differentiated(x: Any) -> bool:
    """Return whether a rule's computation is recorded, for higher derivatives."""
    return isinstance(x, Tensor) and x.requires_grad and is_recording()


def no_slope(g: Any, out: Any, *inputs: Any) -> Any:
    """Return zeros, also for a non-finite gradient."""
    return kept(g, g == 0)


def unary(
    *vjps: Rule, dtypes: tuple[str, ...] = FLOATS, **named: Any
) -> Callable[[Callable[P, Array]], Callable[P, Tensor]]:
    """Declare an elementwise op of one tensor; see `op` for other arguments."""
    return op(*vjps, samples=UNARY_SAMPLES, dtypes=dtypes, **named)


def binary(*vjps: Rule | None, **named: Any) -> Callable[[Callable[P, Array]], Callable[P, Tensor]]:
    """Declare an elementwise op of two broadcast tensors; see `op` for other arguments."""
    fitted = [_fitted(rule, i) for i, rule in enumerate(vjps)]
    return op(*fitted, samples=BINARY_SAMPLES, inputs=2, **named)


# Arithmetic


@binary(_gradient, _gradient, ufunc=np.add, scalar="x1 + x2", reads="")
def add(x1: Array, x2: Array, /) -> Array:
    """Return the sum of each pair of elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.add(ln.asarray([1, 2]), 3).tolist()
    [4, 5]
    """


@binary(_gradient, lambda g, out, x1, x2: -g, ufunc=np.subtract, scalar="x1 - x2", reads="")
def subtract(x1: Array, x2: Array, /) -> Array:
    """Return the difference of each pair of elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.subtract(ln.asarray([1, 2]), 3).tolist()
    [-2, -1]
    """


@binary(
    lambda g, out, x1, x2: g * x2,
    lambda g, out, x1, x2: g * x1,
    ufunc=np.multiply,
    scalar="x1 * x2",
    reads=("x2", "x1"),
)
def multiply(x1: Array, x2: Array, /) -> Array:
    """Return the product of each pair of elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.multiply(ln.asarray([1, 2]), 3).tolist()
    [3, 6]
    """


@binary(
    lambda g, out, x1, x2: g / x2,
    lambda g, out, x1, x2: -(g * out) / x2,
    dtypes=FLOATS,
    domain=(0.5, 2.0),
    ufunc=np.divide,
    scalar="x1 / x2",
    reads=("x2", "out x2"),
)
def divide(x1: Array, x2: Array, /) -> Array:
    """Return the quotient of each pair of elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.divide(ln.asarray([1.0, 2.0]), 4).tolist()
    [0.25, 0.5]
    """


#: The cube as torch computes it, and compiled code: of three factors.
_cube = in_one_pass(lambda x: x * x * x)


def _power(x: Any, exponent: float) -> Any:
    """Return floating elements raised to the power of a number; NumPy takes long for negative ones."""
    if exponent == 3:
        return _cube(x)
    if exponent == 2:
        return np.square(x)
    if type(x) is not _ndarray or exponent != exponent // 1 or -2 < exponent < 2:
        return np.power(x, exponent)
    found = np.power(np.abs(x), exponent)
    return np.copysign(found, x) if exponent % 2 else found


def _pull_base(g: Any, out: Any, x1: Any, x2: Any) -> Any:
    constant = x2 == 0  # x1 ** 0 is 1 everywhere, though 0 ** -1 is infinite
    if type(constant) is np.bool:
        return no_slope(g, out) if constant else g * x2 * _power(x1, float(x2 - 1))
    found = g * x2 * x1 ** where((x1 == 0) & constant, 1, x2 - 1)
    if is_differentiated(x2):  # the derivative depends on the exponent where that is 0
        return found
    return blocked(found, constant)


def _pull_exponent(g: Tensor, out: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
    constant = (x1 == 0) & (x2 >= 0)  # there 0 ** x2 does not depend on x2 > 0
    found: Tensor = blocked(g * (out * log(where(constant, 1, x1))), constant)
    return found


@binary(
    _pull_base,
    _pull_exponent,
    dtypes=FLOATS,
    domain=(0.5, 2.0),
    ufunc=np.power,
    scalar="x1 ** x2",
    reads=("x1 x2", "out x1 x2"),
)
def pow(x1: Array, x2: Array, /) -> Array:
    """Return each element of the first raised to the power in the second.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.pow(ln.asarray([2.0, 3.0]), 2).tolist()
    [4.0, 9.0]
    """
    if type(x2) in (int, float) and getattr(x1, "dtype", None) in _FLOATS:
        return _power(x1, x2)
    return np.power(x1, x2)


def share(g: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
    """Return the gradient where not ``x1 < x2`` (also for NaN), half of it where both are equal, else 0."""
    found: Tensor = blocked(where(x1 == x2, g / 2, g), x1 < x2)
    return found


@binary(
    lambda g, out, x1, x2: share(g, x1, x2),
    lambda g, out, x1, x2: share(g, x2, x1),
    ufunc=np.maximum,
    scalar="maximum(x1, x2)",
    reads="x1 x2",
)
def maximum(x1: Array, x2: Array, /) -> Array:
    """Return the greater of each pair of elements; where they are equal, each gets half of the gradient.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.maximum(ln.asarray([-1, 2]), 0).tolist()
    [0, 2]
    """


@unary(lambda g, out, x: -g, dtypes=NUMBERS, ufunc=np.negative, scalar="-x", reads="")
def negative(x: Array, /) -> Array:
    """Return the negative of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.negative(ln.asarray([1, -2])).tolist()
    [-1, 2]
    """


# Exponential and related


@unary(lambda g, out, x: g * out, ufunc=np.exp, scalar="math.exp(x)", elementwise=True, reads="out")
def exp(x: Array, /) -> Array:
    """Return the exponential of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.exp(ln.asarray([0.0])).tolist()
    [1.0]
    """
    return exponential.exp(x)


@unary(lambda g, out, x: g / x, domain=(0.5, 3.0), ufunc=np.log, scalar="math.log(x)", reads="x")
def log(x: Array, /) -> Array:
    """Return the natural logarithm of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.log(ln.asarray([1.0])).tolist()
    [0.0]
    """


@unary(lambda g, out, x: g / (2 * out), domain=(0.5, 3.0), ufunc=np.sqrt, scalar="math.sqrt(x)", reads="out")
def sqrt(x: Array, /) -> Array:
    """Return the square root of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.sqrt(ln.asarray([4.0])).tolist()
    [2.0]
    """


@unary(lambda g, out, x: g * (1 - out * out), ufunc=np.tanh, scalar="math.tanh(x)", reads="out")
def tanh(x: Array, /) -> Array:
    """Return the hyperbolic tangent of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.tanh(ln.asarray([0.0])).tolist()
    [0.0]
    """


# Activations


@unary(lambda g, out, x: blocked(g, out <= 0), scalar="relu(x)", public=False, reads="out")
def relu(x: Array, /) -> Array:
    """Return each element where it is positive, else 0.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.relu(ln.asarray([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return np.maximum(x, 0)


@unary(lambda g, out, x: g * out * (1 - out), scalar="sigmoid(x)", public=False, reads="out")
def sigmoid(x: Array, /) -> Array:
    """Return the logistic function ``1 / (1 + exp(-x))`` of each element, without overflow.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.sigmoid(ln.asarray([0.0, -1000.0])).tolist()
    [0.5, 0.0]
    """
    x = in_floats(x)
    small = exponential.exponential(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


# Choice


def _pull_chosen(g: Any, out: Any, condition: Any, x1: Any, x2: Any) -> Any:
    return kept(g, condition)


def _pull_rejected(g: Any, out: Any, condition: Any, x1: Any, x2: Any) -> Any:
    return blocked(g, condition)


@op(
    None,
    _fitted(_pull_chosen, 1),
    _fitted(_pull_rejected, 2),
    samples=TERNARY_SAMPLES,
    inputs=3,
    scalar="x1 if condition else x2",
    elementwise=False,
    reads=("", "condition", "condition"),
)
def where(condition: Array, x1: Array, x2: Array, /) -> Array:
    """Return the elements of `x1` where `condition` holds, else of `x2`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.where(ln.asarray([True, False]), 1, 0).tolist()
    [1, 0]
    """
    if type(x1) in PYTHON and type(x2) in PYTHON:
        x1, x2 = [x.array for x in as_tensors((x1, x2))]
    return np.where(condition, x1, x2)
