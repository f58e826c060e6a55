"""Linear algebra of tensors on a GPU, which the CPU computes: values, gradients and devices."""

import numpy as np
import pytest

import labnet as ln
from tests.helpers.cuda.device_arrays import assert_same

X = np.random.default_rng(0).standard_normal((2, 2, 2)).astype("float32") + 2 * np.eye(2, dtype="float32")
FUNCTIONS = {
    "inv": ln.linalg.inv,
    "det": ln.linalg.det,
    "solve": lambda x: ln.linalg.solve(x, x * x),
    "cholesky": lambda x: ln.linalg.cholesky(x @ x.mT),
    "svdvals": ln.linalg.svdvals,
    "eigvalsh": ln.linalg.eigvalsh,
    "qr": lambda x: ln.linalg.qr(x).R,
    "pinv": ln.linalg.pinv,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_those_of_the_cpu(name):
    found = []
    for device in ("cpu", "cuda"):
        x = ln.asarray(X, device=device, requires_grad=True)
        out = FUNCTIONS[name](x)
        found.append([out, ln.grad((out * out).sum(), x)])
    for expected, got in zip(*found, strict=True):
        assert got.device == "cuda"
        assert_same(got, expected.detach().numpy(), rtol=1e-3, atol=1e-3)
