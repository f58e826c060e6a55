"""Batches of rows: order, shuffling, the last one."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import ShapeError


def test_rows_stay_together_and_the_last_batch_has_the_rest():
    x, y = np.arange(10.0).reshape(5, 2), ln.arange(5)
    found = list(ln.batches(x, y, 2))
    assert [(a.shape, b.tolist()) for a, b in found] == [((2, 2), [0, 1]), ((2, 2), [2, 3]), ((1, 2), [4])]
    assert found[2][0].tolist() == [[8.0, 9.0]]
    assert len(ln.batches(x, y, 2)) == 3
    assert [b.tolist() for _, b in ln.batches(x, y, size=2, drop_last=True)] == [[0, 1], [2, 3]]
    assert [b.tolist() for b in ln.batches(y, 3)] == [[0, 1, 2], [3, 4]]


def test_each_loop_has_a_new_order_that_a_seed_repeats():
    y = ln.arange(20)
    first, second = ln.batches(y, y * 2, 6, shuffle=True, seed=1), ln.batches(y, y * 2, 6, shuffle=True, seed=1)
    orders = [[a.tolist() for a, b in loop if (b == a * 2).all()] for loop in (first, first, second)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(row for batch in orders[0] for row in batch) == list(range(20))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ln.batches(ln.ones(2), ln.ones(3), 1), ShapeError, r"\(2,\) and \(3,\)"),
        (lambda: ln.batches(ln.ones(2), 0), ShapeError, "size=0"),
        (lambda: ln.batches(ln.ones(2), ln.ones(2)), TypeError, "number of rows, got size Tensor"),
        (lambda: ln.batches(4), TypeError, "expected arrays"),
    ],
)
def test_misuse_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
