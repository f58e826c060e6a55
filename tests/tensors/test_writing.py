"""Writing in place: what views, holders of arrays and recorded graphs see of it."""

import gc
import operator
import weakref

import numpy as np
import pytest

import labnet as ln
from labnet.errors import DTypeError, GradientError, ShapeError

#: Ways to look at a (3, 4) tensor; each shares its memory.
VIEWS = {
    "row": lambda x: x[1],
    "column": lambda x: x[:, 2],
    "every other, backwards": lambda x: x[::-2, 1:],
    "new dimension": lambda x: x[None, ..., 0],
    "reshape": lambda x: x.reshape((2, 6)),
    "T": lambda x: x.T,
    "flip": lambda x: ln.flip(x, axis=1),
    "moveaxis": lambda x: ln.moveaxis(x.reshape((3, 2, 2)), 0, -1),
    "view of a view": lambda x: x.T[1:3].reshape((2, 3))[0],
    "squeeze": lambda x: ln.squeeze(ln.expand_dims(x, axis=1), axis=1),
    "unstack": lambda x: ln.unstack(x, axis=1)[3],
    "squeeze of nothing": lambda x: ln.squeeze(x),
    "squeeze of no axis": lambda x: ln.squeeze(x, axis=()),
    "reshape to the same": lambda x: x.reshape((3, 4)),
    "expand_dims nowhere": lambda x: ln.expand_dims(x, axis=()),
    "permute_dims to the same": lambda x: ln.permute_dims(x, (0, 1)),
    "flip of no axis": lambda x: ln.flip(x, axis=()),
    "moveaxis to the same": lambda x: ln.moveaxis(x, 1, 1),
    "broadcast_to the same": lambda x: ln.broadcast_to(x, (3, 4)),
    "broadcast_to a list": lambda x: ln.broadcast_to(x, [3, 4]),
    "to the same dtype": lambda x: x.to("float64"),
    "to the same device": lambda x: x.to("cpu"),
    "broadcast_to one more dimension": lambda x: ln.broadcast_to(x, (1, 3, 4)),
    "broadcast_arrays of one": lambda x: ln.broadcast_arrays(x)[0],
    "ellipsis": lambda x: x[...],
    "empty index": lambda x: x[()],
    "whole slice": lambda x: x[:],
    "astype to the same without a copy": lambda x: ln.astype(x, x.dtype, copy=False),
    "transposed twice": lambda x: x.T.T,
}

views = pytest.mark.parametrize("look", VIEWS.values(), ids=VIEWS)


def numbers(dtype="float64"):
    return np.arange(12, dtype=dtype).reshape(3, 4)


@views
def test_writing_through_a_view_is_seen_by_the_base_and_all_views(look):
    x, expected = ln.asarray(numbers()), numbers()
    others = [other(x) for other in VIEWS.values()]
    look(x)[...] = -1
    plain = np.asarray(look(ln.asarray(np.arange(12.0).reshape(3, 4)))).astype(int).ravel()
    expected.ravel()[plain] = -1
    np.testing.assert_array_equal(x.numpy(), expected)
    for other, again in zip(others, VIEWS.values(), strict=True):
        np.testing.assert_array_equal(other.numpy(), again(ln.asarray(expected)).numpy())


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: ln.astype(x, x.dtype),
        lambda x: ln.astype(x, "float32", copy=False),
        lambda x: ln.tile(x, (1, 1)),
        lambda x: ln.meshgrid(x[0])[0],
        lambda x: ln.roll(x, 0),
        lambda x: ln.repeat(x, 1, axis=0),
        lambda x: ln.pad(x, 0),
        lambda x: ln.concat([x]),
        lambda x: x.detach(),
        lambda x: ln.reshape(x, x.shape, copy=True),
    ],
)
def test_what_numpy_copies_is_no_view_on_trivial_arguments(copy):
    x = ln.asarray(numbers())
    copied = copy(x)
    copied[...] = -1
    assert (copied.numpy() == -1).all()
    np.testing.assert_array_equal(x.numpy(), numbers())
    x[...] = 5
    assert (copied.numpy() == -1).all()


@views
def test_views_stay_views_when_the_memory_moves(look):
    x = ln.asarray(numbers())
    view, held = look(x), x.numpy()
    x[...] = 7.0
    assert (view.numpy() == 7).all()
    np.testing.assert_array_equal(held, numbers())
    view[...] = 8.0
    x[0, 0] = 9.0
    np.testing.assert_array_equal(view.numpy(), look(x).numpy())
    assert np.shares_memory(view.numpy(), x.numpy())


@views
def test_gradients_pass_through_a_write_into_a_view(look):
    weight = ln.asarray(2.0, dtype="float64", requires_grad=True)
    start = ln.asarray(numbers(), requires_grad=True)
    x = start * 1
    view, other = look(x), x[1:]
    view[...] = weight
    other *= 3
    (x * x).sum().backward()
    inside = np.zeros((3, 4))
    np.put(inside, np.asarray(look(ln.asarray(numbers()))).astype(int), 1)
    factor = np.array([[1.0], [3.0], [3.0]])
    np.testing.assert_allclose(start.grad.numpy(), 2 * numbers() * factor**2 * (1 - inside))
    np.testing.assert_allclose(weight.grad.numpy(), (2 * 2.0 * factor**2 * inside).sum())


def test_a_view_reads_its_gradient_through_a_later_write_to_the_base():
    x = ln.asarray([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 2
    view = y[1:]
    y[1] = 10.0
    assert view.tolist() == [10.0, 6.0]
    assert view.sum().backward()[x].tolist() == [0.0, 0.0, 2.0]


def test_a_plain_tensor_that_is_given_recorded_values_joins_the_graph():
    x = ln.asarray([1.0, 2.0], requires_grad=True)
    out = ln.zeros((2, 2))
    row = out[1]
    out[0] = x * 3
    row[...] = x * x
    assert out.requires_grad
    assert out.sum().backward()[x].tolist() == [5.0, 7.0]


def test_a_recorded_graph_keeps_the_values_that_it_saw():
    x = ln.asarray([3.0], requires_grad=True)
    y = x * 2
    squared = y * y
    y[0] = 100.0
    y += 1
    assert squared.backward()[x].tolist() == [2 * 6.0 * 2]


def test_operands_that_are_overwritten_later_do_not_change_a_gradient():
    x, factor = ln.asarray([1.0], requires_grad=True), ln.asarray([5.0])
    y = x * factor
    factor[0] = 0.0
    factor *= 2
    assert y.backward()[x].tolist() == [5.0]


def test_of_values_written_to_one_place_the_last_one_gets_the_gradient():
    values = ln.asarray([1.0, 2.0, 3.0], requires_grad=True)
    x = ln.zeros(2)
    x[[0, 0, 1]] = values
    assert x.tolist() == [2.0, 3.0]
    assert x.sum().backward()[values].tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "key",
    [0, slice(1, None), (slice(None), 1), ..., [0, 2], ([0, 1], [1, 1]), (numbers() > 5), (slice(None), [0, 3])],
    ids=str,
)
def test_setitem_is_numpys(key):
    x, expected = ln.asarray(numbers()), numbers()
    x[key] = 50
    expected[key] = 50
    np.testing.assert_array_equal(x.numpy(), expected)
    mask = ln.asarray(numbers()) > 3
    x[mask] = ln.asarray(1.5)
    expected[numbers() > 3] = 1.5
    np.testing.assert_array_equal(x.numpy(), expected)


def test_holders_of_an_array_never_see_a_write():
    x = ln.asarray(numbers())
    held = {
        "numpy": x.numpy(),
        "asarray": np.asarray(x),
        "part": x.numpy()[1:],
        "row": x[1].numpy(),
        "dlpack": np.from_dlpack(x),
        "detached": x.detach(),
        "cast": x.astype("float64"),
        "buffer": memoryview(x.numpy()),
        "iterator": iter(x.numpy().flat),
    }
    before = {name: np.array(value) for name, value in held.items() if name != "iterator"}
    x[...] = -1.0
    x += 1
    for name, values in before.items():
        np.testing.assert_array_equal(np.array(held[name]), values, err_msg=name)
    assert next(held["iterator"]) == 0.0


def test_an_array_given_to_asarray_is_not_written_to():
    given = numbers()
    x = ln.asarray(given)
    x[0] = -1.0
    np.testing.assert_array_equal(given, numbers())
    assert x[0].tolist() == [-1.0] * 4


def test_writing_where_nobody_looks_copies_nothing():
    x = ln.zeros((100, 10))
    row = x[3]
    memory = x.array
    for i in range(100):
        seen = weakref.ref(memory)
        del memory  # who holds it looks at it
        x[i] = i
        row[0] = 1.0
        x[i, :2] += 1.0
        x[i] *= x[i]
        x[i, 2:] = x[i, :-2]
        memory = x.array
        assert seen() is memory
    assert x[3].tolist() == [1.0, 16.0, 4.0, 16.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]


@pytest.mark.parametrize(
    ("other", "expected"),
    [(lambda x: 2.0, 10.0), (lambda x: ln.ones(5) * 3, 18.0), (lambda x: x, 36.0)],
    ids=["number", "tensor", "itself"],
)
def test_in_place_operators_write_where_nobody_looks(other, expected):
    x = ln.zeros(5) + 3.0
    seen = weakref.ref(x.array)
    x += other(x)
    x *= other(x)
    assert seen() is x.array
    assert x.tolist() == [expected] * 5


@pytest.mark.parametrize(
    "look",
    [
        lambda x, _: x.numpy(),
        lambda x, _: x.detach(),
        lambda x, _: memoryview(x.numpy()),
        lambda x, _: np.from_dlpack(x),
        lambda x, leaf: x * leaf,
    ],
    ids=["array", "detached", "memory", "dlpack", "graph"],
)
def test_in_place_operators_leave_what_others_hold(look):
    x, leaf = ln.zeros(5) + 3.0, ln.ones(5, requires_grad=True)
    held = look(x, leaf)
    x += 1.0
    x -= ln.ones(5) * 0.5
    assert x.tolist() == [3.5] * 5
    if isinstance(held, ln.Tensor) and held.requires_grad:
        (gradient,) = held.backward(ln.ones(5)).values()
        assert gradient.tolist() == [3.0] * 5
    else:
        assert np.asarray(held).tolist() == [3.0] * 5


def test_in_place_operators_refuse_shapes_and_dtypes_as_before():
    x = ln.zeros(5)
    with pytest.raises(ShapeError):
        x += ln.ones((2, 5))
    x += ln.ones(1)
    x += ln.ones(5, dtype="float64")
    assert (x.dtype, x.tolist()) == (np.dtype("float32"), [2.0] * 5)
    whole = ln.asarray([1, 2])
    with pytest.raises(DTypeError):
        whole += 0.5


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2), (3,), (0, 2)])
def test_rows_of_a_loop_are_views(shape):
    x = ln.zeros(shape)
    for index, row in enumerate(x):
        row += index + 1.0
        if len(shape) > 1:
            assert (x[index] == index + 1).all()
    for row, same in zip(ln.ones(shape, requires_grad=True), x, strict=True):
        assert row.requires_grad
        assert row.shape == same.shape


@pytest.mark.parametrize("look", [lambda x: x, lambda x: x[1:], lambda x: x.T], ids=["base", "view", "transposed"])
def test_writes_in_a_loop_over_rows_reach_the_rows_before_and_copy_nothing(look):
    base = ln.zeros((5, 4))
    x, before, memory = look(base), [], id(base.array)
    for index, row in enumerate(x):
        before.append(row)
        row += 1.0
        x[index] *= 2.0
    assert id(base.array) == memory
    base += 1.0
    assert [row.tolist() for row in before] == x.tolist()
    exported = base.numpy()
    for row in x:
        row += 1.0
    assert [row.tolist() for row in before] == x.tolist()
    assert (look(ln.asarray(exported)) + 1.0 == x).all()


@pytest.mark.parametrize(
    ("key", "view"),
    [
        (np.s_[::2], lambda x: x[:4]),
        (np.s_[:4], lambda x: x[::2]),
        (np.s_[1:], lambda x: x[:-1]),
        (np.s_[::-1], lambda x: x),
        (np.s_[4:], lambda x: x[4:]),
        (np.array([0, 1, 0, 1, 1, 0, 1, 0], bool), lambda x: x[:4]),
        (np.ones(8, bool), lambda x: x[::-1]),
        (np.arange(8)[::-1], lambda x: x),
        ([0, 1, 2], lambda x: x[1:4]),
        (3, lambda x: x[3]),
        (3, lambda x: x[4]),
        (..., lambda x: x),
        (np.s_[:], lambda x: x.reshape((2, 4)).T.reshape((8,))),
    ],
)
@pytest.mark.parametrize("shape", [(8,), (8, 2)])
def test_a_view_is_written_as_it_was_before(key, view, shape):
    if shape == (8, 2) and "reshape" in view.__code__.co_names:
        shape = (8,)
    array = np.arange(float(np.prod(shape)), dtype="float32").reshape(shape)
    x = ln.asarray(array)
    x[key] = view(x)
    expected = array.copy()
    expected[key] = np.array(view(array))
    np.testing.assert_array_equal(x.numpy(), expected)


def test_a_mask_of_a_matrix_takes_values_from_the_matrix():
    array = np.arange(12.0, dtype="float32").reshape(3, 4)
    x = ln.asarray(array)
    x[array % 2 == 0] = x.reshape((12,))[:6]
    expected = array.copy()
    expected[array % 2 == 0] = array.ravel()[:6]
    np.testing.assert_array_equal(x.numpy(), expected)


def test_detached_views_are_values_of_their_own():
    x = ln.zeros(3)
    alone = x[1:].detach()
    alone[0] = 5.0
    assert (x.tolist(), alone.tolist()) == ([0.0] * 3, [5.0, 0.0])


def test_a_view_that_becomes_a_leaf_leaves_the_family():
    x = ln.asarray([1.0, 2.0])
    leaf = x[:1]
    leaf.requires_grad = True
    x[...] = 7.0
    assert leaf.tolist() == [1.0]
    assert (leaf * x[:1]).sum().backward()[leaf].tolist() == [7.0]


def test_views_of_broadcast_tensors_are_values():
    wide = ln.broadcast_to(ln.asarray([1.0, 2.0]), (2, 2))
    row = wide[0]
    row[0] = 9.0
    wide[1, 1] = 5.0
    assert (row.tolist(), wide.tolist()) == ([9.0, 2.0], [[1.0, 2.0], [1.0, 5.0]])


def test_dropped_views_leave_nothing_behind():
    x = ln.zeros((10, 10))
    for i in range(1000):
        x[i % 10]
    assert x.family == set()
    view = x[0]
    reference = weakref.ref(view)
    del view
    assert reference() is None


def test_a_long_chain_of_views_is_flat_and_writable():
    x = ln.asarray(numbers())
    y = x
    for _ in range(20_001):
        y = y.T
    y[0, 0] = 99.0
    assert x[0, 0].item() == 99.0
    del y
    gc.collect()


class TestInPlaceOperators:
    @pytest.mark.parametrize(
        "name", ["iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"]
    )
    def test_they_change_the_tensor_itself(self, name):
        dtype = "int64" if name in ("iand", "ior", "ixor") else "float64"
        x, expected = ln.asarray(numbers(dtype)), numbers(dtype)
        same, view = x, x[1]
        x = getattr(operator, name)(x, 3)
        expected = getattr(operator, name)(expected, 3)
        assert same is x
        np.testing.assert_array_equal(x.numpy(), expected)
        np.testing.assert_array_equal(view.numpy(), expected[1])

    def test_they_are_recorded(self):
        x = ln.asarray([2.0, 3.0], requires_grad=True)
        total = ln.zeros(2)
        for _ in range(3):
            total += x * x
        total *= x
        assert total.sum().backward()[x].tolist() == [9 * 4.0, 9 * 9.0]

    def test_an_optimizer_written_with_them_works_inside_no_grad(self):
        weight = ln.asarray([1.0, 2.0], requires_grad=True)
        loss = (weight * weight).sum()
        gradients = loss.backward()
        with ln.no_grad():
            weight -= 0.5 * gradients[weight]
        assert weight.tolist() == [0.0, 0.0]
        assert weight.is_leaf
        assert weight.requires_grad


def test_updating_a_leaf_inside_no_grad_reaches_its_plain_views_and_no_graph():
    weight = ln.asarray([1.0, 2.0], requires_grad=True)
    with ln.no_grad():
        plain = weight[:1]
    recorded = weight[:1]
    loss = (recorded * weight).sum()
    with ln.no_grad():
        weight[0] = 5.0
        plain += 1.0
    assert (weight.tolist(), plain.tolist(), recorded.tolist()) == ([6.0, 2.0], [6.0], [1.0])
    with ln.no_grad():
        recorded[0] = 3.0  # left behind by the update: its own memory from then on
    assert (weight.tolist(), recorded.tolist()) == ([6.0, 2.0], [3.0])
    assert loss.backward()[weight].tolist() == [1 + 3.0, 1.0]


def test_assign_reaches_plain_views():
    x = ln.zeros((2, 2))
    row = x[0]
    x.assign([[1.0, 2.0], [3.0, 4.0]])
    row.assign([7.0, 8.0])
    assert x.tolist() == [[7.0, 8.0], [3.0, 4.0]]


def write_to_leaf():
    x = ln.ones(2, requires_grad=True)
    x[0] = 1.0


def write_to_view_of_leaf():
    x = ln.ones(2, requires_grad=True)
    x[:1][0] = 1.0


def add_to_leaf():
    x = ln.ones((2, 3), requires_grad=True)
    x += 1


def grow():
    x = ln.ones(3)
    x += ln.ones((2, 3))


def fraction_into_integers():
    x = ln.asarray([1, 2])
    x[0] = 1.5


def divide_integers():
    x = ln.asarray([1, 2])
    x /= 2


def too_many():
    x = ln.ones((2, 3))
    x[0] = ln.ones(4)


def too_large():
    x = ln.asarray([1], dtype="uint8")
    x[0] = 300


def rows_at_a_mask_of_everything():
    x = ln.zeros(3)
    x[ln.asarray([True, True, False])] = ln.ones((2, 3))


def out_of_bounds():
    x = ln.ones(2)
    x[2] = 1.0


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (write_to_leaf, GradientError, r"\(2,\).*assign"),
        (write_to_view_of_leaf, GradientError, r"\(2,\).*no_grad"),
        (add_to_leaf, GradientError, r"\(2, 3\)"),
        (grow, ShapeError, r"\(2, 3\).*\(3,\)"),
        (fraction_into_integers, DTypeError, "float.*int64.*astype"),
        (divide_integers, DTypeError, "float64.*int64"),
        (too_many, ShapeError, r"\(2, 3\).*\(4,\)"),
        (too_large, DTypeError, "uint8.*300"),
        (rows_at_a_mask_of_everything, ShapeError, r"\(3,\).*\(2, 3\)"),
        (out_of_bounds, IndexError, "2"),
    ],
)
def test_a_write_that_would_be_wrong_says_what_to_do(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_number_with_a_view_and_another_holder_is_written():
    x = ln.asarray(3)
    view, other = x[None], x.detach()
    x += 1
    assert (x.item(), view.tolist(), other.item()) == (4, [4], 3)


@pytest.mark.parametrize("key", [[], [[]], (slice(None), [])], ids=str)
def test_an_empty_list_names_nothing(key):
    array = np.ones((2, 3), "float32")
    x = ln.asarray(array)
    assert x[key].shape == array[key].shape
    x[key] = 5.0
    assert x.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("w.data[0].mul_(2)", [[2.0, 4.0], [3.0, 4.0]]),
        ("w.data[:, 1:].zero_()", [[1.0, 0.0], [3.0, 0.0]]),
        ("w.data.T[0].add_(1)", [[2.0, 2.0], [4.0, 4.0]]),
        ("w.data.view(-1)[1:3].fill_(0)", [[1.0, 0.0], [0.0, 4.0]]),
        ("w[0].data.fill_(9)", [[9.0, 9.0], [3.0, 4.0]]),
    ],
)
def test_views_of_data_write_into_a_leaf(line, expected):
    w = ln.asarray([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    exec(line, {"w": w})
    assert (w.tolist(), w.is_leaf, w.requires_grad) == (expected, True, True)
