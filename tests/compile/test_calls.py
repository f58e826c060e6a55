"""What a call of a compiled function goes through before the compiled code, in every form that a call can have."""

import inspect
import threading

import pytest

import labnet as ln


def scaled(x, y=None, *more, factor=1.0):
    out = x * factor if y is None else x * factor + y
    for one in more:
        out = out + one
    return out


CALLS = {
    "both": lambda f, x: f(x, x),
    "by name": lambda f, x: f(x, y=x),
    "by name only": lambda f, x: f(y=x, x=x),
    "default": lambda f, x: f(x),
    "more": lambda f, x: f(x, x, x, x),
    "number": lambda f, x: f(x, x, factor=3.0),
    "array": lambda f, x: f(x.numpy(), x),
    "scalar": lambda f, x: f(x, 2.0),
}


@pytest.mark.parametrize("first", CALLS)
@pytest.mark.parametrize("second", CALLS)
def test_calls_of_other_forms_follow_each_other(first, second, plain_steps):
    compiled, x = ln.jit(scaled), ln.asarray([1.0, 2.0])
    for name in (first, second, first):
        expected = CALLS[name](scaled, x)
        found = CALLS[name](compiled, x)
        assert ln.asarray(expected).tolist() == found.tolist()


@pytest.mark.parametrize("call", [lambda f, x: f(), lambda f, x: f(x, x, z=x), lambda f, x: f(x, x=x)])
def test_calls_that_the_function_refuses_are_refused_as_by_the_function(call, plain_steps):
    compiled, x = ln.jit(scaled), ln.ones(2)
    compiled(x, x)
    with pytest.raises(TypeError, match="argument"):
        call(scaled, x)
    with pytest.raises(TypeError, match="argument"):
        call(compiled, x)
    assert compiled(x, x).tolist() == [2.0, 2.0]


def test_a_compiled_function_looks_like_its_function():
    compiled = ln.jit(scaled)
    assert callable(compiled)
    assert inspect.signature(compiled) == inspect.signature(scaled)
    assert (compiled.__name__, compiled.__wrapped__) == ("scaled", scaled)
    assert next(map(compiled, [ln.ones(1)])).tolist() == [1.0]


def test_what_a_function_used_and_is_gone_is_noticed(plain_steps):
    settings = {"factor": 2.0}
    scope = {"settings": settings, "scale": 2.0}
    exec("def function(x): return x * scale", scope)
    compiled = ln.jit(scope["function"])
    assert compiled(ln.ones(1)).tolist() == [2.0]
    del scope["scale"]
    with pytest.raises(NameError, match="scale"):
        compiled(ln.ones(1))
    scope["scale"] = 4.0
    assert compiled(ln.ones(1)).tolist() == [4.0]


def test_a_closure_variable_that_is_deleted_is_noticed(plain_steps):
    scale = 2.0

    def function(x):
        return x * scale  # noqa: F821

    compiled = ln.jit(function)
    assert compiled(ln.ones(1)).tolist() == [2.0]
    del scale
    with pytest.raises(NameError, match="scale"):
        compiled(ln.ones(1))


def test_threads_that_share_a_step_take_turns():
    weight, optimizer = ln.zeros(64, requires_grad=True), ln.optim.SGD(lr=1.0)

    def train(x):
        optimizer((weight * x).sum().backward())
        return x + 1

    step, wrong = ln.jit(train), []

    def work(number):
        x = ln.full(64, float(number))
        for _ in range(200):
            if step(x).tolist() != [number + 1.0] * 64:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert weight.tolist() == [-200.0 * (1 + 2 + 3 + 4)] * 64
    assert step.specialisations == 1


def test_an_error_leaves_the_step_to_others():
    compiled = ln.jit(lambda x, i: ln.take(x, i))
    x, within, beyond = ln.asarray([1.0, 2.0]), ln.asarray([1]), ln.asarray([5])
    assert compiled(x, within).tolist() == [2.0]
    with pytest.raises(IndexError):
        compiled(x, beyond)
    found = []
    thread = threading.Thread(target=lambda: found.append(compiled(x, within).tolist()))
    thread.start()
    thread.join()
    assert found == [[2.0]]
