"""Compiled forwards and backwards, apart from each other, do what eager ones do."""

import numpy as np
import pytest

import labnet as ln
from labnet.compile.differentiable import LIMIT, Differentiable
from labnet.errors import GradientError, TraceError

rng = np.random.default_rng(0)


def normal(*shape, **options):
    return ln.asarray(rng.standard_normal(shape).astype("float32"), **options)


def network():
    ln.manual_seed(1)
    return ln.nn.Sequential(ln.nn.Linear(3, 8), ln.tanh, ln.nn.Linear(8, 8), ln.nn.relu, ln.nn.Linear(8, 2))


def close(a, b):
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-5, atol=2e-6)


FUNCTIONS = {
    "network": network,
    "normalised": lambda: ln.nn.Sequential(ln.nn.Linear(3, 8), ln.nn.LayerNorm(8), ln.nn.gelu),
    "attention": lambda: lambda x: ln.nn.softmax(x @ x.T) @ x,
    "views": lambda: lambda x: ln.concat([x[1:] * 2, x.T.reshape((-1, 3))[:1]]).T,
    "same": lambda: lambda x: x,
    "nothing of it": lambda: lambda x: ln.ones(2) * 3,
    "constant slope": lambda: lambda x: x.sum(axis=0),
    "early": lambda: lambda x: ln.exp(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_and_gradients_are_those_of_eager_code(name):
    function = FUNCTIONS[name]()
    compiled = Differentiable(function)
    x, y = normal(4, 3, requires_grad=True), None
    y = ln.asarray(x.numpy(), requires_grad=True)
    for _ in range(2):
        expected, found = function(x), compiled(y)
        close(found, expected)
        assert found.requires_grad == expected.requires_grad
        if expected.requires_grad:
            gradient = normal(*expected.shape)
            left, right = expected.backward(gradient), found.backward(gradient)
            assert len(left) == len(right)
            close(right[y], left[x])
            for parameter in function.parameters() if isinstance(function, ln.nn.Module) else ():
                close(right[parameter], left[parameter])


def test_several_results_and_a_gradient_for_some_of_them():
    weight = normal(3, requires_grad=True)

    def function(x, *, scale):
        return {"a": ln.tanh(x * weight), "b": [x * scale, 7], "c": ln.ones(1)}

    compiled = Differentiable(function)
    x, scale = normal(4, 3), normal(3, requires_grad=True)
    for use in (lambda out: out["a"].sum(), lambda out: out["b"][0].sum() + (out["a"] ** 2).sum()):
        expected, found = function(x, scale=scale), compiled(x, scale=scale)
        assert found["b"][1] == 7
        assert not found["c"].requires_grad
        left, right = use(expected).backward(), use(found).backward()
        for leaf in left:
            close(right[leaf], left[leaf])


def test_a_backward_uses_what_its_own_forward_saw():
    model, optimizer = network(), ln.optim.SGD(lr=0.5)
    twin, other = network(), ln.optim.SGD(lr=0.5)
    compiled = Differentiable(model)
    inputs = [normal(4, 3) for _ in range(3)]
    outs, expected = [compiled(x) for x in inputs], [twin(x) for x in inputs]
    for position in (1, 0, 2):
        gradient = normal(4, 2)
        optimizer(outs[position].backward(gradient))
        other(expected[position].backward(gradient))
        outs.append(compiled(inputs[0]))
        expected.append(twin(inputs[0]))
        close(outs[-1], expected[-1])
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        close(a, b)


def test_a_kept_graph_can_be_pulled_again_and_a_freed_one_cannot():
    model = network()
    out = Differentiable(model)(normal(4, 3))
    first = out.backward(ln.ones((4, 2)), retain_graph=True)
    second = out.backward(ln.ones((4, 2)))
    for parameter in model.parameters():
        assert first[parameter].tolist() == second[parameter].tolist()
    with pytest.raises(GradientError, match="freed"):
        out.backward(ln.ones((4, 2)))


def test_gradients_of_gradients_are_refused():
    x = normal(2, requires_grad=True)
    out = Differentiable(lambda x: x**3)(x)
    with pytest.raises(GradientError, match="gradients of gradients"):
        ln.grad(out.sum(), x, create_graph=True)


def test_without_recording_nothing_is_kept():
    compiled = Differentiable(network())
    with ln.no_grad():
        out = compiled(normal(4, 3))
    assert not out.requires_grad
    assert out.node is None


def test_dropout_in_training_draws_what_eager_code_draws_and_in_evaluation_nothing():
    drop = ln.nn.Dropout(0.5)
    compiled, x = Differentiable(drop), ln.ones((3, 4), requires_grad=True)
    ln.manual_seed(3)
    expected = [drop(x) for _ in range(3)]
    ln.manual_seed(3)
    found = [compiled(x) for _ in range(3)]
    for a, b in zip(found, expected, strict=True):
        close(a, b)
        close(a.backward(ln.ones((3, 4)))[x], b.backward(ln.ones((3, 4)))[x])
    drop.eval()
    assert compiled(x).tolist() == x.tolist()
    assert compiled.versions == 2


def test_frozen_and_replaced_parameters_are_noticed():
    layer = ln.nn.Linear(3, 2)
    compiled, x = Differentiable(layer), normal(4, 3)
    assert len(compiled(x).backward(ln.ones((4, 2)))) == 2
    layer.bias.requires_grad = False
    assert len(compiled(x).backward(ln.ones((4, 2)))) == 1
    layer.weight = ln.ones((2, 3), requires_grad=True)
    close(compiled(x), layer(x))


def test_the_number_of_versions_is_bounded_and_further_shapes_run_eagerly():
    compiled = Differentiable(lambda x: x * 2)
    for length in range(1, LIMIT + 3):
        assert compiled(ln.ones(length)).tolist() == [2.0] * length
    assert compiled.versions == LIMIT


def test_what_trains_itself_or_cannot_be_traced_is_refused():
    weight = ln.ones(2, requires_grad=True)

    def trains(x):
        (x * weight).sum().backward()
        return x

    for function, reason in ((trains, "trains in its own forward"), (lambda x: float(x.sum()), "convert it outside")):
        with pytest.raises(TraceError, match=reason):
            Differentiable(function)(ln.ones(2))


def test_only_what_a_backward_needs_is_kept():
    layer = ln.nn.Linear(300, 2)
    out = Differentiable(layer)(normal(4, 300))
    (call,) = out.node.parents
    kept = [array for array in call.arrays if array is not None]
    assert [array.shape for array in kept] == [(4, 300)]
    assert call.nbytes == out.nbytes


def test_eager_calls_while_compiling_have_the_same_history(tmp_path, monkeypatch):
    monkeypatch.setenv("LABNET_CACHE", str(tmp_path))
    model = network()
    compiled, x = Differentiable(model, wait=False), normal(4, 3)
    eager = compiled(x)
    assert compiled.wait()
    later = compiled(x)
    assert type(later.node).__name__ == "Picked"
    left, right = eager.backward(ln.ones((4, 2))), later.backward(ln.ones((4, 2)))
    for parameter in model.parameters():
        close(right[parameter], left[parameter])


def test_a_compiled_forward_and_its_backward_are_counted_as_one_op_each():
    weight = ln.asarray(np.ones((4, 3), "float32"), requires_grad=True)
    function = Differentiable(lambda x: ln.tanh(x @ weight))
    x = ln.ones((2, 4))
    function(x)
    with ln.stats.collect() as statistics:
        function(x).sum().backward()
    forward, backward = statistics.ops["compiled forward"], statistics.ops["compiled forward.backward"]
    assert (forward.count, backward.count) == (1, 1)
    assert forward.flops == 2 * 2 * 4 * 3 + 2 * 3
    assert forward.bytes >= x.nbytes + weight.nbytes + 2 * 3 * 4
    assert backward.flops >= 2 * 2 * 4 * 3
    assert forward.seconds > 0
