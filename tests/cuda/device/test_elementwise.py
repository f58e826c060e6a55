"""Universal functions on a GPU are NumPy's: of every dtype, at the edges of its range, for every layout."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.codegen import scalars, transpose
from labnet.kernels.cuda.codegen.expressions import Graph, Node
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.scalar_expression import SCALARS
from tests.helpers.cuda.device_arrays import DTYPES, SIMULATED, assert_same, drawn, few, layouts

NAMES = sorted(
    {name for table in (scalars._FLOAT, scalars._INTEGER, scalars._BOOLEAN) for name in table}
    | {*scalars._TESTS, *scalars._SIGNBIT, *SCALARS, "remainder", "floor_divide"}
)
#: Where NumPy itself answers now one zero, now the other.
EITHER_ZERO = {"power", "arctan2", "maximum", "minimum", "fmax", "fmin"}
UFUNCS = [getattr(np, name) for name in NAMES if isinstance(getattr(np, name, None), np.ufunc)]


def edges(dtype):
    """Return numbers where functions go wrong."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.array([False, True, True, False])
    if dtype.kind == "u":
        return np.array([0, 1, 2, 7, 100, np.iinfo(dtype).max], dtype)
    if dtype.kind == "i":
        return np.array([0, 1, -1, 3, -7, 100, np.iinfo(dtype).max, np.iinfo(dtype).min + 1], dtype)
    return np.array([0.0, -0.0, 1.0, -1.0, 0.1, 2.5, -3.5, 0.5, 1e-4, 30.0, np.inf, -np.inf, np.nan], dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
@pytest.mark.parametrize("number", [-(2**70), -129, -1, 128, 300, 2**63, 2**64], ids=str)
def test_python_s_integers_beyond_a_dtype_are_compared_and_not_computed_with(dtype, number):
    array = edges(dtype)
    there = DeviceArray.upload(array)
    for ufunc in (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal):
        assert_same(ufunc(there, number), ufunc(array, number))
        assert_same(ufunc(number, there), ufunc(number, array))
    for call in (
        lambda x: x + number,
        lambda x: x.__setitem__(slice(1), number),
        lambda x: x.__setitem__([0], number),
        lambda x: x.__setitem__(x != x, number),
    ):
        here, copy = array.copy(), there.copy()
        try:
            call(here)
        except OverflowError:
            with pytest.raises(OverflowError, match=r"out of bounds|too large"):
                call(copy)
        else:
            call(copy)
        assert_same(copy, here)


@pytest.mark.parametrize("ufunc", UFUNCS, ids=[ufunc.__name__ for ufunc in UFUNCS])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_universal_functions_are_those_of_numpy(ufunc):
    dtypes = DTYPES if not SIMULATED else ("bool", "int8", "int64", "uint8", "uint32", "float16", "float32", "float64")
    for dtype in dtypes:
        values = edges(dtype)
        operands = (values,) if ufunc.nin == 1 else (np.repeat(values, values.size), np.tile(values, values.size))
        if ufunc.__name__ in ("left_shift", "right_shift"):  # what C leaves open is left open
            operands = (operands[0], np.abs(operands[1]) % np.asarray(8 * values.itemsize, values.dtype))
        if ufunc is np.power:  # NumPy takes the root where the exponent is a half, of arrays or of numbers
            kept = ~(np.isneginf(operands[0]) & (operands[1] == 0.5)) if values.dtype.kind == "f" else ...
            operands = (operands[0][kept], operands[1][kept])
        try:
            expected = ufunc(*operands)
        except TypeError:
            with pytest.raises(TypeError):
                ufunc(*map(DeviceArray.upload, operands))
            continue
        except ValueError:  # integers to negative powers
            continue
        found = ufunc(*map(DeviceArray.upload, operands))
        assert_same(found, expected)
        if expected.dtype.kind == "f" and ufunc.__name__ not in EITHER_ZERO:
            known = ~np.isnan(expected)
            np.testing.assert_array_equal(np.signbit(found.host())[known], np.signbit(expected)[known])


@few
@given(layouts(), st.sampled_from(DTYPES))
def test_any_layout_is_read_as_numpy_reads_it(layout, dtype):
    shape, view = layout
    array = drawn(shape, dtype)
    there = view(DeviceArray.upload(array))
    assert_same(there, view(array))
    assert_same(np.add(there, there), np.add(view(array), view(array)))


@few
@given(layouts(max_dims=2), layouts(max_dims=2), st.sampled_from(["float32", "int32"]))
def test_operands_of_any_two_layouts_meet_as_in_numpy(one, other, dtype):
    arrays = [drawn(one[0], dtype), drawn(other[0], dtype, 1)]
    views = [one[1](arrays[0]), other[1](arrays[1])]
    there = [one[1](DeviceArray.upload(arrays[0])), other[1](DeviceArray.upload(arrays[1]))]
    try:
        expected = views[0] * views[1] - views[0]
    except ValueError:
        with pytest.raises(ValueError, match="broadcast"):
            there[0] * there[1] - there[0]
        return
    assert_same(there[0] * there[1] - there[0], expected)


@pytest.mark.parametrize("source", DTYPES)
def test_every_dtype_becomes_every_other(source):
    array = np.array([0, 1, 3, 100], source)
    there = DeviceArray.upload(array)
    for target in DTYPES:
        assert_same(there.astype(target), array.astype(target))


@pytest.mark.parametrize(("one", "other"), [("int8", "uint8"), ("int32", "float32"), ("float16", "float64"),
                                            ("bool", "int16"), ("int64", "uint64"), ("uint8", "float16")])  # fmt: skip
def test_dtypes_are_promoted_as_in_numpy(one, other):
    a, b = np.array([1, 2, 3], one), np.array([4, 5, 6], other)
    there = DeviceArray.upload(a), DeviceArray.upload(b)
    for ufunc in (np.add, np.multiply, np.less, np.maximum):
        assert_same(ufunc(*there), ufunc(a, b))
    for number in (2, 2.5, True, np.float32(1.5), np.int64(3)):
        assert_same(there[0] + number, a + number)


def test_an_expression_is_one_launch():
    x, y = DeviceArray.upload(drawn((6,), "float32")), DeviceArray.upload(drawn((6,), "float32", 1))
    before = current_gpu().launches
    found = (np.exp(x) * y + 1.0 - x).materialize()
    assert current_gpu().launches == before + 1
    assert_same(found, np.exp(x.host()) * y.host() + np.float32(1.0) - x.host())


def test_long_expressions_are_computed_in_parts():
    x = DeviceArray.upload(np.ones(3, "float64"))
    total = x
    for _ in range(200):
        total = total + x
    assert_same(total, np.full(3, 201.0))


def test_a_pending_value_is_that_of_when_it_was_asked_for():
    array = np.arange(4.0)
    x = DeviceArray.upload(array)
    doubled = x * 2
    x[1:3] = 50.0
    assert_same(doubled, array * 2)
    assert_same(x, np.array([0.0, 50.0, 50.0, 3.0]))


def test_results_may_overlap_what_they_are_computed_from():
    array = np.arange(6.0)
    x = DeviceArray.upload(array)
    np.add(x[:-1], x[1:], out=x[1:])
    np.add(array[:-1], array[1:], out=array[1:])
    assert_same(x, array)
    x[...] = x[::-1]
    assert_same(x, array[::-1])


def test_negative_zero_stays_negative():
    assert np.signbit(DeviceArray.filled((2,), -0.0, np.dtype("float32")).host()).all()


def test_memory_is_used_again():
    from labnet.kernels.cuda.driver.pool import pool

    DeviceArray.filled((64,), 1, np.dtype("float32"))
    before = pool.held
    for _ in range(20):
        DeviceArray.filled((64,), 1, np.dtype("float32"))
    assert pool.held == before
    assert 0 <= pool.used <= pool.held
    assert pool.peak >= pool.used


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float16", "float32", "float64"])
def test_arrays_in_another_order_than_the_result(dtype):
    """Large enough for squares of a GPU, with edges that are not whole ones."""
    side = 2 * current_gpu().tile + 3
    first, second = drawn((2, side, side + 2), dtype), drawn((side, 2, side + 2), dtype, 1)
    there = DeviceArray.upload(first), DeviceArray.upload(second)
    assert_same(there[0].transpose(0, 2, 1).copy(), first.transpose(0, 2, 1))
    assert_same(there[0].T.copy(), first.T)
    assert_same(there[1].transpose(2, 1, 0)[::-1, :, 1:].copy(), second.transpose(2, 1, 0)[::-1, :, 1:])
    turned = np.maximum(there[0].transpose(2, 0, 1), there[1].transpose(2, 1, 0))
    assert_same(turned, np.maximum(first.transpose(2, 0, 1), second.transpose(2, 1, 0)))
    row = drawn((side,), dtype, 2)
    mixed = np.minimum(np.minimum(there[0][0].T, there[0][1].T), DeviceArray.upload(row))
    assert_same(mixed, np.minimum(np.minimum(first[0].T, first[1].T), row))


def test_squares_are_used_where_they_help_and_nowhere_else():
    side = 2 * current_gpu().tile
    single = np.dtype("float32")
    matrix, narrow = DeviceArray.empty((side, side), single), DeviceArray.empty((side, 1), single)

    def turn(*arrays):
        root = Node("add", arrays[0].dtype, tuple(array.node() for array in arrays)) if arrays[1:] else arrays[0].node()
        strides = [tuple(step // 4 for step in array.layout.strides) for array in arrays]
        return transpose.find_transposition(Graph(root), arrays[0].shape, strides, current_gpu().tile)

    other = DeviceArray.empty((side, side), single)
    assert turn(matrix) is None
    assert turn(matrix, other) is None
    assert turn(matrix.T) == transpose.Transposition(0, (0,))
    assert turn(matrix, other.T) == transpose.Transposition(0, (1,))
    assert turn(matrix[:, ::2]) is None
    assert turn(narrow.T) is None
