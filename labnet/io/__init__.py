"""Tensors in files, as bytes and as text."""

from labnet.io.files import decode, decode_base64, encode, encode_base64, load, read_metadata, save
from labnet.io.text import format, parse

__all__ = [
    "decode",
    "decode_base64",
    "encode",
    "encode_base64",
    "format",
    "load",
    "parse",
    "read_metadata",
    "save",
]
