"""The tensor as an object: creation, conversion, operators, representation."""

import copy
import operator

import numpy as np
import pytest

import labnet as ln
from labnet.errors import DTypeError, ShapeError


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1, "int64", ()),
        (1.5, "float32", ()),
        (True, "bool", ()),
        ([[1, 2], [3, 4]], "int64", (2, 2)),
        ([1, 2.5], "float32", (2,)),
        ([], "float32", (0,)),
        (np.zeros((2, 0), "int8"), "int8", (2, 0)),
        (np.float64(3), "float64", ()),
        (np.arange(3, dtype="uint16"), "uint16", (3,)),
        ([ln.ones(2), ln.zeros(2)], "float32", (2, 2)),
    ],
)
def test_asarray_keeps_or_chooses_the_dtype(data, dtype, shape):
    tensor = ln.asarray(data)
    assert (tensor.dtype, tensor.shape) == (np.dtype(dtype), shape)


def test_asarray_converts_when_asked():
    assert ln.asarray([1, 2], dtype="float64").dtype == ln.float64
    assert ln.asarray([1.0], dtype=float).dtype == ln.float32
    assert ln.asarray(ln.asarray([1.9]), dtype=int).tolist() == [1]


def test_asarray_shares_and_copies_as_asked():
    x, array = ln.ones(3), np.ones(3)
    assert ln.asarray(x) is x
    assert ln.asarray(x, copy=False, dtype="float32") is x
    assert ln.asarray(x, requires_grad=True).is_leaf
    assert not x.requires_grad
    assert np.shares_memory(ln.asarray(array).numpy(), array)
    assert not np.shares_memory(ln.asarray(array, copy=True).numpy(), array)
    copied = ln.asarray(x, copy=True)
    x[0] = 5.0
    assert copied.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="float64"):
        ln.asarray(x, dtype="float64", copy=False)


def test_a_consumer_of_old_dlpack_gets_a_copy():
    x = ln.zeros(2)
    with pytest.raises(BufferError, match="copy"):
        x.__dlpack__(copy=False)
    assert x.__dlpack__() is not None
    exported = np.from_dlpack(x)
    assert not exported.flags.writeable
    assert np.shares_memory(exported, x.numpy())
    assert ln.from_dlpack(np.arange(3, dtype="int16")).dtype == ln.int16
    assert not np.shares_memory(ln.from_dlpack(exported, copy=True).numpy(), exported)


def test_creation_functions_match_numpy():
    assert ln.eye(2, 3, k=1).tolist() == np.eye(2, 3, 1).tolist()
    assert ln.linspace(0, 1, 4, endpoint=False).dtype == ln.float32
    assert ln.linspace(0, 1, 4, endpoint=False).tolist() == [0.0, 0.25, 0.5, 0.75]
    assert ln.full_like(ln.ones(2), 7, dtype="int8").tolist() == [7, 7]
    assert ln.empty_like(ln.ones((2, 3))).shape == (2, 3)
    assert ln.arange(5).tolist() == [0, 1, 2, 3, 4]
    assert ln.arange(0, 1, 0.25).numpy().tolist() == [0, 0.25, 0.5, 0.75]
    assert ln.full((2, 2), 7).dtype == ln.int64
    assert ln.zeros_like(ln.ones((2, 3), dtype="int8")).dtype == ln.int8
    assert ln.ones(3, requires_grad=True).requires_grad


def test_random_numbers_repeat_with_the_seed():
    ln.manual_seed(5)
    first = [ln.rand((2, 2)).tolist(), ln.randn(3).tolist()]
    ln.manual_seed(5)
    assert [ln.rand((2, 2)).tolist(), ln.randn(3).tolist()] == first
    sample = ln.randn(10_000).numpy()
    assert abs(sample.mean()) < 0.05
    assert abs(sample.std() - 1) < 0.05


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "eq", "ne", "gt", "ge", "lt", "le"])
def test_operators_work_with_tensors_numbers_and_arrays_on_both_sides(name):
    function = getattr(operator, name)
    a, b = np.array([1.0, 2.0, 4.0]), np.array([2.0, 2.0, 0.5])
    for left, right in ((ln.asarray(a), ln.asarray(b)), (ln.asarray(a), b), (a, ln.asarray(b))):
        out = function(left, right)
        assert isinstance(out, ln.Tensor)
        np.testing.assert_array_equal(out.numpy(), function(a, b))
    np.testing.assert_array_equal(function(ln.asarray(a), 2).numpy(), function(a, 2))
    np.testing.assert_array_equal(function(2, ln.asarray(a)).numpy(), function(2, a))


def test_numpy_functions_take_tensors():
    np.testing.assert_array_equal(np.exp(ln.zeros(3)), np.ones(3))
    np.testing.assert_array_equal(np.asarray(ln.arange(3)), [0, 1, 2])


def test_conversions_to_python():
    assert float(ln.asarray(2.5)) == 2.5
    assert int(ln.asarray([3])) == 3
    assert bool(ln.asarray([True]))
    assert [10, 20, 30][ln.asarray(1)] == 20
    assert f"{ln.asarray(0.125):.2f}" == "0.12"
    with pytest.raises(ShapeError, match=r"\(2,\)"):
        ln.ones(2).item()
    with pytest.raises(ShapeError, match="ambiguous"):
        bool(ln.ones(2))
    with pytest.raises(DTypeError, match="float32"):
        [1, 2][ln.asarray(1.0)]
    with pytest.raises(ShapeError, match="0-d"):
        len(ln.asarray(1))


def test_iteration_and_unpacking():
    rows = list(ln.asarray([[1, 2], [3, 4]]))
    assert [row.tolist() for row in rows] == [[1, 2], [3, 4]]
    a, b = ln.asarray([1.0, 2.0], requires_grad=True)
    assert (a * b).requires_grad


def test_tensors_are_told_apart_by_identity_in_sets_and_dicts():
    a, b = ln.ones(2), ln.ones(2)
    assert len({a, b}) == 2
    assert {a: 1}[a] == 1


def test_numpy_is_a_read_only_view_even_with_gradients():
    x = ln.ones(3, requires_grad=True)
    array = x.numpy()
    assert not array.flags.writeable
    assert (x * 2).numpy().tolist() == [2.0, 2.0, 2.0]


def test_copies_are_independent_leaves():
    x = ln.ones(2, requires_grad=True)
    y = copy.deepcopy(x)
    ln.optim.SGD(lr=1.0)(y.sum().backward())
    assert (x.tolist(), y.tolist()) == ([1.0, 1.0], [0.0, 0.0])


def test_to_and_astype():
    x = ln.asarray([1.5], requires_grad=True)
    assert x.to("cpu") is x
    assert x.to("float64").sum().backward()[x].dtype == ln.float32
    assert x.astype("int32").requires_grad is False
    with pytest.raises(ln.errors.DeviceError, match="cuda"):
        x.to("cuda")


def test_repr_shows_values_dtype_and_gradient():
    assert repr(ln.asarray([1.0, 2.0])) == "Tensor([1., 2.], dtype=float32)"
    assert repr(ln.ones(1, requires_grad=True)) == "Tensor([1.], dtype=float32, requires_grad=True)"
    assert len(repr(ln.zeros((1000, 1000)))) < 1000


def test_a_leaf_is_copied_into_another_process_and_a_computed_tensor_is_not():
    import pickle

    layer = ln.nn.Linear(3, 2)
    copied = pickle.loads(pickle.dumps(layer))
    assert copied.weight.requires_grad
    assert copied.weight.tolist() == layer.weight.tolist()
    view = pickle.loads(pickle.dumps(ln.arange(6)[::2]))
    view[0] = 7
    assert view.tolist() == [7, 2, 4]
    with pytest.raises(ln.errors.GradientError, match="was computed: detach"):
        pickle.dumps(layer(ln.ones((1, 3))))
