"""Decoders under random and mutated bytes: nothing but a tensor of the expected size or a WireError."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.decoders import DECODERS, one_input, seeds

SEEDS = seeds()


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: DECODERS[seed[0]].__name__)
def test_every_decoder_reads_its_seed(seed):
    assert DECODERS[seed[0]](seed[1:])


@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_random_bytes(data):
    one_input(data)


@settings(max_examples=1000)
@given(st.sampled_from(SEEDS), st.data())
def test_mutations_of_valid_bodies(seed, data):
    body = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(1, len(body) - 1))
        kind = data.draw(st.sampled_from(["flip", "insert", "delete", "cut"]))
        if kind == "flip":
            body[position] = data.draw(st.sampled_from(b"\0\xff\x80 {}[]\",:0123456789-.eE'") | st.integers(0, 255))
        elif kind == "insert":
            body[position:position] = data.draw(
                st.binary(max_size=8) | st.sampled_from([b"9" * 30, b"[" * 99, b"1e400"])
            )
        elif kind == "delete":
            del body[position : position + data.draw(st.integers(1, 8))]
        else:
            del body[position:]
        if len(body) < 2:
            break
    one_input(bytes(body))
