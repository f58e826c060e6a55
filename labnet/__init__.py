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

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from labnet import errors, loss, nn, ops, optim
from labnet.autograd import Gradients, no_grad
from labnet.ops import (
    add,
    argmax,
    astype,
    broadcast_to,
    divide,
    equal,
    exp,
    expand_dims,
    grad,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    matmul,
    matrix_transpose,
    max,
    maximum,
    mean,
    multiply,
    negative,
    not_equal,
    permute_dims,
    pow,
    reshape,
    sqrt,
    subtract,
    sum,
    tanh,
    where,
)
from labnet.ops.creation import (
    arange,
    asarray,
    full,
    manual_seed,
    ones,
    ones_like,
    rand,
    randn,
    zeros,
    zeros_like,
)
from labnet.tensor import DTYPES, Tensor

if TYPE_CHECKING:
    from labnet import io, jupyter, network

try:
    __version__ = version("labnet")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

bool = DTYPES["bool"]
int8, int16, int32, int64 = (DTYPES[f"int{bits}"] for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (DTYPES[f"uint{bits}"] for bits in (8, 16, 32, 64))
float16, float32, float64 = (DTYPES[f"float{bits}"] for bits in (16, 32, 64))

#: Rooms that are imported on first use, because Tornado, Jupyter or safetensors come with them.
_LAZY = ("io", "jupyter", "network")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"labnet.{name}")
    raise AttributeError(f"module 'labnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; called by ``%load_ext labnet``."""
    import_module("labnet.jupyter").register(shell)


__all__ = [
    "Gradients",
    "Tensor",
    "add",
    "arange",
    "argmax",
    "asarray",
    "astype",
    "bool",
    "broadcast_to",
    "divide",
    "equal",
    "errors",
    "exp",
    "expand_dims",
    "float16",
    "float32",
    "float64",
    "full",
    "grad",
    "greater",
    "greater_equal",
    "int8",
    "int16",
    "int32",
    "int64",
    "io",
    "jupyter",
    "less",
    "less_equal",
    "load_ipython_extension",
    "log",
    "loss",
    "manual_seed",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "multiply",
    "negative",
    "network",
    "nn",
    "no_grad",
    "not_equal",
    "ones",
    "ones_like",
    "ops",
    "optim",
    "permute_dims",
    "pow",
    "rand",
    "randn",
    "reshape",
    "sqrt",
    "subtract",
    "sum",
    "tanh",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "where",
    "zeros",
    "zeros_like",
]
