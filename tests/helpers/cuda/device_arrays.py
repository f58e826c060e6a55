"""What the tests of arrays on a GPU share: running one thing on both devices, and arrays of odd layouts."""

import os

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import labnet as ln
from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.driver.gpu import current_gpu

#: The emulated GPU, if that is asked for: its checks hold for every kernel.
EMULATED = None
if os.environ.get("LABNET_TEST_GPU") == "emulated":
    from tests.helpers.cuda.emulator import install

    EMULATED = install()
SIMULATED = current_gpu().simulated
DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32")
DTYPES = (*DTYPES, "float64")
#: A launch in the simulator takes a millisecond, and on a GPU the first one of a kernel half a second.
few = settings(max_examples=25, deadline=None, derandomize=True)


def tolerance(dtype):
    """How far a result may be off: the functions of a GPU are not those of the host."""
    return {"float16": 2e-3, "float32": 2e-5, "float64": 1e-10}.get(str(dtype), 0)


def assert_same(found, expected, **how):
    """Compare an array or tensor of any device with an array."""
    if isinstance(found, ln.Tensor):
        found = found.to("cpu").numpy()
    elif isinstance(found, DeviceArray):
        found = found.host()
    expected = np.asarray(expected)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    if expected.dtype.kind == "f":
        near = tolerance(expected.dtype)
        np.testing.assert_allclose(found, expected, **{"rtol": near, "atol": near, **how})
    else:
        np.testing.assert_array_equal(found, expected)


def drawn(shape, dtype, seed=0):
    """Return small numbers of a dtype."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        return rng.integers(0 if dtype.kind == "u" else -5, 6, shape).astype(dtype)
    return np.asarray(rng.uniform(-2, 2, shape)).astype(dtype)


@st.composite
def layouts(draw, max_dims=3, max_side=4):
    """Return a shape, and a function that makes a view of an array of it: sliced, flipped, permuted, stretched."""
    ndim = draw(st.integers(0, max_dims))
    shape = tuple(draw(st.integers(0, max_side)) for _ in range(ndim))
    key = tuple(draw(st.sampled_from([slice(None), slice(None, None, -1), slice(1, None), slice(None, None, 2)]))
                for _ in range(ndim))  # fmt: skip
    order = draw(st.permutations(range(ndim)))
    stretched = draw(st.booleans())

    def view(array):
        found = np.transpose(array[(*key, ...)], order)
        return np.broadcast_to(np.expand_dims(found, 0), (2, *found.shape)) if stretched else found

    return shape, view
