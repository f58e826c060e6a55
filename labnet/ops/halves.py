"""float16: what is computed in float32 for it, since sums, squares and counts do not fit.

Single operations round once either way. Where one op does several, it works on float32 copies and its result is
rounded at the end, as torch does; so do all gradient rules.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

HALF, SINGLE = np.dtype("float16"), np.dtype("float32")


def wider(values: Sequence[Any]) -> list[Any]:
    """Return arrays, or tensors, with those of float16 in float32.

    Examples
    --------
    >>> [x.dtype.name for x in wider([np.zeros(1, "float16"), np.zeros(1)])]
    ['float32', 'float64']
    """
    return [x.astype(SINGLE) if getattr(x, "dtype", None) == HALF else x for x in values]


def widened(body: Callable[..., Any]) -> Callable[..., Any]:
    """Have the body of an op compute in float32 where its arrays are float16; ``dtype=`` still decides the result.

    Examples
    --------
    >>> total = widened(lambda x: np.add.reduce(x * x))
    >>> total(np.full(3, 100, "float16")).dtype.name
    'float16'
    """

    @functools.wraps(body)
    def forward(*arrays: Any, **static: Any) -> Any:
        kinds = {array.dtype for array in arrays if hasattr(array, "dtype")}
        if HALF not in kinds:
            return body(*arrays, **static)
        found = body(*wider(arrays), **static)
        return found if len(kinds) > 1 or static.get("dtype") is not None else found.astype(HALF)

    return forward


def widened_rule(rule: Callable[..., Any], position: int) -> Callable[..., Any]:
    """Have a gradient rule compute in float32; what it returns has the dtype of the input at a position."""

    def vjp(g: Any, out: Any, *inputs: Any, **static: Any) -> Any:
        return rule(*wider((g, out, *inputs)), **static).astype(inputs[position].dtype)

    return vjp
