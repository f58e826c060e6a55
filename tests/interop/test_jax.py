"""Functions of JAX that are served, and servers that are called from JAX."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import RemoteError, ServeError
from tests.helpers.libraries import jax_or_skip
from tests.helpers.network.client_calls import blocking

jax = jax_or_skip()
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def parameters():
    return {"hidden": {"w": jnp.asarray(normal(4, 8))}, "out": [jnp.asarray(normal(8, 2)), jnp.zeros(2)]}


def network(params, x):
    return jnp.tanh(x @ params["hidden"]["w"]) @ params["out"][0] + params["out"][1]


def served(function=network, optimizer=None, params=None, **options):
    return ln.network.serve_model(function, optimizer, params=params, port=0, **options)


def train(remote, x):
    x = ln.asarray(x, requires_grad=True)
    return ln.square(remote(x)).sum().backward()[x].numpy()


@pytest.mark.parametrize("make", [lambda: optax.adam(1e-2), lambda: optax.sgd(1e-2, momentum=0.9)], ids=["adam", "sgd"])
def test_a_served_function_is_trained_as_in_jax(make):
    optimizer, params = make(), parameters()
    state = optimizer.init(params)
    with served(optimizer=make(), params=parameters()) as server:
        remote = blocking(server)
        for seed in range(3):
            x = normal(5, 4, seed=seed)
            found = train(remote, x)
            gradients, wanted = jax.grad(lambda p, x: jnp.square(network(p, x)).sum(), (0, 1))(params, x)
            changes, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, changes)
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
        weights = remote.state_dict()
        trained = server.served.model.adapter.params
    assert list(weights) == ["hidden.w", "out.0", "out.1"]
    np.testing.assert_allclose(weights["hidden.w"].numpy(), params["hidden"]["w"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(weights["out.0"].numpy(), trained["out"][0])


def test_a_gradient_of_older_weights_is_the_one_of_those_weights():
    with served(optimizer=optax.sgd(0.1), params=parameters()) as server:
        remote, x = blocking(server), ln.asarray(normal(5, 4), requires_grad=True)
        first, second = remote(x), remote(x)
        first.sum().backward()
        found = second.sum().backward()[x].numpy()
    wanted = jax.grad(lambda x: network(parameters(), x).sum())(normal(5, 4))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_store_brings_back_parameters_and_the_state_of_optax(tmp_path):
    def session(folder, seeds):
        with served(optimizer=optax.adam(0.01), params=parameters(), store=folder) as server:
            for seed in seeds:
                train(blocking(server), normal(5, 4, seed=seed))
            return {name: tensor.numpy() for name, tensor in blocking(server).state_dict().items()}

    session(tmp_path / "halves", range(2))
    found, wanted = session(tmp_path / "halves", range(2, 4)), session(tmp_path / "whole", range(4))
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_compiled_function_without_parameters_has_its_gradient():
    with served(jax.jit(lambda x: jnp.sin(x))) as server:
        x = ln.asarray([0.0, 1.0], requires_grad=True)
        np.testing.assert_allclose(blocking(server)(x).sum().backward()[x].numpy(), np.cos([0, 1]), rtol=1e-6)


def test_inputs_and_outputs_by_name_and_training():
    def function(params, z, a, *, training):
        return {"y": params * z * a, "training": jnp.float32(training), "count": jnp.int32(3)}

    with served(function, params=jnp.float32(2.0), optimizer=optax.sgd(0.5)) as server:
        remote = blocking(server)
        z, a = ln.asarray([3.0], requires_grad=True), ln.asarray([5.0], requires_grad=True)
        outputs = remote(z=z, a=a)
        assert (outputs["training"].item(), outputs["count"].item()) == (1.0, 3)
        gradients = outputs["y"].sum().backward()
        assert (gradients[z].item(), gradients[a].item()) == (10.0, 6.0)
        with ln.no_grad():
            outputs = remote(z=z, a=a)
        assert outputs["training"].item() == 0.0
        assert outputs["y"].item() == (2.0 - 0.5 * 15) * 15


def test_an_optimizer_of_labnet_trains_parameters_of_jax():
    with served(lambda w, x: x * w, ln.optim.SGD(lr=0.5), jnp.float32(2.0)) as server:
        blocking(server)(ln.asarray([3.0])).sum().backward()
        assert float(server.served.model.adapter.params) == 0.5


@pytest.mark.parametrize(
    ("arguments", "options", "told"),
    [
        ((network, optax.sgd(0.1)), {}, "an optimizer of optax trains params="),
        ((ln.nn.Linear(2, 2), optax.sgd(0.1)), {}, "got Linear"),
        ((network,), {"params": {"w": 1.0}, "method": "predict"}, "method= is not for this model"),
        ((3,), {"params": {"w": 1.0}}, "for a function of JAX"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(arguments, options, told):
    with pytest.raises(ServeError, match=told):
        ln.network.serve_model(*arguments, port=0, **options)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_loss_through_a_server_has_jaxs_gradient_and_trains_the_server(compiled):
    params, w = parameters(), jnp.asarray(normal(3, 4))
    x = normal(5, 3)

    def loss(function):
        return lambda w: jnp.square(function(jnp.tanh(x @ w))).sum()

    with served(optimizer=optax.sgd(1e-3), params=params) as server:
        gradient = jax.value_and_grad(loss(ln.interop.jax.remote_function(server.url)))
        value, found = (jax.jit(gradient) if compiled else gradient)(w)
        wanted_value, wanted = jax.value_and_grad(loss(lambda h: network(params, h)))(w)
        assert server.statistics()["server"]["version"] == 1
    np.testing.assert_allclose(value, wanted_value, rtol=1e-4)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_server_that_only_gets_data_is_trained_by_its_anchor():
    with served(lambda w, x: x * w, optax.sgd(0.5), jnp.float32(2.0)) as server:
        remote = ln.interop.jax.remote_function(server.url)
        jax.grad(lambda anchor: remote(jnp.asarray([3.0]), anchor).sum())(remote.anchor).block_until_ready()
        jax.effects_barrier()
        assert server.statistics()["server"]["version"] == 1
        assert float(remote(jnp.asarray([3.0]))[0]) == 1.5


def test_calls_without_a_gradient_keep_nothing():
    with served(params=parameters()) as server:
        remote = ln.interop.jax.remote_function(server.url)
        np.testing.assert_allclose(
            jax.jit(remote)(normal(5, 4)), network(parameters(), normal(5, 4)), rtol=1e-5, atol=1e-5
        )
        assert len(server.served.calls) == 0


def test_an_error_of_the_server_reaches_jax():
    refused = pytest.raises((RemoteError, jax.errors.JaxRuntimeError), match="dot_general")
    with served(params=parameters()) as server, refused:
        ln.interop.jax.remote_function(server.url)(normal(5, 3))
