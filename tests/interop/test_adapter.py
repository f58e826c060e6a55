"""The protocol of adapters, with a library that labnet does not know."""

from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import labnet as ln
from labnet.errors import RemoteGradientError, ServeError
from labnet.network.adapters import model_adapter
from labnet.store.training import Store
from tests.helpers.network.client_calls import blocking
from tests.interop import toy


@pytest.fixture(params=["handed over", "registered", "entry point"])
def known(request, monkeypatch):
    """Return how a toy model is given to `serve_model`, in each of the three ways in which labnet gets to know it."""
    if request.param == "handed over":
        return lambda model, rule: (toy.PerceptronAdapter(model, rule), None)
    if request.param == "registered":
        monkeypatch.setattr(model_adapter, "_registered", {})
        ln.interop.register("tests.interop.toy", toy.adapt)
    else:
        point = EntryPoint("tests.interop.toy", "tests.interop.toy:adapt", model_adapter.GROUP)
        monkeypatch.setattr(model_adapter, "entry_points", lambda group: [point])
    return lambda model, rule: (model, rule)


def steps(remote, number):
    for position in range(number):
        x = ln.asarray(np.full((2, 3), position + 1, "float32"), requires_grad=True)
        ln.square(remote(x)).sum().backward()


def expected(number):
    model, rule = toy.Perceptron(3, 2), toy.Rule(0.001)
    for position in range(number):
        rows = np.full((2, 3), position + 1, "float32")
        model.weights = rule.moved(model.weights, rows.T @ (2 * model.respond(rows)))
    return model.weights


def test_a_model_of_a_fifth_library_is_trained(known):
    model = toy.Perceptron(3, 2)
    with ln.network.serve_model(*known(model, toy.Rule(0.001)), port=0) as server:
        remote = blocking(server)
        steps(remote, 4)
        np.testing.assert_array_equal(remote.state_dict()["weights"].numpy(), expected(4))
        x = ln.asarray(np.ones((1, 3), "float32"), requires_grad=True)
        weights = model.weights
        np.testing.assert_array_equal(remote(x).sum().backward()[x].numpy()[0], weights.sum(1))
    assert server.statistics()["server"]["version"] == 5


def test_its_store_brings_back_weights_and_optimizer(tmp_path):
    for number in (3, 2):
        adapter = toy.PerceptronAdapter(toy.Perceptron(3, 2), toy.Rule(0.001))
        with ln.network.serve_model(adapter, port=0, store=tmp_path) as server:
            remote = blocking(server)
            before = server.statistics()["server"]["version"]
            for position in range(before, before + number):
                x = ln.asarray(np.full((2, 3), position + 1, "float32"))
                ln.square(remote(x)).sum().backward()
    np.testing.assert_array_equal(adapter.model.weights, expected(5))


def test_a_journal_is_replayed_after_a_crash(tmp_path, monkeypatch):
    adapter = toy.PerceptronAdapter(toy.Perceptron(3, 2), toy.Rule(0.001))
    monkeypatch.setattr(Store, "checkpoint", lambda self: None)  # as a process that was killed: nothing but its journal
    with ln.network.serve_model(adapter, port=0, store=tmp_path) as server:
        steps(blocking(server), 3)
    monkeypatch.undo()
    adapter = toy.PerceptronAdapter(toy.Perceptron(3, 2), toy.Rule(0.5))
    with ln.network.serve_model(adapter, port=0, store=tmp_path) as server:
        assert server.served.store.replayed == 3
    np.testing.assert_array_equal(adapter.model.weights, expected(3))
    assert adapter.rule.rate == 0.5


def test_an_optimizer_of_labnet_trains_it():
    model = toy.Perceptron(3, 2)
    with ln.network.serve_model(toy.PerceptronAdapter(model), ln.optim.SGD(lr=0.001), port=0) as server:
        steps(blocking(server), 1)
    wanted = toy.Perceptron(3, 2)
    rows = np.ones((2, 3), "float32")
    wanted.weights -= np.float32(0.001) * (rows.T @ (2 * wanted.respond(rows)))
    np.testing.assert_allclose(model.weights, wanted.weights, rtol=1e-6)


def test_the_optimizer_of_another_library_is_refused():
    with pytest.raises(ServeError, match="Rule cannot train this model"):
        ln.network.serve_model(toy.PerceptronAdapter(toy.Perceptron(3, 2)), toy.Rule(0.1), port=0)


def test_an_adapter_without_gradients_only_predicts():
    class Doubling(ln.interop.ModelAdapter):
        def call(self, inputs, named, *, training, wanted):
            return inputs[0] * 2, None

        def pull_back(self, record, gradients):
            raise ln.errors.GradientError("doubling has no gradient")

    with ln.network.serve_model(Doubling(), port=0) as server:
        y = blocking(server)(ln.asarray([1.0], requires_grad=True))
        assert y.tolist() == [2.0]
        with pytest.raises(RemoteGradientError, match="doubling has no gradient"):
            y.backward()


def test_a_gradient_of_an_unknown_parameter_is_an_error():
    class Wrong(toy.PerceptronAdapter):
        def pull_back(self, record, gradients):
            return [None], {"weight": np.ones(1)}

    with ln.network.serve_model(Wrong(toy.Perceptron(3, 2)), port=0) as server:
        loss = blocking(server)(ln.ones((1, 3))).sum()
        with pytest.raises(RemoteGradientError, match="'weight' is no parameter"):
            loss.backward()


def test_the_adapter_is_as_short_as_the_page_says():
    source = Path(toy.__file__).read_text().partition("class PerceptronAdapter")[2]
    assert len([line for line in source.splitlines() if line]) <= 45
