"""Each pass on its own: what it makes of a program computes the same, and the program it was given stays as it was.

A program is run by a few lines of NumPy here, so that no pass is tested by another one.
"""

import itertools
import re

import numpy as np
import pytest

import labnet as ln
from labnet.compile.codegen.function_source import emit
from labnet.compile.differentiable import trace_gradients
from labnet.compile.ir.fusion import fuse, needs_memory
from labnet.compile.ir.memory_plan import computed_in_place, lifetimes, plan
from labnet.compile.ir.simplification import simplify
from labnet.compile.ir.split import SEED, split
from labnet.compile.ir.values import Builder, Program, Store, placed
from labnet.compile.trace.traced_call import trace_call
from labnet.ops.core.registry import REGISTRY

rng = np.random.default_rng(0)
F32 = np.dtype("float32")


# Programs, and what they compute


def value_of(value, inputs, sources):
    """Compute one value with NumPy."""
    attributes = value.attributes
    if value.kind == "source":
        return sources[attributes["origin"], attributes["position"]]
    if value.kind == "splat":
        return np.full(value.shape, attributes["number"], value.dtype)
    if value.kind == "view":
        flat, size = np.ascontiguousarray(inputs[0]).reshape(-1), value.dtype.itemsize
        strides = tuple(step * size for step in attributes["strides"])
        return np.lib.stride_tricks.as_strided(flat[attributes["offset"] :], value.shape, strides).copy()
    if value.kind == "map":
        with np.errstate(all="ignore"):
            keeps = attributes["name"] == "where"
            given = [x if keeps and not i else x.astype(attributes["work"]) for i, x in enumerate(inputs)]
            found = given[0] if attributes["name"] == "copy" else REGISTRY[attributes["name"]].forward(*given)
        return np.broadcast_to(np.asarray(found).astype(value.dtype), value.shape)
    if value.kind == "reduce":
        return getattr(np, attributes["name"])(inputs[0], axis=attributes["axes"]).astype(value.dtype)
    if value.kind == "matmul":
        return inputs[0] @ inputs[1]
    assert value.kind == "put"
    out = np.zeros(value.size, value.dtype)
    for x, (offset, strides) in zip(inputs, attributes["places"], strict=True):
        for index in np.ndindex(x.shape):
            out[offset + sum(i * step for i, step in zip(index, strides, strict=True))] += x[index]
    return out.reshape(value.shape)


def run(program, sources):
    """Compute the outputs of a program with NumPy."""
    known = {}
    for value in program.values():
        known[value.number] = value_of(value, [known[x.number] for x in value.inputs], sources)
    stores = [store for store in program.stores if isinstance(store.target, int)]
    return [known[store.value.number] for store in sorted(stores, key=lambda store: store.target)]


def traced(function, *arrays):
    """Return the program of a function, and the sources of a call."""
    call = trace_call(function, [ln.asarray(array) for array in arrays], {})
    results = call.result if isinstance(call.result, tuple) else (call.result,)
    sources = {("argument", position): array for position, array in enumerate(arrays)}
    sources |= {("held", position): held.numpy() for position, held in enumerate(call.trace.held)}
    sources |= {("constant", position): array for position, array in enumerate(call.trace.constants)}
    return call, call.trace.program([result.value for result in results]), sources


def normal(*shape):
    return rng.standard_normal(shape).astype("float32")


WEIGHT = ln.asarray(normal(4, 4), requires_grad=True)
FUNCTIONS = {
    "elementwise": lambda x: ln.exp(x * 2 + 1) / 4 - x**2 + x**0.5,
    "views": lambda x: x.T[1:, ::2] * ln.flip(x, axis=0)[:3, 0:2].T.reshape((3, 2)),
    "reductions": lambda x: (x.sum(axis=0), ln.max(x, axis=1, keepdims=True) * x, ln.mean(x)),
    "softmax": lambda x: ln.nn.softmax(x) @ x,
    "network": lambda x: ln.tanh(ln.nn.relu(x @ WEIGHT) @ WEIGHT.T).sum(axis=1),
    "parts": lambda x: ln.concat([x, x[1:2] * 3]) + ln.pad(x, ((1, 0), (0, 0))),
    "integers": lambda x: ((x > 0).astype("int64") * 3, ln.where(x > 1, x, 0.5)),
    "loss": lambda x: ln.loss.mse(ln.nn.gelu(x @ WEIGHT), x * 0 + 1),
}


@pytest.fixture(params=FUNCTIONS)
def example(request):
    x = np.abs(normal(4, 4))
    return FUNCTIONS[request.param], x


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


# Trace


def test_a_trace_writes_down_what_the_function_computes(example):
    function, x = example
    _, program, sources = traced(function, x)
    expected = function(ln.asarray(x))
    same(run(program, sources), [y.numpy() for y in (expected if isinstance(expected, tuple) else (expected,))])


def test_a_program_prints_one_line_for_each_value_and_store():
    _, program, _ = traced(lambda x: ln.tanh(x).sum(axis=0), normal(2, 3))
    assert str(program).splitlines() == [
        "v0: float32[2, 3] = source(origin=argument, position=0)",
        "v1: float32[2, 3] = map(v0, name=tanh, work=float32)",
        "v2: float32[3] = reduce(v1, name=sum, axes=(0,))",
        "output 0 <- v2",
    ]


def test_a_step_of_an_optimizer_is_a_store_into_what_is_held():
    weight, optimizer = ln.ones(3, requires_grad=True), ln.optim.SGD(lr=0.5)

    def step(x):
        loss = (weight * x).sum()
        optimizer(loss.backward())
        return loss

    _, program, _ = traced(step, normal(3))
    (store,) = [store for store in program.stores if not isinstance(store.target, int)]
    assert store.target.attributes == {"origin": "held", "position": 0}
    sources = {("argument", 0): np.float32([1, 2, 3]), ("held", 0): np.ones(3, F32)}
    sources["number", 0] = np.float32(0.5)
    same(run(Program([Store(store.value, 0)]), sources), [np.float32([0.5, 0.0, -0.5])])


# Simplify


def test_a_simpler_program_computes_the_same_with_no_more_values(example):
    function, x = example
    _, program, sources = traced(function, x)
    before = str(program)
    simple = simplify(program)
    same(run(simple, sources), run(program, sources))
    assert len(simple.values()) <= len(program.values())
    assert str(program) == before
    assert str(simplify(simple)) == str(simplify(simplify(simple)))


SIMPLER = {
    "x * 1": (lambda x: x * 1, []),
    "x / 4": (lambda x: x / 4, ["multiply"]),
    "x / 3": (lambda x: x / 3, ["divide"]),
    "x ** 2": (lambda x: x**2, ["square"]),
    "x ** -0.5": (lambda x: x**-0.5, ["pow"]),  # whose loops take a root, but not of -0 and -inf as they are
    "twice": (lambda x: ln.exp(x) + ln.exp(x), ["exp", "add"]),
    "unused": (lambda x: (ln.exp(x), x + 1)[1], ["add"]),
}


@pytest.mark.parametrize("name", SIMPLER)
def test_what_changes_nothing_or_is_known_already_goes(name):
    function, left = SIMPLER[name]
    _, program, _ = traced(function, normal(3))
    assert [value.attributes["name"] for value in simplify(program).values() if value.kind == "map"] == left


def test_operations_on_numbers_are_worked_out():
    builder = Builder()
    two, three = builder.splat(2, (), F32), builder.splat(3, (4,), F32)
    total = builder.make("map", [two, three], shape=(4,), dtype=F32, name="add", work=F32)
    assert str(simplify(Program([Store(total, 0)]))) == "v2: float32[4] = splat(number=5.0)\noutput 0 <- v2"


# Fuse


def grouped(function, *arrays):
    _, program, sources = traced(function, *arrays)
    program = simplify(program)
    return program, fuse(program, computed_in_place(program)), sources


def test_every_value_is_in_one_group_after_all_that_it_needs(example):
    function, x = example
    program, groups, _ = grouped(function, x)
    place = {value.number: position for position, group in enumerate(groups) for value in group.members}
    computed = [value for value in program.values() if value.kind not in ("source", "splat", "view")]
    assert sorted(place) == sorted(value.number for value in computed)
    assert sum(len(group.members) for group in groups) == len(computed)
    members = [(group, value) for group in groups for value in group.members]
    for group, value in members:
        for operand in value.inputs:
            base = placed(operand)[0]
            if base.number in place:
                before = place[base.number] < place[value.number]
                beside = operand is base and base.kind == "map" and base.shape == group.shape
                assert before or (beside and group.members.index(base) < group.members.index(value))


def test_chains_of_elementwise_operations_are_one_group_with_their_sum():
    _, groups, _ = grouped(lambda x: ln.sum(ln.exp(x) * 2 + ln.tanh(x)), normal(3, 4))
    assert [[value.attributes["name"] for value in group.members] for group in groups] == [
        ["exp", "multiply", "tanh", "add", "sum"]
    ]


def test_what_only_its_own_loops_read_needs_no_memory():
    _, groups, _ = grouped(lambda x: ln.exp(ln.tanh(x) * 2) @ x, normal(3, 3))
    (exp,) = [value for group in groups for value in group.members if value.attributes.get("name") == "exp"]
    (product,) = [value for group in groups for value in group.members if value.kind == "matmul"]
    assert needs_memory(groups) == {exp.number, product.number}


# Plan


def test_values_that_live_at_the_same_time_do_not_share_memory(example):
    function, x = example
    program, groups, _ = grouped(function, x)
    layout = plan(program, groups)
    lives = lifetimes(groups)
    assert set(layout.offsets) | set(layout.outputs) | set(layout.inside) == set(lives)
    for a, b in itertools.combinations(layout.offsets, 2):
        (begin, end, length), (first, last, other) = lives[a], lives[b]
        if begin <= last and first <= end:
            start, begins = layout.offsets[a], layout.offsets[b]
            assert start + length <= begins or begins + other <= start
    assert all(layout.offsets[number] + lives[number][2] <= layout.nbytes for number in layout.offsets)


def test_a_long_chain_of_products_needs_the_memory_of_two():
    def chain(x):
        for _ in range(6):
            x = x @ x
        return x

    program, groups, _ = grouped(chain, normal(16, 16))
    assert plan(program, groups).nbytes == 2 * 16 * 16 * 4


# Emit


def test_the_same_program_gives_the_same_source_whatever_ran_before(example):
    function, x = example
    texts = set()
    for _ in range(2):
        call, program, _ = traced(function, x)
        program = simplify(program)
        groups = fuse(program, computed_in_place(program))
        held, constants = len(call.trace.held), len(call.trace.constants)
        texts.add(emit(program, groups, plan(program, groups), arguments=1, held=held, constants=constants, numbers=0))
    (source,) = texts
    compile(source, "<generated>", "exec")
    assert "def step(arena, p" in source


def test_the_source_is_as_long_as_the_work_and_not_as_the_data():
    sources = []
    for length in (13, 12345):
        program, groups, _ = grouped(lambda x: ln.exp(x) * 2, normal(length))
        layout = plan(program, groups)
        source = emit(program, groups, layout, arguments=1, held=0, constants=0, numbers=0)
        sources.append(re.sub(rf"\b{length}\b", "#", source))
    assert sources[0] == sources[1]
    assert "range(#)" in sources[0]


# Split


def halved(function, x):
    """Return a program with gradients for a seed, its sources, and its halves."""
    argument = ln.asarray(x, requires_grad=True)
    call = trace_call(function, [argument], {})
    out = call.result
    gradients = trace_gradients(call.trace, [out])
    program = simplify(call.trace.program([out.value, *(g.value for g in gradients.values())]))
    held = len(call.trace.held)
    sources = {("argument", 0): x, (SEED, 0): normal(*out.shape)}
    sources |= {("held", position): tensor.numpy() for position, tensor in enumerate(call.trace.held)}
    sources |= {("constant", position): array for position, array in enumerate(call.trace.constants)}
    return program, sources, split(program, results=1, arguments=1, held=held), held


def test_a_workspace_is_not_saved_for_the_gradients():
    """Each half has a workspace of its own: several backwards read the saved values concurrently."""
    weight = ln.asarray(normal(2, 2, 3, 3), requires_grad=True)
    _, _, halves, _ = halved(lambda x: ln.nn.conv2d(x, weight, padding=1), normal(1, 2, 4, 4))
    assert halves.saved == 0
    workspaces = [
        [v for v in half.values() if v.attributes.get("name") == "workspace"]
        for half in (halves.forward, halves.backward)
    ]
    assert all(workspaces)


SPLIT = ("elementwise", "views", "softmax", "network", "parts", "loss")


@pytest.mark.parametrize("name", SPLIT)
def test_both_halves_together_compute_what_the_whole_computes(name):
    program, sources, halves, held = halved(FUNCTIONS[name], np.abs(normal(4, 4)))
    before = str(program)
    constants = {key: array for key, array in sources.items() if key[0] == "constant"}
    arguments = [sources["argument", 0], *(sources["held", position] for position in range(held))]
    forward = {("argument", position): array for position, array in enumerate(arguments)}
    found = run(halves.forward, forward | constants)
    backward = [*arguments, *found, sources[SEED, 0]]
    slopes = run(halves.backward, {("argument", i): array for i, array in enumerate(backward)} | constants)
    same([found[0], *slopes], run(program, sources))
    assert len(found) == 1 + halves.saved
    assert str(program) == before


SAVED = {
    "a result is not saved again": (lambda x: ln.exp(x), 0),
    "cheap ones are computed again": (lambda x: ln.square(x * 3 + 1), 0),
    "costly ones are saved": (lambda x: ln.tanh(x) * 2, 1),
    "inputs are kept as they are": (lambda x: x @ x.T, 0),
}


@pytest.mark.parametrize("name", SAVED)
def test_no_more_is_saved_than_is_needed(name):
    function, count = SAVED[name]
    assert halved(function, normal(3, 3))[2].saved == count


def test_a_builder_makes_the_same_value_once():
    builder = Builder()
    x = builder.make("source", shape=(2,), dtype=F32, origin="argument", position=0)
    first = builder.make("map", [x, x], shape=(2,), dtype=F32, name="add", work=F32)
    assert builder.make("map", [x, x], shape=(2,), dtype=F32, name="add", work=F32) is first
    assert builder.make("map", [x, x], shape=(2,), dtype=F32, name="multiply", work=F32) is not first
    assert builder.splat(1, (2,), F32) is not builder.splat(True, (2,), np.dtype(bool))


def test_all_that_adam_does_with_a_parameter_is_one_nest_of_loops(plain_steps):
    weight, optimizer = ln.ones((3, 4), requires_grad=True), ln.optim.Adam()

    def train(x):
        optimizer((weight @ x).sum().backward())

    step = ln.jit(train)
    step(ln.ones((4, 2)))
    assert sum("sqrt" in line for line in step.explain().splitlines()) == 1
    (line,) = (line for line in step.explain().splitlines() if "sqrt" in line)
    assert line.count("store") == 3
    assert line.count("multiply") == 7
