"""A network with batch normalisation for the digits, trained by a compiled step and served compiled."""

import numpy as np
import pytest

import labnet as ln

datasets = pytest.importorskip("sklearn.datasets")


def network():
    ln.manual_seed(0)
    return ln.nn.Sequential(
        ln.nn.Conv2d(1, 8, 3, padding=1),
        ln.nn.BatchNorm2d(8),
        ln.nn.relu,
        ln.nn.MaxPool2d(2),
        lambda x: x.reshape((x.shape[0], 128)),
        ln.nn.Linear(128, 16),
        ln.nn.BatchNorm1d(16),
        ln.nn.relu,
        ln.nn.Linear(16, 10),
    )


def batches(count):
    digits = datasets.load_digits()
    images = (digits.images[:, None] / 16).astype("float32")
    for number in range(count):
        part = slice(32 * number, 32 * (number + 1))
        yield ln.asarray(images[part]), ln.asarray(digits.target[part])


def trained(compile):
    model, optimizer = network(), ln.optim.SGD(lr=0.05, momentum=0.9)

    def step(x, y):
        loss = ln.loss.cross_entropy(model(x), y)
        optimizer(loss.backward())
        return loss

    run = ln.jit(step) if compile else step
    losses = [run(x, y).item() for x, y in batches(8)]
    model.eval()
    infer = ln.jit(lambda x: model(x)) if compile else model
    x, _ = next(batches(1))
    return losses, infer(x), model.state_dict()


def test_a_compiled_step_trains_batch_normalisation_as_an_eager_one():
    (losses, scores, state), (wanted, expected, twin) = trained(True), trained(False)
    np.testing.assert_allclose(losses, wanted, rtol=1e-3)
    np.testing.assert_allclose(scores.numpy(), expected.numpy(), rtol=5e-3, atol=5e-3)
    assert list(state) == list(twin)
    for name, value in state.items():
        np.testing.assert_allclose(value.numpy(), twin[name].numpy(), rtol=5e-3, atol=1e-3, err_msg=name)
    assert state["1.num_batches_tracked"].item() == 8


def test_a_network_with_batch_normalisation_is_served_compiled_and_trained_over_the_network():
    model, twin, optimizer = network(), network(), ln.optim.SGD(lr=0.05)
    with ln.network.serve_model(model, ln.optim.SGD(lr=0.05), port=0, compile=True) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        for x, y in batches(8):
            loss = ln.loss.cross_entropy(remote(x), y)
            loss.backward()
            expected = ln.loss.cross_entropy(twin(x), y)
            optimizer(expected.backward())
            np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-3)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), twin.state_dict()[name].numpy(), rtol=1e-2, atol=1e-3, err_msg=name)
