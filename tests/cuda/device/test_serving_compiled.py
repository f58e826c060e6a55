"""A model that is served compiled from a GPU is trained as one that computes eagerly on the CPU."""

import threading

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import BadGradient, RemoteFailure, ServeError, StaleGradient
from tests.helpers.cuda.device_arrays import assert_same

pytest.importorskip("tornado")
SECONDS, RATE = 60.0, 0.25


def network():
    ln.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.relu, nn.Linear(4, 2))


def computing(server):
    return server._model.compute.__wrapped__


def connected(server):
    return ln.network.remote_model(server.url, blocking=True)


def serve(model, optimizer, *inputs, **options):
    """Serve a model whose versions for such inputs are compiled already; a gradient of zeros has been applied."""
    server = ln.network.serve_model(model, optimizer, port=0, device="cuda", compile=True, **options)
    out = connected(server)(*inputs)
    out.backward(ln.zeros(out.shape))
    assert computing(server).wait()
    return server


def is_compiled(server):
    """Return whether the last graph that a server keeps comes from a compiled forward."""
    *_, kept = server._model.calls._kept.entries.values()
    return "CompiledCall" in {type(node).__name__ for node in kept.graph.nodes}


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
def test_two_trainers_in_turns_find_what_they_find_eagerly_on_the_cpu(optimizer):
    rng = np.random.default_rng(0)
    inputs, seeds = ([ln.asarray(rng.standard_normal((2, n)).astype("float32")) for _ in range(9)] for n in (3, 2))
    plain, model = network(), network()
    with ln.network.serve_model(plain, optimizer(), port=0) as server:
        expected = train([connected(server), connected(server)], inputs, seeds)
    with serve(model, optimizer(), inputs[0]) as server:
        model.load_state_dict(network().state_dict())
        server._model.updates.optimizer = optimizer()
        found = train([connected(server), connected(server)], inputs, seeds)
        connected(server)(inputs[0])
        assert is_compiled(server)
        assert server.statistics()["server"]["version"] == 10
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    for name, value in plain.state_dict().items():
        assert model.state_dict()[name].device == "cuda"
        assert_same(model.state_dict()[name], value.numpy(), rtol=1e-3, atol=1e-4)


def test_trainers_at_once_lose_no_update_and_no_forward_sees_two_versions():
    """Both weights are moved alike, so any mix of two versions would show as a difference."""

    def model(x):
        return ln.concat([x * first, x * second])

    first, second = (ln.zeros(1, device="cuda", requires_grad=True) for _ in range(2))
    halves, x = [], ln.ones(1)
    with serve(model, ln.optim.SGD(lr=RATE), x) as server:

        def work():
            remote = connected(server)
            for _ in range(6):
                out = remote(x)
                halves.append(out.tolist())
                out.sum().backward()

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(SECONDS)
        assert server.statistics()["server"]["version"] == 13
    assert first.item() == second.item() == -12 * RATE
    assert len(halves) == 12
    assert all(a == b for a, b in halves)


def test_a_backward_takes_the_weights_that_its_forward_saw_also_when_they_are_written_in_place():
    model = nn.Linear(2, 1, bias=False)
    x = ln.asarray([[1.0, 2.0]], requires_grad=True)
    with serve(model, None, x) as server:
        remote = connected(server)
        remote(x).sum().backward()
        computing(server).wait()
        weight = model.weight.tolist()
        out = remote(x)
        assert is_compiled(server)
        model.weight.assign([[100.0, 100.0]])
        assert out.sum().backward()[x].tolist() == weight
        assert remote(x).item() == 300.0


def test_late_gradients_are_counted_refused_and_scaled_as_ever():
    model, x = nn.Linear(2, 1), ln.ones((1, 2))
    with serve(model, ln.optim.SGD(lr=RATE), x, max_staleness=1, staleness="scale") as server:
        remote = connected(server)
        before = model.bias.item()
        late, later = remote(x).sum(), remote(x).sum()
        remote(x).sum().backward()
        late.backward()
        assert model.bias.item() == np.float32(np.float32(before) - RATE) - np.float32(RATE / 2)
        with pytest.raises(StaleGradient, match="changed 2 times"):
            later.backward()


def test_a_gradient_that_becomes_infinite_changes_nothing_and_can_be_sent_again():
    model = nn.Linear(2, 1)
    with serve(model, ln.optim.SGD(lr=RATE), ln.ones((1, 2))) as server:
        before = model.weight.tolist()
        out = connected(server)(ln.asarray([[3e38, 1.0]]))
        for _ in range(2):
            with pytest.raises(BadGradient, match="no weight has changed"):
                out.backward(ln.asarray([[10.0]]), retain_graph=True)
        assert model.weight.tolist() == before


def test_random_numbers_are_those_of_an_eager_model():
    found = []
    for compiled in (False, True):
        drop, x = nn.Dropout(0.5), ln.ones((4, 4), requires_grad=True)
        with ln.network.serve_model(drop, port=0, device="cuda", compile=compiled) as server:
            remote, outs = connected(server), []
            ln.manual_seed(5)
            for _ in range(3):
                outs.append(remote(x).tolist())
                if compiled:
                    assert computing(server).wait()
            assert is_compiled(server) == compiled
            with ln.no_grad():
                assert remote(x).tolist() == x.tolist()
        found.append(outs)
    assert found[0] == found[1]
    assert len({str(out) for out in found[0]}) == 3


def test_an_embedding_and_several_named_outputs():
    table = ln.ones((3, 2), device="cuda", requires_grad=True)

    def model(rows, scale):
        return {"rows": table[rows] * scale, "scale": scale}

    with ln.network.serve_model(model, ln.optim.SGD(lr=RATE), port=0, device="cuda", compile=True) as server:
        remote = connected(server)
        for _ in range(2):
            found = remote(rows=ln.asarray([2, 0, 2]), scale=ln.asarray([1.0, 2.0]))
            found["rows"].sum().backward()
            assert computing(server).wait()
        remote(rows=ln.asarray([2, 0, 2]), scale=ln.asarray([1.0, 2.0]))
        assert is_compiled(server)
        with pytest.raises(RemoteFailure, match=r"positions must lie in \[-3, 3\)"):
            remote(rows=ln.asarray([2, 0, 3]), scale=ln.asarray([1.0, 2.0]))
    assert table.tolist() == [[0.5, 0.0], [1.0, 1.0], [0.0, -1.0]]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_weights_survive_in_a_store(tmp_path, compiled):
    for steps in (3, 2):
        model, x = network(), ln.ones((2, 3))
        options = {"store": tmp_path / "store", "port": 0, "device": "cuda", "compile": compiled}
        with ln.network.serve_model(model, ln.optim.SGD(lr=0.05), **options) as server:
            for _ in range(steps):
                connected(server)(x).sum().backward()
                assert not compiled or computing(server).wait()
    plain, optimizer = network(), ln.optim.SGD(lr=0.05)
    for _ in range(5):
        optimizer(plain(x).sum().backward())
    for name, value in plain.state_dict().items():
        assert_same(model.state_dict()[name], value.numpy(), rtol=1e-4, atol=1e-5)


def decides(x):
    return x if x.sum() > 0 else -x


def test_what_cannot_be_compiled_says_where():
    def powers(x):
        return x**x

    for model, x, said in (
        (decides, ln.ones(2), r"ln\.where.*return x if x.*serve it without compile"),
        (powers, ln.ones(2, dtype="int64"), "pow has no kernel in compiled steps on 'cuda'.*serve it without compile"),
    ):
        with (
            ln.network.serve_model(model, port=0, device="cuda", compile=True) as server,
            pytest.raises(RemoteFailure, match=said),
        ):
            connected(server)(x)


def test_a_model_that_is_there_already_needs_the_device_to_be_said():
    model = nn.Linear(2, 1).to("cuda")
    with pytest.raises(ServeError, match="needs device='cuda'"):
        ln.network.serve_model(model, port=0, compile=True)
