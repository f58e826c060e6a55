"""One entry to everything that reads bytes from the network, for the tests of decoders and for atheris."""

import contextlib
import json
import struct

import numpy as np

from labnet import wire
from labnet.errors import WireError
from labnet.network.protocol import inference_bodies
from labnet.network.protocol.differences import SCALES, dequantize, encode


def decode_inference(data):
    """Read a request of the Open Inference Protocol; its first two bytes say how much of it is JSON."""
    length = str(int.from_bytes(data[:2], "little")) if len(data) > 2 and data[0] else None
    return inference_bodies.decode(data[2:], length).inputs


def decode_differences(data):
    """Read differences of weights, with their scales where they have valid ones."""
    message = wire.decode_native(data)
    with contextlib.suppress(ValueError):
        return {n: t.numpy() for n, t in dequantize(message.tensors, message.metadata.get(SCALES, "")).items()}
    return message


DECODERS = (wire.decode_native, wire.decode_json, wire.decode_npy, decode_inference, decode_differences)
#: Bytes that a decoded tensor may take for each byte of the body: a digit in JSON is a number of 8 bytes.
GROWTH = 8


def one_input(data):
    """Give the bytes after the first to the decoder that the first one names; anything but WireError is a defect."""
    if not data:
        return
    with contextlib.suppress(WireError):
        found = DECODERS[data[0] % len(DECODERS)](data[1:])
        tensors = found if isinstance(found, dict) else {name: t.numpy() for name, t in found.tensors.items()}
        assert sum(tensor.nbytes for tensor in tensors.values()) <= GROWTH * len(data)


def seeds():
    """Return a valid body for each decoder, to begin from."""
    array = np.arange(4, dtype="float32").reshape(2, 2)
    native = wire.encode_native(wire.message_of({"a": array, "b": np.array(1)}, loss="1"))
    header = {"inputs": [{"name": "x", "shape": [2], "datatype": "INT8", "parameters": {"binary_data_size": 2}}]}
    text = json.dumps(header).encode()
    bodies = [
        b"".join(native.parts),
        b'{"a": [[1, 2.5], [true, 3e9]]}',
        b"".join(wire.encode_npy(array).parts),
        struct.pack("<H", len(text)) + text + b"\1\2",
        b"".join(encode({"a": array}, "int8")[0].parts),
    ]
    return [bytes([position]) + body for position, body in enumerate(bodies)]
