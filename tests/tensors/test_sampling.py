"""Random numbers: their distributions, sources and shapes."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import ShapeError


@pytest.fixture(autouse=True)
def seeded():
    ln.manual_seed(0)


def test_integers_are_in_their_range_and_all_occur():
    assert set(ln.randint(2, 6, (200,)).tolist()) == {2, 3, 4, 5}
    assert set(ln.randint(3, (50,)).tolist()) == {0, 1, 2}
    assert ln.randint(0, 2, size=(2, 3), dtype="int32").dtype == ln.int32
    with pytest.raises(ValueError, match="expected low < high, got 3 and 3"):
        ln.randint(3, 3, (2,))


def test_orders_have_every_position_once():
    order = ln.randperm(50)
    assert sorted(order.tolist()) == list(range(50))
    assert order.tolist() != list(range(50))


def test_distributions_have_their_moments():
    normal, uniform = ln.normal(3.0, 2.0, (20_000,)), ln.uniform(-1.0, 3.0, (20_000,))
    assert (normal.mean().item(), normal.std().item()) == pytest.approx((3.0, 2.0), abs=0.05)
    assert (uniform.mean().item(), uniform.min().item()) == pytest.approx((1.0, -1.0), abs=0.05)
    assert ln.normal(ln.zeros((2, 3)), 1.0).shape == (2, 3)
    assert ln.bernoulli(ln.full(20_000, 0.3)).mean().item() == pytest.approx(0.3, abs=0.02)
    x = ln.zeros((300, 10))
    assert x.normal_(1.0, 0.5) is x
    assert x.mean().item() == pytest.approx(1.0, abs=0.05)
    assert x.uniform_(2.0, 3.0).min().item() >= 2.0
    assert x.bernoulli_(0.25).mean().item() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("compiled", [False, True])
def test_positions_are_drawn_with_their_probabilities(compiled):
    def draw(p):
        return ln.multinomial(p, 4000, replacement=True)

    p = ln.tensor([[1.0, 0.0, 3.0], [2.0, 2.0, 0.0]])
    found = (ln.jit(draw) if compiled else draw)(p).numpy()
    shares = np.stack([np.bincount(row, minlength=3) / 4000 for row in found])
    np.testing.assert_allclose(shares, [[0.25, 0, 0.75], [0.5, 0.5, 0]], atol=0.03)


def test_positions_without_replacement_are_distinct_and_follow_the_weights():
    p = ln.tensor([1.0, 2.0, 0.0, 1.0])
    rows = [ln.multinomial(p, 2).tolist() for _ in range(400)]
    assert all(len(set(row)) == 2 and 2 not in row for row in rows)
    assert sum(row[0] == 1 for row in rows) / 400 == pytest.approx(0.5, abs=0.08)
    with pytest.raises(ShapeError, match="cannot draw 5 of 4"):
        ln.multinomial(p, 5)
    with pytest.raises(ValueError, match="at least 0"):
        ln.multinomial(-p, 1)


def test_a_generator_of_its_own_repeats_its_numbers_and_leaves_the_others_alone():
    ln.manual_seed(3)
    expected = ln.rand(2).tolist()
    ln.manual_seed(3)
    draws = [
        (ln.randn(2, 2, generator=g), ln.randint(0, 9, (5,), generator=g), ln.randperm(4, generator=g))
        for g in (ln.Generator().manual_seed(7), ln.Generator().manual_seed(7))
    ]
    assert [part.tolist() for part in draws[0]] == [part.tolist() for part in draws[1]]
    assert ln.rand(2).tolist() == expected


def test_shapes_may_be_given_one_length_after_the_other():
    for create in (ln.zeros, ln.ones, ln.empty, ln.rand, ln.randn):
        assert create(2, 3).shape == create((2, 3)).shape == (2, 3)
        assert create(shape=2).shape == (2,)
    assert ln.rand_like(ln.zeros((2, 1), dtype="float64")).dtype == ln.float64
    assert ln.randn_like(ln.zeros((2, 1))).shape == (2, 1)


def test_compiled_functions_draw_anew_in_each_call():
    step = ln.jit(lambda x: (x + ln.randint(0, 1000, (3,)), ln.normal(x, 1.0)))
    first, second = step(ln.zeros(3)), step(ln.zeros(3))
    assert first[0].tolist() != second[0].tolist()
    assert first[1].tolist() != second[1].tolist()
