"""labnet: a lab bench in the notebook for networked, trainable models.

Define a model, serve it from inside the kernel, train it over HTTP as if it were a local differentiable
function, and watch it live::

    import labnet as ln

    model = ln.nn.Sequential(ln.nn.Linear(64, 32), ln.nn.relu, ln.nn.Linear(32, 10))
    server = ln.network.serve_model(model, ln.optim.Adam(lr=1e-2), port=3000)

and, anywhere else::

    model = ln.network.remote_model("localhost:3000")
    loss = ln.loss.cross_entropy(await model(x), labels)
    await loss.backward()
"""

import math
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from labnet import errors, loss, nn, ops, optim, stats
from labnet.autograd import Gradients, no_grad
from labnet.device import get_device, set_device
from labnet.ops import (
    abs,
    acos,
    acosh,
    add,
    all,
    any,
    argmax,
    argmin,
    argsort,
    asin,
    asinh,
    astype,
    atan,
    atan2,
    atanh,
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    broadcast_arrays,
    broadcast_to,
    ceil,
    clip,
    concat,
    copysign,
    cos,
    cosh,
    count_nonzero,
    cumulative_prod,
    cumulative_sum,
    diff,
    divide,
    equal,
    erf,
    exp,
    expand_dims,
    expm1,
    flip,
    floor,
    floor_divide,
    grad,
    greater,
    greater_equal,
    hypot,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    matmul,
    matrix_transpose,
    max,
    maximum,
    mean,
    median,
    meshgrid,
    min,
    minimum,
    moveaxis,
    multiply,
    negative,
    nextafter,
    nonzero,
    not_equal,
    pad,
    permute_dims,
    positive,
    pow,
    prod,
    reciprocal,
    remainder,
    repeat,
    reshape,
    roll,
    round,
    searchsorted,
    sign,
    signbit,
    sin,
    sinh,
    sort,
    sqrt,
    square,
    squeeze,
    stack,
    std,
    subtract,
    sum,
    take,
    take_along_axis,
    tan,
    tanh,
    tensordot,
    tile,
    tril,
    triu,
    trunc,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
    unstack,
    var,
    vecdot,
    vector_norm,
    where,
)
from labnet.ops.core.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    from_dlpack,
    full,
    full_like,
    linspace,
    manual_seed,
    ones,
    ones_like,
    rand,
    randn,
    zeros,
    zeros_like,
)
from labnet.ops.core.dtypes import (
    __array_namespace_info__,
    can_cast,
    finfo,
    iinfo,
    isdtype,
    result_type,
)
from labnet.tensor import DTYPES, Tensor

if TYPE_CHECKING:
    from labnet import cluster as cluster
    from labnet import io, jupyter, network
    from labnet import testing as testing
    from labnet.compile import jit
    from labnet.jupyter.progress import progress
    from labnet.ops.custom import custom_vjp, op

try:
    __version__ = version("labnet")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

#: The version of the array API standard that this namespace follows.
__array_api_version__ = "2024.12"

e, pi, inf, nan, newaxis = math.e, math.pi, math.inf, math.nan, None
bool = DTYPES["bool"]
int8, int16, int32, int64 = (DTYPES[f"int{bits}"] for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (DTYPES[f"uint{bits}"] for bits in (8, 16, 32, 64))
float16, float32, float64 = (DTYPES[f"float{bits}"] for bits in (16, 32, 64))

#: Functions whose module is imported on first use.
_LAZY_NAMES = {
    "custom_vjp": "labnet.ops.custom",
    "jit": "labnet.compile",
    "op": "labnet.ops.custom",
    "progress": "labnet.jupyter",
}
#: Sub-packages that are imported on first use, because they import Dask, Tornado, Jupyter or what files need.
_LAZY = ("cluster", "io", "jupyter", "network", "testing")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"labnet.{name}")
    if name in _LAZY_NAMES:
        return getattr(import_module(_LAZY_NAMES[name]), name)
    raise AttributeError(f"module 'labnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_LAZY_NAMES})


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; called by ``%load_ext labnet``."""
    import_module("labnet.jupyter").register(shell)


__all__ = [
    "Gradients",
    "Tensor",
    "__array_namespace_info__",
    "abs",
    "acos",
    "acosh",
    "add",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "argsort",
    "asarray",
    "asin",
    "asinh",
    "astype",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "bool",
    "broadcast_arrays",
    "broadcast_to",
    "can_cast",
    "ceil",
    "clip",
    "concat",
    "copysign",
    "cos",
    "cosh",
    "count_nonzero",
    "cumulative_prod",
    "cumulative_sum",
    "custom_vjp",
    "diff",
    "divide",
    "e",
    "empty",
    "empty_like",
    "equal",
    "erf",
    "errors",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "finfo",
    "flip",
    "float16",
    "float32",
    "float64",
    "floor",
    "floor_divide",
    "from_dlpack",
    "full",
    "full_like",
    "get_device",
    "grad",
    "greater",
    "greater_equal",
    "hypot",
    "iinfo",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "io",
    "isdtype",
    "isfinite",
    "isinf",
    "isnan",
    "jit",
    "jupyter",
    "less",
    "less_equal",
    "linspace",
    "load_ipython_extension",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "loss",
    "manual_seed",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "median",
    "meshgrid",
    "min",
    "minimum",
    "moveaxis",
    "multiply",
    "nan",
    "negative",
    "network",
    "newaxis",
    "nextafter",
    "nn",
    "no_grad",
    "nonzero",
    "not_equal",
    "ones",
    "ones_like",
    "op",
    "ops",
    "optim",
    "pad",
    "permute_dims",
    "pi",
    "positive",
    "pow",
    "prod",
    "progress",
    "rand",
    "randn",
    "reciprocal",
    "remainder",
    "repeat",
    "reshape",
    "result_type",
    "roll",
    "round",
    "searchsorted",
    "set_device",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sort",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "stats",
    "std",
    "subtract",
    "sum",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "tensordot",
    "testing",
    "tile",
    "tril",
    "triu",
    "trunc",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
    "unstack",
    "var",
    "vecdot",
    "vector_norm",
    "where",
    "zeros",
    "zeros_like",
]
