"""float16 arithmetic in float32, because sums, squares and counts overflow float16.

Single operations round once in either precision. An op of several operations works on float32 copies and rounds its
result, as torch does; so do all gradient rules.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

HALF, SINGLE = np.dtype("float16"), np.dtype("float32")


def wider(values: Sequence[Any]) -> list[Any]:
    """Convert float16 arrays or tensors to float32; return others unchanged.

    Examples
    --------
    >>> [x.dtype.name for x in wider([np.zeros(1, "float16"), np.zeros(1)])]
    ['float32', 'float64']
    """
    return [x.astype(SINGLE) if getattr(x, "dtype", None) == HALF else x for x in values]


def widened(body: Callable[..., Any]) -> Callable[..., Any]:
    """Make an op compute in float32 for float16 arrays; ``dtype=`` still decides the result.

    Examples
    --------
    >>> total = widened(lambda x: np.add.reduce(x * x))
    >>> total(np.full(3, 100, "float16")).dtype.name
    'float16'
    """

    @functools.wraps(body)
    def forward(*arrays: Any, **static: Any) -> Any:
        for array in arrays:
            if getattr(array, "dtype", None) == HALF:
                break
        else:
            return body(*arrays, **static)
        kinds = {array.dtype for array in arrays if hasattr(array, "dtype")}
        found = body(*wider(arrays), **static)
        return found if len(kinds) > 1 or static.get("dtype") is not None else found.astype(HALF)

    return forward


def widened_rule(rule: Callable[..., Any], position: int) -> Callable[..., Any]:
    """Make a gradient rule compute in float32; its result has the dtype of the input at a position."""

    def vjp(g: Any, out: Any, *inputs: Any, **static: Any) -> Any:
        return rule(*wider((g, out, *inputs)), **static).astype(inputs[position].dtype)

    return vjp
