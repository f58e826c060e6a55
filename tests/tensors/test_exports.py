"""Tensors in other libraries: whatever their strides, a copy or an error, never the end of the process."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

import labnet as ln
from tests.helpers.tensors.torch_comparison import torch_or_skip

TENSORS = {
    "backwards": lambda: ln.arange(4.0)[::-1],
    "one axis backwards": lambda: ln.ones((3, 4))[::-1, ::2],
    "flipped": lambda: ln.flip(ln.asarray(np.arange(6).reshape(2, 3))),
    "repeated": lambda: ln.broadcast_to(ln.asarray([1.0, 2.0]), (3, 2)),
    "repeated and backwards": lambda: ln.broadcast_to(ln.asarray([1.0, 2.0]), (3, 2))[:, ::-1],
    "transposed": lambda: ln.asarray(np.arange(6.0).reshape(2, 3)).T,
    "no rows, backwards": lambda: ln.zeros((0, 3))[:, ::-1],
    "no columns, backwards": lambda: ln.zeros((3, 0))[::-1],
    "a number": lambda: ln.asarray(2.5),
    "booleans, backwards": lambda: ln.asarray([True, True, False])[::-1],
    "float16, backwards": lambda: ln.arange(3, dtype="float16")[::-1],
    "a leaf": lambda: ln.arange(3.0, requires_grad=True),
    "a field of records": lambda: ln.asarray(np.ones(3, [("a", "u1"), ("b", "<f4")])["b"]),
}
WAYS = ("torch.tensor", "torch.as_tensor", "torch.asarray", "torch.from_dlpack", "np.from_dlpack", "ln.from_dlpack")

PROGRAM = """
import sys, warnings
import numpy as np, torch, labnet as ln
from tests.tensors.test_exports import TENSORS, WAYS
warnings.simplefilter("ignore")  # torch's, of memory that must not be written
for way in WAYS:
    for name, make in TENSORS.items():
        print(f"{way}: {name}", flush=True)
        tensor = make()
        found = eval(way)(tensor)
        assert np.array_equal(np.asarray(found), tensor.numpy()), (way, name, found, tensor)
"""


def test_other_libraries_read_tensors_of_any_strides():
    torch_or_skip()
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1]}\n{done.stderr[-2000:]}"
    assert done.stdout.splitlines() == [f"{way}: {name}" for way, name in itertools.product(WAYS, TENSORS)]


@pytest.mark.parametrize("name", ["backwards", "a field of records"])
def test_dlpack_without_a_copy_is_refused_where_it_needs_one(name):
    with pytest.raises(BufferError, match=r"strides .* need a copy"):
        TENSORS[name]().__dlpack__(max_version=(1, 0), copy=False)


def test_what_lies_forwards_is_shared():
    tensor = ln.asarray(np.arange(6.0).reshape(2, 3)).T
    assert np.shares_memory(np.from_dlpack(tensor), tensor.numpy())


def test_a_copy_for_another_library_is_its_own():
    tensor = ln.arange(4.0)
    backwards = tensor[::-1]
    taken = np.from_dlpack(backwards)
    tensor[...] = 0
    assert taken.tolist() == [3, 2, 1, 0]
