"""Models that are served compiled: nobody can tell but by the time it takes."""

import threading

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import BadGradient, RemoteFailure, ServeError, StaleGradient, TraceError
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking

rng = np.random.default_rng(0)
RATE = 0.25


def network():
    ln.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 16), nn.relu, nn.Linear(16, 16), ln.tanh, nn.Linear(16, 2))


def linear():
    ln.manual_seed(0)
    return nn.Linear(2, 1)


def normal(*shape):
    return ln.asarray(rng.standard_normal(shape).astype("float32"))


def computing(server):
    return server._model.compute


def serve(model, *, x, optimizer=None, **options):
    """Serve a model whose versions for training and for evaluation with such an input are compiled already."""
    optimizer = ln.optim.SGD(lr=RATE) if optimizer is None else optimizer
    server = ln.network.serve_model(model, optimizer, port=0, compile=True, **options)
    remote = blocking(server)
    out = remote(x)
    out.backward(ln.zeros(out.shape))
    assert computing(server).wait()
    return server


def is_compiled(server):
    """Tell whether the last graph that a server keeps comes from a compiled forward."""
    *_, kept = server._model.calls._kept.entries.values()
    return {type(node).__name__ for node in kept.graph.nodes} == {"Result", "CompiledCall", "Leaf"}


def train(remotes, inputs, seeds):
    """Interleave forwards and backwards of several trainers, with forwards that wait for later updates."""
    found, waiting = [], []
    for step, (x, seed) in enumerate(zip(inputs, seeds, strict=True)):
        out = remotes[step % len(remotes)](x)
        found.append(out.numpy())
        waiting.append((out, seed))
        if step % 3 == 2:
            for late, gradient in reversed(waiting):
                late.backward(gradient)
            waiting.clear()
    return found


@pytest.mark.parametrize("optimizer", [lambda: ln.optim.SGD(lr=0.05, momentum=0.9), ln.optim.Adam], ids=["sgd", "adam"])
def test_two_trainers_with_forwards_and_backwards_in_turns_find_what_they_find_eagerly(optimizer):
    inputs, seeds = [normal(5, 3) for _ in range(30)], [normal(5, 2) for _ in range(30)]
    plain, model = network(), network()
    with ln.network.serve_model(plain, optimizer(), port=0) as server:
        expected = train([blocking(server), blocking(server)], inputs, seeds)
    with serve(model, x=inputs[0], optimizer=optimizer(), name="compiled") as server:
        model.load_state_dict(network().state_dict())
        server._model.updates.optimizer = optimizer()
        found = train([blocking(server), blocking(server)], inputs, seeds)
        last = blocking(server)(inputs[0])
        assert is_compiled(server)
        assert server.statistics()["server"]["version"] == 31
        assert last.shape == (5, 2)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-4)


def test_trainers_at_once_lose_no_update_and_no_forward_sees_two_versions():
    """Both weights are moved alike, so any mix of two versions would show as a difference."""

    def model(x):
        return ln.concat([x * first, x * second])

    first, second = ln.zeros(1, requires_grad=True), ln.zeros(1, requires_grad=True)
    halves, x = [], ln.ones(1)
    with serve(model, x=x) as server:

        def work():
            remote = blocking(server)
            for _ in range(40):
                out = remote(x)
                halves.append(out.tolist())
                out.sum().backward()

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(SECONDS)
        assert server.statistics()["server"]["version"] == 81
    assert first.item() == second.item() == -80 * RATE
    assert all(a == b for a, b in halves)
    assert len({a for a, _ in halves}) > 1


def test_the_gradient_of_the_input_comes_back():
    model, x = network(), ln.asarray(normal(5, 3), requires_grad=True)
    expected = model(x).sum().backward()[x].numpy()
    with serve(model, x=normal(5, 3)) as server:
        remote = blocking(server)
        remote(x).sum().backward()  # compiled anew: the input takes part
        computing(server).wait()
        model.load_state_dict(network().state_dict())
        out = remote(x)
        assert is_compiled(server)
        gradients = out.sum().backward()
    np.testing.assert_allclose(gradients[x].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_staleness_is_counted_refused_and_scaled_as_ever():
    model, x = linear(), ln.ones((1, 2))
    with serve(model, x=x, max_staleness=1, staleness="scale") as server:
        remote = blocking(server)
        before = model.bias.item()
        late, later = remote(x).sum(), remote(x).sum()
        remote(x).sum().backward()
        late.backward()
        assert model.bias.item() == np.float32(np.float32(before) - RATE) - np.float32(RATE / 2)
        with pytest.raises(StaleGradient, match="changed 2 times"):
            later.backward()
        assert server.statistics()["server"]["staleness_histogram"] == {"0": 2, "1": 1}


def test_accumulated_gradients_make_one_update():
    model, x = linear(), ln.ones((1, 2))
    with ln.network.serve_model(model, ln.optim.SGD(lr=RATE), port=0, compile=True, accumulate=2) as server:
        remotes = [blocking(server) for _ in range(2)]
        outs = [remote(x).sum() for remote in remotes]
        computing(server).wait()
        outs = [remote(x).sum() for remote in remotes]
        before = model.bias.item()
        workers = [threading.Thread(target=out.backward) for out in outs]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(SECONDS)
        assert model.bias.item() == np.float32(before) - np.float32(2 * RATE)
        assert server.statistics()["server"]["version"] == 1


def test_a_gradient_that_becomes_infinite_changes_nothing_and_can_be_sent_again():
    model, x = linear(), ln.asarray([[3e38, 1.0]])
    with serve(model, x=ln.ones((1, 2))) as server:
        before = model.weight.tolist()
        out = blocking(server)(x)
        for _ in range(2):
            with pytest.raises(BadGradient, match="no weight has changed"):
                out.backward(ln.asarray([[10.0]]), retain_graph=True)
        assert model.weight.tolist() == before


def test_weights_evaluation_and_names_are_those_of_the_model():
    model = network()
    with serve(model, x=normal(5, 3)) as server:
        remote = blocking(server)
        assert server.name == "Sequential"
        assert remote.state_dict().keys() == model.state_dict().keys()
        with ln.no_grad():
            np.testing.assert_allclose(remote(ln.ones((5, 3))).numpy(), model(ln.ones((5, 3))).numpy(), rtol=1e-4)


def test_named_inputs_and_several_outputs():
    weight = ln.ones(2, requires_grad=True)

    def model(a, b):
        return {"sum": a * weight + b, "product": a * b}

    server = ln.network.serve_model(model, ln.optim.SGD(lr=RATE), port=0, compile=True)
    with server:
        remote = blocking(server)
        for _ in range(2):
            found = remote(a=ln.asarray([1.0, 2.0]), b=ln.asarray([3.0, 4.0]))
            assert found["product"].tolist() == [3.0, 8.0]
            found["sum"].sum().backward()
            computing(server).wait()
    assert weight.tolist() == [0.5, 0.0]


def decides(x):
    return x if x.sum() > 0 else -x


async def later(x):
    return x


def test_a_model_that_cannot_be_compiled_says_where_and_what_to_do():
    with (
        ln.network.serve_model(decides, port=0, compile=True) as server,
        pytest.raises(
            RemoteFailure, match=r"ln\.where.*test_compiled\.py:\d+.*return x if x.*serve it without compile"
        ),
    ):
        blocking(server)(ln.ones(2))


def test_an_async_model_is_refused_when_it_is_served():
    with pytest.raises(ServeError, match="async model cannot be compiled: serve it without compile"):
        ln.network.serve_model(later, port=0, compile=True)


def test_a_lazy_model_is_compiled_once_it_has_parameters():
    model = nn.LazyLinear(2)
    with pytest.raises(ServeError, match="LazyLinear, are made by its first call: call the model on a batch"):
        ln.network.serve_model(model, port=0, compile=True)
    with pytest.raises(TraceError, match="cannot compile LazyLinear before its first call"):
        ln.jit(model)(ln.ones((3, 4)))
    wanted = model(ln.ones((3, 4)))
    with serve(model, x=ln.ones((3, 4))) as server:
        np.testing.assert_allclose(blocking(server)(ln.ones((3, 4))).numpy(), wanted.numpy(), rtol=1e-6)


def test_a_model_of_another_kind_is_refused_as_ever():
    with pytest.raises(ServeError, match="expected an object, got the class"):
        ln.network.serve_model(nn.Linear, port=0, compile=True)


def test_dropout_and_modes_follow_the_call():
    drop = nn.Dropout(0.5)
    with serve(drop, x=ln.ones((4, 4))) as server:
        remote = blocking(server)
        out = remote(ln.ones((4, 4)))
        assert sorted(set(out.reshape((-1,)).tolist())) == [0.0, 2.0]
        with ln.no_grad():
            assert remote(ln.ones((4, 4))).tolist() == ln.ones((4, 4)).tolist()
