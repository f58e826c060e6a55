"""Indices that are arrays: read, added to, and checked, wherever NumPy puts their dimensions."""

import numpy as np
import pytest

import labnet as ln

pytestmark = pytest.mark.usefixtures("plain_steps")
X = ln.asarray(np.arange(24.0).reshape(3, 4, 2).astype("float32"))
INDICES = ln.asarray([2, -1, 0])
KEYS = {
    "first": lambda i: i,
    "second": lambda i: (slice(None), i),
    "with a new dimension": lambda i: (i, None),
    "after a slice": lambda i: (slice(1, None), i),
    "both": lambda i: (i, i),
    "apart": lambda i: (i, slice(None, None, 2), i // 2),
    "after a number": lambda i: (0, i),
    "number apart": lambda i: (0, slice(None), i // 2),
    "broadcast": lambda i: (i[:, None], i),
    "behind an ellipsis": lambda i: (..., i // 2),
    "beside an array": lambda i: (i, np.array([1, 0, 1])),
}


@pytest.mark.parametrize("name", KEYS)
def test_reading_and_its_gradient_are_those_of_eager_code(name):
    weight = ln.asarray(X, dtype="float64", requires_grad=True)

    def run(i):
        out = weight[KEYS[name](i)]
        return out.detach(), ln.grad((out * out).sum(), weight)

    for got, expected in zip(ln.jit(run)(INDICES), run(INDICES), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_array_equal(got.numpy(), expected.numpy())


@pytest.mark.parametrize("wrong", [[3, 0, 0], [0, -4, 0]])
def test_positions_out_of_range_are_refused(wrong):
    read = ln.jit(lambda i: X[i])
    assert read(INDICES).shape == (3, 4, 2)
    with pytest.raises(IndexError, match=r"positions must lie in \[-3, 3\)"):
        read(ln.asarray(wrong))


def test_positions_that_are_computed_are_checked_before_anything_is_written():
    weight, optimizer = ln.asarray([1.0, 2.0, 3.0], requires_grad=True), ln.optim.SGD(lr=1.0)

    def train(i):
        loss = weight[i * 2].sum()
        optimizer(loss.backward())
        return loss

    step = ln.jit(train)
    assert step(ln.asarray([0, 1])).item() == 4.0
    before = weight.tolist()
    with pytest.raises(IndexError, match="out of bounds"):
        step(ln.asarray([0, 2]))
    assert weight.tolist() == before == [0.0, 2.0, 2.0]


def test_positions_that_are_read_at_positions_are_checked_in_their_order():
    table = ln.asarray([0, 2, 5])
    read = ln.jit(lambda i: X[table[i]])
    np.testing.assert_array_equal(read(ln.asarray([1, 0])).numpy(), X.numpy()[[2, 0]])
    for wrong in ([2, 0], [1 << 40, 0]):
        with pytest.raises(IndexError, match="out of bounds"):
            read(ln.asarray(wrong))
