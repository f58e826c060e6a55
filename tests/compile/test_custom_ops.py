"""Ops that users declare with `op` and `custom_vjp`: gradients of any order, statistics, refusals, and `check`."""

import asyncio
import gc
import math
import weakref

import numpy as np
import pytest

import labnet as ln
from labnet.ops.custom import op_of


def make_tanh2(**named):
    @ln.op(**{"vjp": lambda g, out, x: g * 2 * (1 - out * out / 4), "scalar": "2 * tanh(x)", **named})
    def tanh2(x):
        return 2 * np.tanh(x)

    return tanh2


def hypotenuse(x, y):
    return np.hypot(x, y)


RULES = (lambda g, out, x, y: g * x / out, lambda g, out, x, y: g * y / out)
OPS = {
    "scalar and body": make_tanh2,
    "scalar alone": lambda: ln.op(vjp=lambda g, out, x: g * 2 * (1 - out * out / 4), scalar="2*tanh(x)")(
        lambda x: None
    ),
    "NumPy alone": lambda: make_tanh2(scalar=None),
    "ops": lambda: ln.op(vjp=lambda g, out, x: g * out)(lambda x: ln.exp(x)),
    "methods of tensors": lambda: ln.custom_vjp(lambda x: x.cos().exp(), lambda g, out, x: -g * out * ln.sin(x)),
    "two rules": lambda: ln.op(vjp=RULES)(hypotenuse),
    "one rule for two inputs": lambda: ln.custom_vjp(
        hypotenuse, lambda g, out, x, y: tuple(rule(g, out, x, y) for rule in RULES)
    ),
    "no rule": lambda: ln.op(scalar="silu(x) * scale + where(y > 0, pi, -x)")(lambda x, y, scale=2.0: None),
    "no rule, a body of ops": lambda: ln.op()(lambda x: x / ln.sqrt(ln.sum(x * x, axis=-1, keepdims=True))),
    "along an axis": lambda: ln.op(vjp=lambda g, out, x: out * (g - (g * out).sum(axis=-1, keepdims=True)))(
        lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    ),
}


@pytest.mark.parametrize("name", OPS)
def test_check_passes_for_right_rules(name, plain_steps):
    found = ln.testing.check(OPS[name]())
    assert found[:4] == ("values and dtypes", "first gradients", "second gradients", "compiled")


@pytest.mark.parametrize("name", ["atan2", "hypot", "logaddexp", "binary_cross_entropy_with_logits", "var", "elu"])
def test_check_passes_for_ops_of_the_registry(name, plain_steps):
    assert "second gradients" in ln.testing.check(ln.ops.REGISTRY[name].function)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: make_tanh2(vjp=lambda g, out, x: g * (1 - out * out / 4)), r"first gradient of input 0 at \(0, 0\)"),
        (lambda: make_tanh2(vjp=lambda g, out, x: g.reshape(-1)), r"returned a gradient of shape \(12,\)"),
        (lambda: make_tanh2(scalar="tanh(x)"), r"value in float32 at \(0, 0\): the op gives -?\d.*, its scalar expr"),
        (lambda: make_tanh2(jvp=lambda t, out, x: t * out), r"jvp of input 0 at"),
        (lambda: ln.op(vjp=RULES[::-1])(hypotenuse), r"first gradient of input 0"),
        (lambda: ln.op(vjp=lambda g, out, x: g)(lambda x: x.astype("float64")), r"inputs of float32 give float64"),
        (lambda: ln.op(vjp=lambda g, out, x: g)(lambda x: x.__iadd__(1)), r"it writes to its input 0"),
        (
            lambda: ln.op(vjp=lambda g, out, x: g * 3 * np.asarray(x) ** 2, scalar="x ** 3")(lambda x: None),
            r"second gradient of input 0 at .*: the rule gives .*, differences give -?\d",
        ),
    ],
)
def test_check_names_the_place_and_both_numbers_of_what_is_wrong(function, message, plain_steps):
    with pytest.raises((AssertionError, ln.errors.ShapeError), match=message):
        ln.testing.check(function())


def test_a_straight_through_estimator_passes_its_gradient():
    @ln.custom_vjp(lambda g, out, x: g)
    def quantized(x):
        return np.round(x)

    x = ln.asarray([0.2, 1.7], requires_grad=True)
    loss = (quantized(x) * ln.asarray([2.0, 3.0])).sum()
    assert loss.item() == 6.0
    assert loss.backward()[x].tolist() == [2.0, 3.0]
    assert "compiled" in ln.testing.check(quantized, order=0)


def test_an_opaque_function_gets_a_gradient_and_is_refused_by_the_compiler():
    erf = ln.custom_vjp(
        lambda x: np.array([math.erf(one) for one in x], x.dtype),
        lambda g, out, x: g * ln.exp(-x * x) * (2 / math.sqrt(math.pi)),
    )
    x = ln.asarray([0.5, -1.0], dtype="float64", requires_grad=True)
    assert ln.grad(erf(x).sum(), x).tolist() == pytest.approx(ln.grad(ln.erf(x).sum(), x).tolist())
    with pytest.raises(ln.errors.TraceError, match=r"function: its body is not made of ops: give it scalar="):
        ln.jit(erf)(x)


def test_static_arguments_reach_the_body_the_expression_and_the_rule(plain_steps):
    @ln.op(vjp=lambda g, out, x, *, slope=0.1: ln.where(x > 0, g, g * slope), scalar="x if x > 0 else slope * x")
    def leaky(x, *, slope=0.1):
        return np.where(x > 0, x, x * np.asarray(slope, x.dtype))

    x = ln.asarray([-2.0, 2.0], requires_grad=True)
    for run in (leaky, ln.jit(lambda x, slope: leaky(x, slope=slope))):
        assert run(x, slope=0.5).tolist() == [-1.0, 2.0]
    assert ln.grad(leaky(x, slope=0.5).sum(), x).tolist() == [0.5, 1.0]
    with pytest.raises(TypeError, match="slop"):
        leaky(x, slop=1)


def test_an_op_is_counted_as_one_op_and_its_backward_as_another():
    calls = ln.op(vjp=lambda g, out, x: g * out)(lambda x: ln.exp(x) * ln.ones(()))
    before = make_tanh2()
    x = ln.ones(3, requires_grad=True)
    with ln.stats.collect() as statistics:
        during = make_tanh2(name="later")
        (calls(x) + before(x) + during(x)).sum().backward()
    counted = {name: one.count for name, one in statistics.ops.items()}
    for name in ("function", "tanh2", "later"):
        assert counted[name] == counted[f"{name}.backward"] == 1
    assert "exp" not in counted
    before(x)
    assert statistics.ops["tanh2"].count == 1


def test_a_cell_that_runs_again_replaces_the_op_and_what_was_compiled(plain_steps):
    cell = "@ln.op(vjp=lambda g, out, x: g * {0}, scalar='{0} * x', method=True)\ndef scaled(x): ..."
    names = {"ln": ln}
    try:
        exec(cell.format(2), names)
        exec("@ln.jit\ndef step(x): return scaled(x)", names)
        x = ln.ones(2)
        first = weakref.ref(op_of(names["scaled"]))
        assert names["step"](x).tolist() == x.scaled().tolist() == [2.0, 2.0]
        exec(cell.format(3), names)
        assert names["step"](x).tolist() == x.scaled().tolist() == [3.0, 3.0]
        names["step"] = None
        gc.collect()
        assert first() is None
    finally:
        del ln._methods.Methods.scaled


def test_a_served_model_uses_it():
    model = ln.nn.Sequential(ln.nn.Linear(3, 2), make_tanh2())
    before = model(ln.ones((1, 3))).numpy()

    async def train(url):
        remote = ln.network.remote_model(url)
        out = await remote(ln.ones((1, 3)))
        np.testing.assert_allclose(out.numpy(), before)
        await out.sum().backward()
        return await remote(ln.ones((1, 3)))

    with ln.network.serve_model(model, ln.optim.SGD(lr=0.1), port=0) as server:
        after = asyncio.run(train(server.url))
    assert after.sum().item() < before.sum()


def test_its_name_does_not_make_it_the_op_of_that_name(plain_steps):
    @ln.op(vjp=lambda g, out, x: g * 5, scalar="5 * x")
    def relu(x):
        return 5 * x

    assert ln.jit(relu)(ln.asarray([-1.0])).tolist() == relu(ln.asarray([-1.0])).tolist() == [-5.0]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "__import__('os').system('true')",
            "x.__class__",
            "(lambda: x)()",
            "[x for x in x]",
            "x[0]",
            "open(x)",
            "x if",
        ),
        *(
            "'a' * x",
            "(x := 2)",
            "sum(x)",
            "y + x",
            "x; x",
            "tanh(x=x)",
            "tanh(*x)",
            "1j * x",
            "math.sin(x)",
            "",
            "None",
        ),
        *(
            "None",
            "tanh(x, x)",
            "where(x, x)",
            "-" * 500 + "x",
            "x" + " + x" * 3000,
            "f'{x}'",
            "x @ x",
            "x is x",
            "exec('x')",
            "await x",
        ),
    ],
)
def test_a_scalar_expression_is_nothing_but_arithmetic(text):
    with pytest.raises(ValueError, match="scalar: "):
        make_tanh2(scalar=text)


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda: ln.op(vjp=RULES)(lambda x: x), "one rule per tensor argument, got 2 for 1"),
        (lambda: ln.op(vjp=RULES[:1])(lambda *x: x), r"\*args"),
        (lambda: make_tanh2(method=True, name="sum"), "attribute of this name"),
        (lambda: ln.custom_vjp(3, RULES[0]), "expected a function, got 3"),
        (lambda: ln.testing.check(len), "len.*declare it with ln.op"),
        (lambda: ln.op(vjp=RULES[0])(lambda x, y: None)(ln.ones(2), ln.ones(2)), "returned None"),
    ],
)
def test_wrong_declarations_are_refused(declare, words):
    with pytest.raises(TypeError, match=words):
        declare()


def test_an_error_of_the_body_stays_as_it_is_and_names_the_op():
    broken = ln.op(vjp=lambda g, out, x: g)(lambda x: int("nonsense"))
    with pytest.raises(ValueError, match="nonsense") as caught:
        broken(ln.ones((2, 3)))
    assert caught.value.__notes__ == ["in the op function, called with shapes [(2, 3)]"]
