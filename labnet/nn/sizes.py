"""Checks of the numeric arguments of layers; each error names the layer, the argument and the expected values."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from labnet.ops.nn.windows import Padding

#: NumPy's own limit.
MAX_DIMENSIONS = 64


def size(layer: str, name: str, value: Any, *, least: int = 1) -> int:
    """Check and return a size as an integer.

    Raises
    ------
    TypeError
        If it is no integer; a bool is not accepted.
    ValueError
        If it is less than `least`.

    Examples
    --------
    >>> size("Linear", "in_features", 3)
    3
    >>> size("Linear", "in_features", -1)
    Traceback (most recent call last):
    ...
    ValueError: Linear: expected in_features of at least 1, got in_features=-1
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{layer}: expected {name} to be an integer, got {name}={value!r:.40} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{layer}: expected {name} of at least {least}, got {name}={value}")
    return int(value)


def sizes(layer: str, name: str, value: Any) -> tuple[int, ...]:
    """Return one size, or a non-empty sequence of sizes, as a tuple.

    Examples
    --------
    >>> sizes("LayerNorm", "normalized_shape", 3), sizes("LayerNorm", "normalized_shape", [2, 3])
    ((3,), (2, 3))
    """
    parts = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not parts:
        raise ValueError(f"{layer}: expected {name} to have at least one size, got {value!r}")
    return tuple(size(layer, name, part) for part in parts)


def window(layer: str, name: str, value: Any, *, least: int = 1, dims: int = 2) -> Any:
    """Check and return one size for all dimensions, or one for each, in its given form.

    Examples
    --------
    >>> window("Conv2d", "stride", 2), window("Conv2d", "stride", [2, 1])
    (2, (2, 1))
    """
    if isinstance(value, list | tuple):
        if len(value) != dims:
            count = {1: "", 2: " or two", 3: " or three"}[dims]
            raise ValueError(f"{layer}: expected {name} to be one size{count}, got {name}={value!r:.40}")
        return tuple(size(layer, name, part, least=least) for part in value)
    return size(layer, name, value, least=least)


def padding(layer: str, value: Any, *, stride: Any) -> Padding:
    """Check and return the padding of a convolution: sizes of at least 0, ``"same"`` (stride 1 only) or ``"valid"``.

    Examples
    --------
    >>> padding("Conv2d", "same", stride=1)
    'same'
    """
    if not isinstance(value, str):
        return window(layer, "padding", value, least=0)  # type: ignore[no-any-return]
    if value not in ("same", "valid"):
        raise ValueError(f"{layer}: expected padding to be sizes, 'same' or 'valid', got padding={value!r:.40}")
    if value == "same" and stride not in (1, (1, 1), (1, 1, 1)):
        raise ValueError(f"{layer}: expected stride 1 with padding='same', got stride={stride}")
    return value


def number(layer: str, name: str, value: Any, *, least: float = -math.inf, most: float = math.inf) -> float:
    """Check and return a number between two bounds.

    Raises
    ------
    TypeError
        If it is no number; a bool is not accepted.
    ValueError
        If it is outside of the bounds, or NaN.

    Examples
    --------
    >>> number("Dropout", "p", 0.5, least=0, most=1)
    0.5
    """
    if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
        value = value.item()
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{layer}: expected {name} to be a number, got {name}={value!r:.40} ({type(value).__name__})")
    if not least <= value <= most:
        bounds = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
        raise ValueError(f"{layer}: expected {name} {bounds}, got {name}={value}")
    return value


def probability(layer: str, name: str, value: Any) -> float:
    """Check and return a probability.

    Examples
    --------
    >>> probability("Dropout", "p", 1)
    1
    """
    return number(layer, name, value, least=0, most=1)
