"""NumPy's functions on tensors: the values of NumPy, the gradients of labnet, and none that is lost in silence."""

import numpy as np
import numpy.testing.overrides
import pytest

import labnet as ln
from labnet.errors import GradientError
from labnet.ops.numpy_api.ufuncs import UFUNCS
from tests.helpers.tensors.numpy_calls import CASES, IDS, A, B, I, M, v

UNIVERSAL = sorted(
    (
        ufunc
        for ufunc in numpy.testing.overrides.get_overridable_numpy_ufuncs()
        if getattr(np, ufunc.__name__, None) is ufunc and ufunc.nin < 3 and ufunc is not np.isnat
    ),
    key=lambda ufunc: ufunc.__name__,
)


def leaves(value):
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list | tuple) else [value]


def tensors(value, *, trained=False):
    """The same arguments with tensors for arrays."""
    if isinstance(value, np.ndarray):
        return ln.asarray(value.copy(), requires_grad=trained and value.dtype.kind == "f")
    if isinstance(value, list | tuple):
        return type(value)(tensors(part, trained=trained) for part in value)
    return value


def is_floating(value):
    return not isinstance(value, type) and np.asarray(value).dtype.kind in "fc"


def assert_same(found, expected):
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        if isinstance(other, np.ndarray | np.generic | float | int | bool):
            other = np.asarray(other)
            assert np.shape(one) == other.shape
            assert np.asarray(one).dtype == other.dtype
            np.testing.assert_allclose(np.asarray(one), other, rtol=1e-6 if other.dtype == "float32" else 1e-12)
        else:
            assert type(one) is type(other)


def check(function, args, named):
    """Compare with NumPy, without and with gradients; return the outputs that carry one."""
    with np.errstate(all="ignore"):
        expected = function(*args, **named)
        assert_same(function(*tensors(args), **{key: tensors(x) for key, x in named.items()}), expected)
        try:
            found = function(*tensors(args, trained=True), **named)
        except GradientError as error:
            if not ("detach()" in str(error) and "numpy()" in str(error) and any(map(is_floating, leaves(expected)))):
                raise
            return []
    assert_same(
        tuple(leaf.detach() if isinstance(leaf, ln.Tensor) else leaf for leaf in leaves(found)), leaves(expected)
    )
    trained = any(isinstance(leaf, ln.Tensor) and leaf.requires_grad for leaf in leaves(tensors(args, trained=True)))
    if trained:
        assert not [leaf for leaf in leaves(found) if not isinstance(leaf, ln.Tensor) and is_floating(leaf)]
    return [leaf for leaf in leaves(found) if isinstance(leaf, ln.Tensor) and leaf.requires_grad]


@pytest.mark.parametrize(("name", "function", "args", "named"), CASES, ids=IDS)
def test_functions_give_what_numpy_gives_or_say_that_a_gradient_would_be_lost(name, function, args, named):
    check(function, args, named)


def arguments(ufunc):
    """Arrays that a universal function is called with."""
    special = {"matmul": (A, B.T), "matvec": (A, B[0]), "vecmat": (B[:, 0], A), "arccosh": (A + 1.5,), "ldexp": (A, I)}
    floating = special.get(ufunc.__name__, (A, B)[: ufunc.nin])
    try:
        ufunc(*floating)
    except TypeError:
        return (I, I + 1)[: ufunc.nin]
    return floating


@pytest.mark.parametrize("ufunc", UNIVERSAL, ids=lambda ufunc: ufunc.__name__)
def test_universal_functions_give_what_numpy_gives_or_say_that_a_gradient_would_be_lost(ufunc):
    args = arguments(ufunc)
    check(ufunc, args, {})
    if ufunc.nin == 2 and ufunc.signature is None:
        check(lambda y: ufunc(args[0], y), args[1:], {})
        check(lambda x: ufunc(x, 2), args[:1], {})
        if ufunc.nout == 1:
            check(ufunc.outer, args, {})
    elif ufunc.nin == ufunc.nout == 1 and args[0] is A and ufunc(A).dtype.kind == "f":
        check(ufunc, args, {"dtype": "float32"})


REDUCED = [np.add, np.multiply, np.maximum, np.minimum, np.logical_and, np.logical_or, np.logaddexp, np.bitwise_or]


@pytest.mark.parametrize("ufunc", REDUCED, ids=lambda ufunc: ufunc.__name__)
@pytest.mark.parametrize(
    "named",
    [{}, {"axis": 1}, {"axis": None}, {"keepdims": True}, {"axis": 1, "initial": 2}, {"where": M, "initial": 1}],
)
def test_reductions_of_universal_functions(ufunc, named):
    arrays = (I if ufunc is np.bitwise_or else A,)
    check(ufunc.reduce, arrays, named)
    check(ufunc.accumulate, arrays, {"axis": 1})


def test_functions_that_are_ops_carry_gradients():
    carried = {name for name, function, args, named in CASES if check(function, args, named)}
    expected = (
        "sum prod max min mean var std median cumsum cumprod diff clip where select nan_to_num reshape transpose "
    )
    expected += "moveaxis squeeze concatenate stack vstack hstack split take take_along_axis sort dot inner outer vdot "
    expected += "tensordot diagonal trace diag pad roll tile repeat tril average ptp nansum linalg.norm linalg.matmul"
    assert carried >= set(expected.split())
    assert carried >= {"einsum", "cross", "nanmax", "nanmin"}
    assert {"interp", "linalg.inv", "linalg.svd"}.isdisjoint(carried)


@pytest.mark.parametrize(("name", "function", "args", "named"), CASES, ids=IDS)
def test_gradients_match_differences(name, function, args, named):
    outputs = check(function, args, named)
    exact = all(out.dtype == "float64" and ln.isfinite(out).all() for out in outputs)
    if not outputs or not exact or name in ("round", "around", "fix", "imag", "nan_to_num"):
        return
    rng = np.random.default_rng(1)
    given = tensors(args, trained=True)
    inputs = [leaf for leaf in leaves(given) if isinstance(leaf, ln.Tensor) and leaf.requires_grad]
    found = [out for out in leaves(function(*given, **named)) if isinstance(out, ln.Tensor)]
    weights = [rng.standard_normal(out.shape) for out in found]

    def total(outputs):
        return sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True))

    gradients = total(found).backward()
    steps = [1e-6 * rng.standard_normal(x.shape) for x in inputs]
    got = sum((gradients[x].numpy() * step).sum() for x, step in zip(inputs, steps, strict=True) if x in gradients)
    moved = []
    for sign in (1, -1):
        shifts = iter(steps)
        moved.append(total(leaves(function(*shifted(args, shifts, sign), **named))))
    assert 1e6 * float(got) == pytest.approx(5e5 * float(moved[0] - moved[1]), rel=1e-5, abs=1e-6)


def shifted(value, steps, sign):
    """The same arguments with floating arrays moved a little."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value + sign * next(steps)
    if isinstance(value, list | tuple):
        return type(value)(shifted(part, steps, sign) for part in value)
    return value


# Operands of other kinds


def test_arrays_and_numbers_on_the_left_give_tensors():
    t = ln.asarray(v, requires_grad=True)
    for out in (v * t, v + t, v - t, v / t, v**t, np.float64(2) * t, np.float32(2) - t, v @ t, 2 * t):
        assert isinstance(out, ln.Tensor)
        assert out.requires_grad
    assert isinstance(v < t, ln.Tensor)
    assert (v == t).tolist() == [True] * 5


def test_positions_that_are_tensors_index_arrays():
    t = ln.asarray([3.0, 1.0, 2.0])
    array = np.array([10, 20, 30])
    assert array[np.argsort(t)].tolist() == [20, 30, 10]
    assert array[np.argmax(t)] == 10
    assert array[np.where(t > 1.5)].tolist() == [10, 30]


def test_dtypes_that_no_tensor_has_stay_with_numpy():
    t = ln.asarray(v)
    assert np.add(np.array(1j), t).dtype == "complex128"
    assert np.multiply(t, 2j).tolist() == (v * 2j).tolist()
    with pytest.raises(GradientError):
        np.add(np.array(1j), ln.asarray(v, requires_grad=True))


def test_other_libraries_decide_for_their_own_operands():
    class Theirs:
        def __array_ufunc__(self, ufunc, method, *inputs, **named):
            return "theirs"

        def __array_function__(self, function, types, args, named):
            return "theirs"

    assert np.add(ln.ones(1), Theirs()) == "theirs"
    assert np.concatenate([ln.ones(1), Theirs()]) == "theirs"


# Errors


def test_no_tensor_is_written_by_numpy():
    t = ln.zeros(5, dtype="float64")
    for call in (lambda: np.add(v, v, out=t), lambda: np.sum(ln.ones((2, 5)), axis=0, out=t)):
        with pytest.raises(TypeError, match="out= must not be a tensor"):
            call()
    for call in (lambda: np.add.at(t, [0], 1.0), lambda: np.copyto(t, v), lambda: np.put(t, [0], 1.0)):
        with pytest.raises(TypeError, match="does not write into a tensor"):
            call()
    assert not t.numpy().any()


def test_writing_into_an_array_loses_a_gradient():
    w, array = ln.asarray(v, requires_grad=True), v.copy()

    def in_place():
        target = array
        target += w

    for call in (
        in_place,
        lambda: np.exp(w, out=array),
        lambda: np.copyto(array, w),
        lambda: np.add.at(array, [0], w[:1]),
    ):
        with pytest.raises(GradientError, match=r"detach\(\)"):
            call()
    np.testing.assert_array_equal(array, v)
    array += w.detach()
    assert np.exp(w.detach(), out=array) is array
    with ln.no_grad():
        np.copyto(array, w)
    np.testing.assert_array_equal(array, v)


def test_no_gradient_is_lost_where_none_is_recorded():
    w = ln.asarray(A, requires_grad=True)
    with ln.no_grad():
        np.testing.assert_allclose(np.cbrt(w), np.cbrt(A))
        np.testing.assert_allclose(np.interp(w, [-9, 9], [0, 1]), np.interp(A, [-9, 9], [0, 1]))
    assert np.allclose(w, A)
    assert np.shape(w) == (3, 4)


def test_every_entry_of_the_table_is_tested():
    assert UFUNCS.keys() <= set(UNIVERSAL)


def test_what_is_no_tensor_keeps_the_meaning_that_numpy_gives_it():
    broadcast = np.broadcast_arrays(ln.asarray(v), None)
    assert broadcast[1].tolist() == [None] * 5
    with pytest.raises(GradientError):
        np.broadcast_arrays(ln.asarray(v, requires_grad=True), None)
