"""Arguments that name dimensions: what they may be, in every op, eager and compiled."""

import functools

import numpy as np
import pytest

import labnet as ln
from labnet.errors import AxisError, DTypeError, LabnetError, ShapeError, TraceError
from tests.helpers.tensors.axis_calls import AXES, OPS, SHAPES, call, numbers, outcome

pytestmark = pytest.mark.filterwarnings("ignore:(Mean of empty slice|invalid value|Degrees of freedom):RuntimeWarning")


#: By which op a composed one refuses a dimension.
BY = {
    "vector_norm": "sum",
    "nansum": "sum",
    "nanmean": "sum",
    "nanmax": "max",
    "nanmin": "min",
    "logsumexp": "max",
    "nanargmax": "argmax",
    "nanargmin": "argmin",
    "trace": "diagonal",
}


def variable(shape):
    return ln.asarray(numbers(shape), requires_grad=True)


@pytest.mark.parametrize("name", OPS)
def test_it_works_or_says_why_not_and_gradients_have_the_shape_of_their_tensor(name):
    done = 0
    for shape in SHAPES:
        for axis in AXES:
            x = variable(shape)
            found = outcome(name, x, axis)
            if isinstance(found, Exception):
                assert isinstance(found, LabnetError), (shape, axis, found)
                assert str(found).startswith((f"{name}:", f"{BY.get(name)}:")), (shape, axis, found)
            else:
                done += 1
                assert found[1] is None or found[1].shape == shape, (shape, axis, found)
    assert done > 3


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("of", [np.int64, np.uint8, np.asarray, ln.asarray], ids=lambda of: of.__name__)
def test_integers_of_other_libraries_are_integers(name, of):
    for axis in (0, -1, 1) if of is not np.uint8 else (0, 1):
        expected, found = outcome(name, variable((2, 3)), axis), outcome(name, variable((2, 3)), of(axis))
        if isinstance(expected, Exception):
            assert type(found) is type(expected)
            continue
        for one, other in zip(expected, found, strict=True):
            assert (one is None) == (other is None)
            if isinstance(one, ln.Tensor):
                np.testing.assert_array_equal(other.numpy(), one.numpy())


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if any(kind.several for kind in op.axes.values())])
@pytest.mark.parametrize("given", [[np.int64(1), 0], range(1, -1, -1), np.array([1, 0]), ln.asarray([1, 0])], ids=repr)
def test_any_sequence_is_a_tuple(name, given):
    expected, found = outcome(name, variable((2, 3)), (1, 0)), outcome(name, variable((2, 3)), given)
    if isinstance(expected, Exception):
        assert type(found) is type(expected)
    else:
        np.testing.assert_array_equal(found[0].numpy(), expected[0].numpy())
        assert found[1] is None or np.array_equal(found[1].numpy(), expected[1].numpy())


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("value", [1.0, "a", True, (0.5,), ln.asarray(0.0), np.zeros(2), {0: 1}], ids=repr)
def test_what_is_no_integer_is_refused_by_name(name, value):
    with pytest.raises(DTypeError) as raised:
        call(name, variable((2, 3)), value)
    words = str(raised.value)
    assert words.startswith(f"{name}: ")
    assert " must be an integer" in words
    assert repr(value)[:20] in words


@pytest.mark.parametrize("name", ["take", "take_along_axis", "unstack", "diff", "repeat", "median"])
def test_a_dimension_that_is_not_there_is_an_axis_error_with_both_values(name):
    with pytest.raises(AxisError, match=rf"{name}: axis 5 is out of bounds for shape \(2, 3\)"):
        call(name, variable((2, 3)), 5)


@pytest.mark.parametrize("name", ["sum", "prod", "mean", "max", "var", "argmax", "all", "median", "softmax"])
@pytest.mark.parametrize("axis", [0, -1])
def test_one_number_is_reduced_over_the_dimension_that_it_lacks(name, axis):
    x = variable(())
    out = call(name, x, axis)
    assert out.shape == ()
    assert out.item() == call(name, variable((1,)), axis).item()


def test_running_sums_of_one_number_have_one_element():
    x = variable(())
    out = ln.cumulative_sum(x, axis=0, include_initial=True)
    assert out.tolist() == [0, 0.3]
    (out * out).sum().backward()
    assert (x.grad.shape, x.grad.item()) == ((), pytest.approx(0.6))
    y = ln.asarray(3.0, requires_grad=True)
    (ln.cumulative_prod(y, axis=-1) ** 2).sum().backward()
    assert (y.grad.shape, y.grad.item()) == ((), 6.0)


def test_no_differences_are_the_tensor_itself_and_fewer_are_refused():
    x = variable((3,))
    assert ln.diff(x, n=0, prepend=ln.ones(1, dtype="float64")).tolist() == x.tolist()
    with pytest.raises(ShapeError, match="diff: n must not be negative, got -1"):
        ln.diff(x, n=-1)
    with pytest.raises(DTypeError, match=r"diff: n must be an integer, got 1\.5"):
        ln.diff(x, n=1.5)


@pytest.mark.parametrize("descending", [False, True])
def test_one_number_is_in_order(descending):
    assert ln.argsort(variable(()), descending=descending).tolist() == [0]
    assert ln.jit(lambda x: ln.argsort(x, descending=descending))(variable(())).tolist() == [0]


@pytest.mark.parametrize("function", [ln.tril, ln.triu])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_triangle_has_two_dimensions(function, shape):
    with pytest.raises(ShapeError) as raised:
        function(variable(shape))
    assert f"not possible for shape {shape}: expected at least two dimensions" in str(raised.value)


@pytest.mark.parametrize(
    ("axes", "error", "words"),
    [
        (3, AxisError, r"axes=3: so many dimensions are not in \(2, 3\) and \(3, 2\)"),
        (-1, AxisError, "axes=-1"),
        (((5,), (0,)), AxisError, r"axis 5 is out of bounds for shape \(2, 3\)"),
        (((0,), (-3,)), AxisError, r"axis -3 is out of bounds for shape \(3, 2\)"),
        (1.0, DTypeError, r"must be an integer, got 1\.0"),
        ("ab", DTypeError, "must be an integer, got 'ab'"),
        (((0.0,), (0,)), DTypeError, r"must be an integer or a tuple of integers, got \(0\.0,\)"),
    ],
)
def test_tensordot_refuses_dimensions_that_are_not_there(axes, error, words):
    with pytest.raises(error, match=f"tensordot: .*{words}"):
        ln.tensordot(ln.ones((2, 3)), ln.ones((3, 2)), axes=axes)


@pytest.mark.parametrize(
    "axes",
    [np.int64(1), (1, 0), ([np.int64(1)], (-2,)), (range(1, 2), np.array([0])), np.array([[1], [0]]), np.array([1, 0])],
)
def test_tensordot_takes_what_numpy_takes(axes):
    a, b = numbers((2, 3)), numbers((3, 2))
    np.testing.assert_allclose(ln.tensordot(ln.asarray(a), ln.asarray(b), axes=axes).numpy(), np.tensordot(a, b, axes))


@pytest.mark.parametrize(
    ("repeats", "error", "words"),
    [
        (1.5, DTypeError, "repeats must be integers, got float64"),
        ([1, 2], ShapeError, r"expected one number of repeats, or 3 for axis 1 of shape \(2, 3\), got shape \(2,\)"),
        ([[1, 2, 3]], ShapeError, r"got shape \(1, 3\)"),
        (-1, ShapeError, "must be from 0 to .*, got -1"),
        ([1, -2, 0], ShapeError, "must be from 0 to .*, got -2"),
    ],
)
def test_repeats_that_do_not_fit_are_refused(repeats, error, words):
    with pytest.raises(error, match=f"repeat: .*{words}"):
        ln.repeat(variable((2, 3)), repeats, axis=1)


@pytest.mark.parametrize("repeats", [2, [2], [1, 0, 2], np.uint8(1), True, ln.asarray([0, 0, 1])])
def test_repeats_are_those_of_numpy(repeats):
    x = numbers((2, 3))
    plain = repeats.numpy() if isinstance(repeats, ln.Tensor) else repeats
    np.testing.assert_array_equal(ln.repeat(ln.asarray(x), repeats, axis=1).numpy(), np.repeat(x, plain, axis=1))


@pytest.mark.parametrize("name", sorted(set(OPS) - {"expand_dims", "squeeze", "moveaxis", "unstack"}))
@pytest.mark.parametrize("shape", [(), (0,)])
def test_a_compiled_function_has_it_as_an_eager_one(name, shape):
    for axis in (0, -1, np.int64(0), 1):
        expected = outcome(name, variable(shape), axis)
        x = variable(shape)
        compiled = ln.jit(lambda x, axis=axis: call(name, x, axis))
        if isinstance(expected, Exception):
            with pytest.raises(type(expected)) as raised:
                compiled(x)
            assert str(raised.value) == str(expected)
        else:
            np.testing.assert_array_equal(compiled(x).numpy(), expected[0].numpy())


@pytest.mark.parametrize("compiled", [False, True])
def test_as_many_shifts_as_dimensions_or_one(compiled):
    x = ln.asarray(numbers((2, 3)))
    for shift, axis in [((1, 2), (0, 1)), (1, (0, 1)), ((1, 2), 1), (np.int64(-4), 1), ([1, 1], [1, 1])]:
        roll = functools.partial(ln.roll, shift=shift, axis=axis)
        found = (ln.jit(lambda x, roll=roll: roll(x)) if compiled else roll)(x)
        np.testing.assert_array_equal(found.numpy(), np.roll(x.numpy(), shift, axis))
    with pytest.raises(ShapeError, match=r"roll: .*\(2, 3\)"):
        (ln.jit(ln.roll) if compiled else ln.roll)(x, (1, 2, 3), axis=(0, 1))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: ln.concat([x, x], dimension=1), r"concat\(\) got an unexpected keyword argument 'dimension'"),
        (lambda x: ln.roll(x, 1, dimension=1), r"roll\(\) got an unexpected keyword argument 'dimension'"),
        (lambda x: ln.where(x > 0, x, x, axis=1), r"where\(\) got an unexpected keyword argument 'axis'"),
        (lambda x: ln.sum(x, 1, axis=0), r"sum\(\) got multiple values for argument 'axis'"),
        (lambda x: ln.roll(x), r"roll\(\) missing required argument: 'shift'"),
        (lambda x: ln.where(x > 0, x), r"where\(\) takes 3 tensors but 2 were given"),
    ],
)
def test_arguments_that_an_op_does_not_have_are_a_type_error(function, words, compiled):
    with pytest.raises(TypeError, match=words):
        (ln.jit(function) if compiled else function)(variable((2, 3)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ln.argmax(x, axis=5),
        lambda x: ln.mean(x, axis=5),
        lambda x: ln.nn.softmax(x, axis=5),
        lambda x: ln.var(x, axis=5),
        lambda x: ln.stack([x, x], axis=5),
        lambda x: ln.tril(x[0]),
        lambda x: ln.tril(x, k=1.5),
        lambda x: ln.sum(x, axis=2**70),
        lambda x: ln.nn.linear(x, ln.ones((3, 2))),
        lambda x: x @ ln.ones((2, 2)),
        lambda x: ln.reshape(x, (5,)),
        lambda x: ln.permute_dims(x, (0, 0)),
    ],
)
def test_a_compiled_function_refuses_with_the_words_of_the_eager_one(function):
    with pytest.raises(LabnetError) as eager:
        function(variable((2, 3)))
    with pytest.raises(type(eager.value)) as compiled:
        ln.jit(function)(variable((2, 3)))
    assert str(compiled.value) == str(eager.value)


@pytest.mark.parametrize("name", ["sum", "permute_dims", "tril", "roll", "diff", "softmax"])
def test_a_traced_number_is_no_dimension(name):
    with pytest.raises(TraceError, match=r"a traced value as an index, or as a dimension: .*axis_calls\.py"):
        ln.jit(lambda x, axis: call(name, x, axis))(variable((2, 3)), ln.asarray(1))


def test_squeeze_without_dimensions_removes_all_that_are_one():
    x = variable((1, 2, 1))
    out = x.squeeze()
    out.sum().backward()
    assert (out.shape, x.grad.shape) == ((2,), (1, 2, 1))
    assert ln.jit(ln.squeeze)(x).shape == (2,)
