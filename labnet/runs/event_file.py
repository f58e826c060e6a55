"""Event files, as TensorBoard reads them: TFRecords of ``Event`` messages in the format of Protocol Buffers."""

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5
_POLYNOMIAL = 0x82F63B78


def write_event_file(folder: Path, metrics: Mapping[str, tuple[list[int], list[float]]], *, at: float) -> Path:
    """Write scalars as float32 to a new event file; `at`, the start of the run in seconds since 1970, names it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{at:.6f}.labnet"
    with path.open("wb") as file:
        for event in _events(metrics, at):
            length = struct.pack("<Q", len(event))
            file.write(length + _masked_crc(length) + event + _masked_crc(event))
    return path


def _events(metrics: Mapping[str, tuple[list[int], list[float]]], at: float) -> Iterator[bytes]:
    time = _field(1, _DOUBLE) + struct.pack("<d", at)
    yield time + _message(3, b"brain.Event:2")
    for metric, (steps, values) in metrics.items():
        for step, value in zip(steps, values, strict=True):
            scalar = _message(1, metric.encode()) + _field(2, _FLOAT) + _float32(value)
            yield time + _field(2, _VARINT) + _varint(step) + _message(5, _message(1, scalar))


def _float32(value: float) -> bytes:
    """Encode a number; beyond the range of float32 it is infinite.

    Examples
    --------
    >>> _float32(-1e300) == _float32(float("-inf"))
    True
    """
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


def _field(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _message(number: int, content: bytes) -> bytes:
    return _field(number, _BYTES) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Encode a number from 0 on, 7 bits a byte.

    Examples
    --------
    >>> _varint(300).hex()
    'ac02'
    """
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _table() -> Iterator[int]:
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        yield byte


_TABLE = tuple(_table())


def crc32c(content: bytes) -> int:
    """Return the checksum CRC-32C (Castagnoli).

    Examples
    --------
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    remainder = 0xFFFFFFFF
    for byte in content:
        remainder = remainder >> 8 ^ _TABLE[(remainder ^ byte) & 0xFF]
    return remainder ^ 0xFFFFFFFF


def _masked_crc(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
