"""Bodies of the Open Inference Protocol, version 2: JSON, and its extension for binary data.

A request is one JSON object. The data of a tensor is either in it, as nested or flat numbers, or follows it as
little-endian bytes in the order of the inputs. This module is independent of models and HTTP.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from labnet import codec, json_codec, wire
from labnet.codec import Array, Part
from labnet.errors import WireError

#: Path prefix of the protocol.
ROOT = "/v2"
#: Header with the number of JSON bytes in a body.
JSON_LENGTH = "Inference-Header-Content-Length"
#: Datatypes of the protocol; BF16 is widened to float32.
DATATYPES = {
    "BOOL": np.dtype("bool"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
DATATYPE_OF = {dtype: name for name, dtype in DATATYPES.items()}
_BFLOAT16 = "BF16"
_MAX_DIMENSIONS = 64
#: How many numbers are converted in one call.
_PIECE = 1 << 15
_NUMBERS = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}


@dataclass(frozen=True)
class Inference:
    """An inference request.

    Attributes
    ----------
    id : str or None
        Repeated in the reply.
    inputs : dict of str to ndarray
    outputs : dict of str to bool, or None
        Names of the requested outputs, and whether each is requested as bytes; None requests all.
    binary : bool
        Whether outputs are sent as bytes by default.
    """

    id: str | None
    inputs: dict[str, Array]
    outputs: dict[str, bool] | None
    binary: bool


def is_below(path: str) -> bool:
    """Return whether a path belongs to this protocol.

    Examples
    --------
    >>> is_below("/v2/health/live"), is_below("/v2x")
    (True, False)
    """
    return path == ROOT or path.startswith(ROOT + "/")


def decode(body: bytes | bytearray | memoryview, json_length: str | None) -> Inference:
    """Read a request; `json_length` is the value of the header `JSON_LENGTH`.

    Raises
    ------
    WireError
        If it is malformed or asks for an unavailable feature.

    Examples
    --------
    >>> decode(b'{"inputs": [{"name": "x", "shape": [2], "datatype": "INT8", "data": [1, 2]}]}', None).inputs
    {'x': array([1, 2], dtype=int8)}
    """
    view = memoryview(body)
    length = len(view) if json_length is None else _length(json_length, len(view))
    document = _document(view[:length])
    data = view[length:]
    inputs: dict[str, Array] = {}
    for entry in _entries(document, "inputs"):
        name = _name(entry, inputs)
        inputs[name], taken = _tensor(name, entry, data)
        data = data[taken:]
    if not inputs:
        raise WireError("'inputs' is empty: expected at least one tensor")
    if len(data):
        raise WireError(f"{len(data)} bytes follow the data of the inputs")
    binary = _flag(_parameters(document, "the request"), "binary_data_output", otherwise=False)
    outputs: dict[str, bool] = {}
    for entry in _entries(document, "outputs") if "outputs" in document else ():
        name = _name(entry, outputs)
        given = _parameters(entry, f"output {name!r:.80}", refused=("classification", "shared_memory_region"))
        outputs[name] = _flag(given, "binary_data", otherwise=binary)
    identity = document.get("id")
    if not isinstance(identity, str | None):
        raise WireError(f"'id' must be a string, got {identity!r:.40}")
    return Inference(identity, inputs, outputs if "outputs" in document else None, binary)


def encode(head: Mapping[str, Any], outputs: Mapping[str, tuple[Array, bool]]) -> tuple[wire.Body, int | None]:
    """Return the body of a reply, and the length of its JSON if bytes follow.

    Parameters
    ----------
    head : mapping
        Fields of the reply besides its outputs.
    outputs : mapping of str to (ndarray, bool)
        Each output, and whether it is sent as bytes.
    """
    described: list[dict[str, Any]] = []
    parts: list[Part] = []
    for name, (array, binary) in outputs.items():
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        entry: dict[str, Any] = {"name": name, "datatype": DATATYPE_OF[plain.dtype], "shape": list(array.shape)}
        if binary:
            entry["parameters"] = {"binary_data_size": plain.nbytes}
            if plain.nbytes:
                parts.append(plain.reshape(-1).view(np.uint8).data)
        else:
            entry["data"] = plain.reshape(-1)
        described.append(entry)
    text = wire.encode_json({**head, "outputs": described})
    if any(binary for _, binary in outputs.values()):
        return wire.Body(wire.BYTES, [*text.parts, *parts]), text.nbytes
    return text, None


def _length(text: str, available: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > available:
        raise WireError(f"{JSON_LENGTH} is {text!r:.40}: expected a number of at most {available}, the body's length")
    return int(text)


def _document(text: memoryview) -> dict[str, Any]:
    try:
        document = json_codec.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"the request is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise WireError(f"the request is a JSON {type(document).__name__}: expected an object")
    return document


def _entries(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise WireError(f"{key!r} must be a list of objects, got {entries!r:.60}")
    return entries


def _name(entry: dict[str, Any], seen: Mapping[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not name or name in seen:
        raise WireError(f"a tensor needs a 'name' of its own, got {name!r:.80}")
    return name


def _parameters(entry: dict[str, Any], what: str, *, refused: Sequence[str] = ()) -> dict[str, Any]:
    given = entry.get("parameters", {})
    if not isinstance(given, dict):
        raise WireError(f"'parameters' of {what} must be an object, got {given!r:.60}")
    for name in refused:
        if given.get(name):
            raise WireError(f"{what}: the parameter {name!r} is not available on this server")
    return given


def _flag(parameters: dict[str, Any], name: str, *, otherwise: bool) -> bool:
    value = parameters.get(name, otherwise)
    if not isinstance(value, bool):
        raise WireError(f"the parameter {name!r} must be true or false, got {value!r:.40}")
    return value


def _tensor(name: str, entry: dict[str, Any], behind: memoryview) -> tuple[Array, int]:
    """Return one input, and the number of bytes that it used after the JSON."""
    parameters = _parameters(entry, f"input {name!r:.80}", refused=("shared_memory_region",))
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if not isinstance(datatype, str) or datatype not in {*DATATYPES, _BFLOAT16}:
        known = ", ".join([*DATATYPES, _BFLOAT16])
        raise WireError(f"datatype of input {name!r:.80} is {datatype!r:.40}: expected one of {known}")
    is_shape = isinstance(shape, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in shape)
    if not isinstance(shape, list) or not is_shape or len(shape) > _MAX_DIMENSIONS:
        raise WireError(f"shape of input {name!r:.80} must be at most {_MAX_DIMENSIONS} sizes, got {shape!r:.80}")
    size = parameters.get("binary_data_size")
    if (size is None) == ("data" not in entry):
        raise WireError(f"input {name!r:.80} needs either 'data' or the parameter 'binary_data_size'")
    if size is None:
        return _from_numbers(name, entry["data"], datatype, shape), 0
    return _from_bytes(name, size, datatype, shape, behind), size


def _from_bytes(name: str, size: Any, datatype: str, shape: list[int], behind: memoryview) -> Array:
    narrow = datatype == _BFLOAT16
    dtype = np.dtype("<u2") if narrow else DATATYPES[datatype]
    bound = math.prod(max(length, 1) for length in shape) * dtype.itemsize
    if type(size) is not int or bound >= 1 << 63 or size != math.prod(shape) * dtype.itemsize or size > len(behind):
        raise WireError(
            f"input {name!r:.80} of shape {shape} and datatype {datatype} takes {math.prod(shape) * dtype.itemsize} "
            f"bytes: binary_data_size is {size!r:.40}, and {len(behind)} bytes are left"
        )
    stored = codec.view_of(behind[:size], dtype, tuple(shape))
    return codec.from_bfloat16(stored) if narrow else stored


def _from_numbers(name: str, data: Any, datatype: str, shape: list[int]) -> Array:
    dtype = DATATYPES.get(datatype, np.dtype("float32"))
    flat = _flatten(name, data)
    kinds = _NUMBERS[dtype.kind]
    if any(type(value) not in kinds for value in flat):
        wrong = next(value for value in flat if type(value) not in kinds)
        raise WireError(f"data of input {name!r:.80} holds {wrong!r:.40}, which is no {datatype}")
    if len(flat) != math.prod(shape):
        raise WireError(f"data of input {name!r:.80} holds {len(flat)} numbers: shape {shape} has {math.prod(shape)}")
    try:
        with np.errstate(over="raise"):
            made = np.empty(len(flat), dtype)
            for start in range(0, len(flat), _PIECE):  # one call for all would block every thread
                made[start : start + _PIECE] = np.array(flat[start : start + _PIECE], dtype)
            return made.reshape(shape)
    except (OverflowError, FloatingPointError, ValueError) as error:
        raise WireError(f"data of input {name!r:.80} does not fit {datatype} of shape {shape}: {error}") from None


def _flatten(name: str, data: Any) -> list[Any]:
    """Flatten evenly nested lists of numbers in row-major order."""
    for _ in range(_MAX_DIMENSIONS):
        if not isinstance(data, list):
            break
        if not data or not any(isinstance(item, list) for item in data):
            return data
        if not all(isinstance(item, list) and len(item) == len(data[0]) for item in data):
            break
        data = list(itertools.chain.from_iterable(data))
    raise WireError(f"data of input {name!r:.80} must be a list, flat or nested evenly")
