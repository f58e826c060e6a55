"""The signature of a call: structure, shapes, dtypes, devices and constants of its arguments."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet.compile.pytree import flatten
from labnet.compile.trace.locations import SCALARS
from labnet.compile.trace.origins import is_library, module_of
from labnet.device import CPU
from labnet.tensor import Tensor


def is_dynamic(x: Any) -> bool:
    """Return whether an argument is read at each call, rather than compiled as a constant."""
    return isinstance(x, Tensor | np.ndarray)


def _described(leaf: Any) -> Any:
    """Return the part of the signature for one leaf."""
    if is_dynamic(leaf):
        is_tensor = isinstance(leaf, Tensor)
        return leaf.shape, leaf.dtype, is_tensor and leaf.requires_grad, leaf.device if is_tensor else CPU
    kind = type(leaf)
    if isinstance(leaf, float | complex | np.generic):
        return kind, repr(leaf)  # -0.0 is another number than 0.0, and NaN the same as NaN
    hashes: Any = kind.__hash__
    if isinstance(leaf, SCALARS) or (is_library(module_of(kind)) and hashes not in (None, object.__hash__)):
        return kind, leaf
    return kind, id(leaf)


def signature(args: Sequence[Any], named: dict[str, Any]) -> Any:
    """Return a hashable key that is equal for calls that may share a compiled version."""
    leaves, structure = flatten((tuple(args), named))
    trained = [id(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    repeated = tuple(map(trained.index, trained)) if len(set(trained)) < len(trained) else ()
    return structure, repeated, *map(_described, leaves)


def repeats(found: Sequence[Any]) -> bool:
    """Return whether an object occurs twice."""
    return len(set(map(id, found))) < len(found)
