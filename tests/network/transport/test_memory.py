"""Memory of bodies is used again, and never while somebody still reads it."""

import gc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import labnet as ln
from labnet.network.transport.buffers import _MOST_BYTES, Memory
from tests.helpers.network.client_calls import fetch

SIZES = st.sampled_from([0, 1, 1000, 1 << 16, 100_000, 131_072, 1 << 20, _MOST_BYTES, _MOST_BYTES + 1])


@given(st.lists(st.tuples(SIZES, st.sampled_from(["keep", "drop", "view", "slice"])), max_size=40))
def test_what_is_held_is_never_handed_out_again(steps):
    memory, held = Memory(), []
    for number, (size, what) in enumerate(steps):
        block = memory.take(size)
        assert len(block) == size
        block[:1] = bytes([number % 251]) if size else b""
        block[-1:] = bytes([number % 241]) if size else b""
        if what == "view":
            held.append((number, np.frombuffer(block, np.uint8)))
        elif what == "keep":
            held.append((number, block))
        elif what == "slice":
            held.append((number, block.toreadonly()))
        del block
        assert memory.nbytes <= _MOST_BYTES
    for number, block in held:
        if len(block):
            assert block[-1] == number % 241
            assert len(block) == 1 or block[0] == number % 251


def test_a_tensor_that_a_handler_keeps_is_not_overwritten_by_later_requests():
    kept = []
    with ln.network.serve({"keep": lambda x: kept.append(x)}, port=0) as server:
        for number in range(6):
            fetch(server.url + "/keep", np.full(50_000, number, "float32"))
    assert [(x.numpy() == number).all() for number, x in enumerate(kept)] == [True] * 6


def test_a_reply_that_a_client_keeps_is_not_overwritten_by_later_replies():
    with ln.network.serve({"echo": lambda x: x}, port=0) as server:
        replies = [fetch(server.url + "/echo", np.full(50_000, number, "float32")) for number in range(6)]
        parts = [reply[100:200] for reply in replies]
        del replies
        gc.collect()
        for number in range(6):
            fetch(server.url + "/echo", np.full(50_000, -number - 1, "float32"))
    assert [(part.numpy() == number).all() for number, part in enumerate(parts)] == [True] * 6
