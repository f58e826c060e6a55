"""Trainers with local steps: what they changed is applied once, rounded or not, whichever requests fail."""

import asyncio

import numpy as np
import pytest

import labnet as ln
from labnet.errors import BadGradient, RemoteError, ServeError, StaleGradient
from labnet.network.protocol.differences import dequantize, encode
from tests.helpers.network.store_process import end, start
from tests.helpers.network.store_server import batch, make_model
from tests.helpers.ports import free_port

ROUNDS, STEPS = 3, 4


def outer():
    return ln.optim.SGD(lr=0.7, momentum=0.9, nesterov=True)


def trainer(url, **options):
    return ln.network.remote_model(
        url, local_steps=STEPS, model=make_model(), optimizer=ln.optim.Adam(lr=0.01), blocking=True, **options
    )


def train(remote, steps, begin=0):
    for number in range(begin, begin + steps):
        x, y = batch(number)
        remote.step(x, y, loss=ln.loss.mse)


def expected(optimizer, rounds=ROUNDS, dtype=None):
    """Return the weights that DiLoCo of one trainer gives in this process."""
    served, copy, inner = make_model(), make_model(), ln.optim.Adam(lr=0.01)
    left, begin = {}, 0
    for _ in range(rounds):
        start = {name: np.array(p.numpy()) for name, p in served.named_parameters()}
        for name, p in copy.named_parameters():
            p.assign(ln.asarray(start[name]))
        for number in range(begin, begin + STEPS):
            x, y = batch(number)
            inner(ln.loss.mse(copy(x), y).backward())
        begin += STEPS
        changes = {name: start[name] - p.numpy() + left.get(name, 0) for name, p in copy.named_parameters()}
        _, left = encode(changes, dtype)
        sent = {name: change - left.get(name, 0) for name, change in changes.items()}
        optimizer(ln.autograd.Gradients([(p, ln.asarray(sent[name])) for name, p in served.named_parameters()]))
    return {name: p.numpy() for name, p in served.named_parameters()}


def weights(remote):
    return {name: tensor.numpy() for name, tensor in remote.state_dict().items()}


def test_one_trainer_gives_the_weights_of_diloco_in_this_process_to_the_bit():
    with ln.network.serve_model(make_model(), outer(), port=0) as server:
        remote = trainer(server.url)
        train(remote, ROUNDS * STEPS)
        found, wanted = weights(remote), expected(outer())
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
        assert (remote.local.rounds, server.statistics()["server"]["version"]) == (ROUNDS, ROUNDS)
        assert all(np.array_equal(found[n], p.numpy()) for n, p in remote.local.model.named_parameters())


@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", 0.5), ("int8", 0.25)])
def test_rounded_differences_are_smaller_and_what_was_rounded_off_follows(dtype, share):
    with ln.network.serve_model(make_model(), outer(), port=0) as server:
        remote = trainer(server.url, wire_dtype=dtype)
        train(remote, ROUNDS * STEPS)
        found, wanted = weights(remote), expected(outer(), dtype=dtype)
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)
    large = {"weight": np.random.default_rng(0).normal(size=(100, 100)).astype("float32")}
    whole, rounded = (sum(map(len, encode(large, kind)[0].parts)) for kind in (None, dtype))
    assert share < rounded / whole < share + 0.02


def test_differences_that_are_rounded_add_up_to_those_that_are_not():
    chance, left = np.random.default_rng(0), {}
    total = sent = np.zeros((8, 8))
    for _ in range(50):
        change = chance.normal(size=(8, 8)).astype("float32")
        given = {"w": change + left.get("w", np.float32(0))}
        _, left = encode(given, "int8")
        total, sent = total + change, sent + given["w"] - left["w"]
    np.testing.assert_allclose(sent, total, atol=0.05)


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 1e-30])
def test_differences_of_any_size_are_rounded_to_their_nearest_integers(largest):
    given = {"w": np.linspace(-largest, largest, 9, dtype="float32"), "none": np.zeros(0, "float32")}
    _, left = encode(given, "int8")
    assert np.all(np.abs(left["w"]) <= max(largest / 200, np.finfo("float32").tiny))
    np.testing.assert_array_equal(np.sign(given["w"] - left["w"]) * np.sign(given["w"]) >= 0, True)


def test_the_rest_of_a_round_is_sent_at_the_end_and_only_once():
    with ln.network.serve_model(make_model(), outer(), port=0) as server:
        remote = trainer(server.url)
        train(remote, STEPS + 1)
        remote.synchronize()
        remote.synchronize()
        assert (remote.local.rounds, server.statistics()["server"]["version"]) == (2, 2)


def test_several_trainers_make_one_update_of_a_round_where_the_server_accumulates():
    with ln.network.serve_model(make_model(), outer(), port=0, accumulate=2) as server:
        remotes = [
            ln.network.remote_model(
                server.url, local_steps=STEPS, model=make_model(), optimizer=ln.optim.Adam(lr=0.01), client=name
            )
            for name in "ab"
        ]

        async def run(remote, begin):
            for number in range(begin, begin + STEPS):
                x, y = batch(number)
                await remote.step(x, y, loss=ln.loss.mse)

        async def both():
            await ln.network.all(*[run(remote, 10 * place) for place, remote in enumerate(remotes)])

        asyncio.run(both())
        assert server.statistics()["server"]["version"] == 1
        one, other = ({n: p.numpy() for n, p in r.local.model.named_parameters()} for r in remotes)
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_killed_server_applies_each_difference_once(tmp_path):
    port = free_port()
    process, said = start(tmp_path, port)
    remote = trainer(f"127.0.0.1:{port}", token=said["token"])
    try:
        train(remote, STEPS + 2)
        end(process, 9)
        process, said = start(tmp_path, port)
        remote._caller.where.token = said["token"]
        train(remote, 2 * STEPS - 2, begin=STEPS + 2)
        found, wanted = weights(remote), expected(ln.optim.Adam(lr=0.01))
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    finally:
        end(process)


@pytest.mark.parametrize("applied", ["unknown", None])
def test_a_difference_is_sent_again_after_an_error_and_counts_once(applied):
    with ln.network.serve_model(make_model(), outer(), port=0) as server:
        remote = trainer(server.url)
        train(remote, STEPS - 1)
        real, errors = remote._caller.call, [RemoteError("cut", server="s", route="/optimize", applied=applied)]

        async def call(method, route, *arguments, **given):
            response = await real(method, route, *arguments, **given)
            if route == "/optimize" and errors:
                raise errors.pop()  # it was applied, and the reply is lost
            return response

        remote._caller.call = call
        with pytest.raises(RemoteError, match="cut"):
            train(remote, 1, begin=STEPS - 1)
        train(remote, 2 * STEPS, begin=STEPS)
        assert (remote.local.rounds, server.statistics()["server"]["version"]) == (ROUNDS, ROUNDS)
        found, wanted = weights(remote), expected(outer())
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_what_local_steps_need_is_said():
    with ln.network.serve_model(make_model(), outer(), port=0) as server:
        with pytest.raises(ServeError, match="local_steps need model="):
            ln.network.remote_model(server.url, local_steps=2)
        with pytest.raises(ValueError, match="local_steps must be a number from 1 on, got 0"):
            ln.network.remote_model(server.url, local_steps=0, model=make_model(), optimizer=outer())
        with pytest.raises(ValueError, match=r"wire_dtype must be one of .* got 'float8'"):
            ln.network.remote_model(
                server.url, local_steps=2, model=make_model(), optimizer=outer(), wire_dtype="float8"
            )
        with pytest.raises(TypeError, match="has no local copy"):
            ln.network.remote_model(server.url, blocking=True).step(1, 2, loss=ln.loss.mse)
        other = ln.network.remote_model(
            server.url, local_steps=2, model=ln.nn.Linear(2, 1), optimizer=outer(), blocking=True
        )
        with pytest.raises(
            ServeError, match=r"the parameter '0\.weight' is \(4, 3\) on the server and missing in model="
        ):
            other.step(*batch(0), loss=ln.loss.mse)


def test_a_server_without_parameters_says_so():
    with ln.network.serve_model(ln.nn.LazyLinear(1), outer(), port=0) as server:
        remote = trainer(server.url)
        with pytest.raises(RemoteError, match="no parameters to train, or makes them in its first call"):
            train(remote, 1)


def test_a_difference_that_is_refused_ends_its_round_only():
    with ln.network.serve_model(make_model(), outer(), port=0, max_staleness=0) as server:
        remote, other = trainer(server.url), trainer(server.url, client="other")
        train(remote, STEPS - 1)
        train(other, STEPS)
        with pytest.raises(StaleGradient):
            train(remote, 1)
        train(remote, STEPS - 1)
        next(iter(remote.local.model.parameters())).assign(ln.full((4, 3), float("nan")))
        with pytest.raises(BadGradient):
            remote.synchronize()
        train(remote, STEPS)
        assert (remote.local.rounds, server.statistics()["server"]["version"]) == (1, 2)


@pytest.mark.parametrize("scales", ["[]", "{}", '{"0.weight": 0}', '{"0.weight": "1"}', "no JSON"])
def test_scales_that_fit_no_tensor_are_refused(scales):
    with pytest.raises(ValueError, match="expected"):
        dequantize({"0.weight": ln.zeros((4, 3), dtype="int8")}, scales)
