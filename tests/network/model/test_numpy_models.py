"""Models that are written in NumPy's functions train over HTTP."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import RemoteFailure

X = np.linspace(-2, 2, 16).astype("float32")


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        lambda w: lambda x: np.sin(x) * w,
        lambda w: lambda x: np.where(x > 0, np.sin(x), np.sin(x)) * np.sum(w),
        lambda w: lambda x: np.concatenate([np.sin(x[:8]), np.sin(x[8:])]) * np.mean(w),
    ],
)
def test_a_model_in_numpy_trains(model, compile):
    weight = ln.asarray([0.0], requires_grad=True)
    with ln.network.serve_model(model(weight), ln.optim.SGD(0.5), port=0, compile=compile) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        for _ in range(20):
            ln.loss.mse(remote(ln.asarray(X)), ln.asarray(3 * np.sin(X))).backward()
    np.testing.assert_allclose(weight.numpy(), [3.0], rtol=1e-3)


def test_a_gradient_that_would_be_lost_is_an_error_of_the_call():
    weight = ln.asarray([1.0], requires_grad=True)
    with ln.network.serve_model(lambda x: np.cbrt(x * weight), ln.optim.SGD(0.5), port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        with pytest.raises(RemoteFailure, match=r"np\.cbrt.*detach\(\)"):
            remote(ln.asarray(X))


def test_outputs_of_remote_models_go_through_numpy_with_their_gradient():
    weight = ln.asarray([0.0], requires_grad=True)
    with ln.network.serve_model(lambda x: x * weight, ln.optim.SGD(0.1), port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        for _ in range(30):
            np.mean(np.square(remote(ln.asarray(X)) - 2 * X)).backward()
    np.testing.assert_allclose(weight.numpy(), [2.0], rtol=1e-2)
