"""Padding of signals and images."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.errors import ShapeError
from labnet.tensor import Tensor

#: NumPy's names of torch's padding modes.
_MODES: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """Pad the last dimensions; negative widths cut off.

    Parameters
    ----------
    x : tensor
    pad : sequence of int
        Before and behind the last dimension, then the one before it, and so on.
    mode : "constant", "reflect", "replicate" or "circular"
    value : float
        The constant.

    Raises
    ------
    ShapeError
        If the widths do not fit the tensor.
    ValueError
        If the mode is unknown.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.pad(ln.asarray([[1.0, 2.0, 3.0]]), (1, 1), mode="reflect").tolist()
    [[2.0, 1.0, 2.0, 3.0, 2.0]]
    """
    if mode != "constant" and mode not in _MODES:
        raise ValueError(f"pad: expected mode 'constant', {', '.join(map(repr, _MODES))}, got {mode!r}")
    widths = list(zip(pad[::2], pad[1::2], strict=False))[::-1]
    if len(pad) % 2 or len(widths) > x.ndim:
        raise ShapeError(f"pad: expected two widths for each of at most {x.ndim} dimensions, got {tuple(pad)}")
    widths = [(0, 0)] * (x.ndim - len(widths)) + widths
    if mode == "constant":
        cut = tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(widths, x.shape, strict=True))
        x = x[cut] if any(width < 0 for both in widths for width in both) else x
        grown = tuple((max(a, 0), max(b, 0)) for a, b in widths)
        return ops.pad(x, grown, constant_values=value)
    for axis, ((before, behind), size) in enumerate(zip(widths, x.shape, strict=True)):
        if before or behind:
            most = {"reflect": size - 1, "circular": size}.get(mode, math.inf)
            if max(before, behind) > most:
                raise ShapeError(f"pad: mode {mode!r} takes at most {most} for shape {x.shape}, got {(before, behind)}")
            places = np.pad(np.arange(size), (max(before, 0), max(behind, 0)), mode=_MODES[mode])
            x = ops.take(x, places[max(-before, 0) : len(places) - max(-behind, 0)], axis=axis)
    return x
