"""Differences of weights on the wire: float32, bfloat16, or integers of 8 bits with a scale for each tensor."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from labnet import wire
from labnet.tensor import Tensor

Array = np.ndarray[Any, Any]
#: Key of the metadata with the scales of integers.
SCALES = "scales"
_LARGEST = 127
#: Bounds of scales: the least and the greatest normal float32.
_LEAST, _MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def encode(differences: Mapping[str, Array], dtype: str | None) -> tuple[wire.Body, dict[str, Array]]:
    """Return the body of differences, and what rounding takes from each, to be added to the next ones.

    Parameters
    ----------
    differences : mapping of str to ndarray
        Of floats.
    dtype : None, "bfloat16" or "int8"

    Examples
    --------
    >>> body, left = encode({"weight": np.float32([1.0, 0.5])}, "int8")
    >>> round(float(left["weight"][1]), 4)
    -0.0039
    """
    if dtype == "int8":
        scales = {n: max(float(np.max(np.abs(d), initial=0.0)) / _LARGEST, _LEAST) for n, d in differences.items()}
        whole = {name: np.rint(d / scales[name]).astype(np.int8) for name, d in differences.items()}
        message = wire.Message(
            {n: Tensor(w) for n, w in whole.items()}, named=True, metadata={SCALES: json.dumps(scales)}
        )
        sent = {name: tensor.numpy() for name, tensor in dequantize(message.tensors, message.metadata[SCALES]).items()}
        return wire.encode_native(message), {name: d - sent[name] for name, d in differences.items()}
    message = wire.Message({name: Tensor(d) for name, d in differences.items()}, named=True)
    body = wire.encode_native(message, bfloat16=dtype == "bfloat16")
    if dtype is None:
        return body, {}
    rounded = wire.decode_native(b"".join(body.parts)).tensors
    return body, {name: d - rounded[name].numpy() for name, d in differences.items()}


def dequantize(tensors: Mapping[str, Tensor], scales: str) -> dict[str, Tensor]:
    """Return integers times their scales as float32.

    Raises
    ------
    ValueError
        If a scale is missing, or no positive finite number.
    """
    try:
        factors = msgspec.json.decode(scales, type=dict[str, float])
    except msgspec.DecodeError as error:
        raise ValueError(f"expected a number for each tensor: {error}") from None
    if factors.keys() != tensors.keys():
        raise ValueError(f"expected a number for each of {sorted(tensors)}, got {scales:.60}")
    for name, factor in factors.items():
        if not 0 < factor <= _MOST:
            raise ValueError(f"expected a positive number of float32 for {name!r}, got {factor!r:.40}")
    return {
        name: Tensor(tensor.numpy().astype(np.float32) * np.float32(factors[name])) for name, tensor in tensors.items()
    }
