"""Draws whole programs: a graph, what surrounds it, what trains it, and a sequence of calls."""

import math
import random
from dataclasses import dataclass

import numpy as np

from tests.compile.fuzz import captures, training
from tests.compile.fuzz.case import Call, Case, Line, quietly
from tests.compile.fuzz.graphs import Graph
from tests.compile.fuzz.judge import outcomes

#: Kinds of faults that can be left out.
KINDS = ("products", "guards", "updates", "values", "writes", "shapes")
#: Lengths of dimensions, and most elements of a value, by what runs the program.
SIZES = {
    "plain": ((1, 1, 2, 2, 3, 3, 5, 8, 17), 400),
    "real": ((1, 1, 1, 2, 3, 5, 8, 17, 64, 64, 300, 300), 100_000),
    "cuda": ((1, 1, 2, 3, 3, 5), 40),
    "served": ((1, 1, 2, 2, 3, 3, 5, 8, 17), 400),
}
#: Modes in which compiling takes so little time that what surrounds a program, and shapes, change between calls.
VARIED = ("plain", "served")
DTYPES = ("float32",) * 8 + ("float64",) * 3 + ("int32", "int64", "uint8", "uint64", "bool")
#: Arguments that are no tensors: how they are used, and what they are.
PLAIN = (
    ("{x} * s", ("1.0", "2.0", "-0.0", "0.0", "1", "True")),
    ("ln.copysign({x}, s)", ("0.0", "-0.0")),
    ("{x} * (1.0 if s is None else 2.0)", ("None", "1")),
    ("{x}[s]", ("slice(0, 1)", "slice(None)", "0", "-1", "None", "...")),
    ("{x} * s[0]", ("(1.0,)", "(2.0, 1)", "[2.0]", "[-0.0]", "[0.0]")),
    ("{x} * s['k']", ("{'k': 1.0}", "{'k': 2.0}", "collections.OrderedDict(k=3.0)")),
    ("{x} * s", ("np.float32(1.5)", "np.float64(1.5)", "np.float32(2.5)", "np.int64(2)")),
    ("ln.sum({x}, axis=s)", ("None", "0", "-1", "(0,)")),
    ("{x} + (1 if s != s else 2)", ("math.nan", "0.0", "float('nan')")),
    ("{x} * s.k", ("types.SimpleNamespace(k=1.5)", "types.SimpleNamespace(k=2.5)")),
)
#: Writes into a value; the first two suit one without dimensions.
WRITES = ("{y}[...] = {one}", "{y}[...] = {x}", "{y}[0] = {one}", "{y}[::2] = {y}[::-1][::2]", "{y}[..., -1:] = {one}")
WRITES += ("{y}[{x} != {one}] = {one}",)
WRITES_OF_NUMBERS = ("{y} += 1", "{y} *= {x}")


@dataclass(frozen=True)
class Input:
    """An argument: the letters of its dimensions, its dtype, and whether it takes gradients."""

    letters: tuple[str, ...]
    dtype: str
    grad: bool

    def shape(self, lengths):
        return tuple(lengths[letter] for letter in self.letters)


@quietly
def draw(seed, *, mode="plain", without=()):
    """Return the program of a seed."""
    rng = random.Random(f"{mode} {seed}")
    while (case := _draw(rng, mode, set(without))) is None:
        pass
    return case


def _draw(rng, mode, without):
    sizes, limit = SIZES[mode]
    lengths = {letter: rng.choice(sizes) for letter in "nmk"}
    if mode == "real" and rng.random() < 0.05:  # one dimension is long, and all others are short
        lengths["n"], sizes, limit = 8192, sizes[:-3], 300_000
    graph = Graph(rng, sizes=sizes, limit=limit, without=without)
    graph.is_wild = "values" not in without and rng.random() < 0.08
    inputs = [_input(rng, lengths, limit, without) for _ in range(rng.randint(1, 3))]
    if len(inputs) > 1 and rng.random() < 0.3:
        inputs[1] = inputs[0]
    given = [
        graph.leaf(f"a{i}", one.shape(lengths), one.dtype, grad=one.grad, special=graph.is_wild)
        for i, one in enumerate(inputs)
    ]
    if mode == "real" and "products" not in without and rng.random() < 0.5:
        graph.multiply()
    graph.grow(rng.randint(1, 4))
    names, changes, extra = [f"a{i}" for i in range(len(inputs))], [], []
    if mode in VARIED and "guards" not in without and rng.random() < 0.4:
        changes, extra = _surroundings(rng, graph)
    if "writes" not in without and rng.random() < 0.05:
        _write(rng, graph)
    graph.grow(len(graph.lines) + rng.randint(1, 5))
    case = _finished(rng, graph, names + (["s"] if extra else []), mode, without)
    if case is None:
        return None
    calls = [Call((*given, *extra[:1]))]
    for _ in range(rng.randint(2, 4) if mode in VARIED else rng.randint(1, 2)):
        given = _arguments(rng, inputs, lengths, graph, mode in VARIED and "shapes" not in without)
        given += [rng.choice(extra)] if extra else []
        lines = _changes(rng, changes, graph, case, calls[-1], without) if mode in VARIED else ()
        calls.append(Call(tuple(given), tuple(lines)))
    return _running(case.replace(calls=tuple(calls)))


def _input(rng, lengths, limit, without):
    letters = [rng.choice("nmk") for _ in range(rng.choice([0, 1, 2, 2, 2, 3]))]
    while math.prod(lengths[letter] for letter in letters) > limit:
        letters.pop()
    dtypes = [dtype for dtype in DTYPES if dtype != "uint64"] if "values" in without else DTYPES
    dtype = rng.choice(dtypes)
    grad = np.dtype(dtype).kind == "f" and "updates" not in without and rng.random() < 0.15
    return Input(tuple(letters), dtype, grad)


def _surroundings(rng, graph):
    """Have the graph use what it finds, or an argument that is no tensor; return changes, or values of that."""
    floats = [name for name in graph.names if graph.value(name).dtype.kind == "f"]
    if not floats:
        return [], []
    x = rng.choice(floats)
    if rng.random() < 0.3:
        use, values = rng.choice(PLAIN)
        values = list(values)
        rng.shuffle(values)
        exec(f"s = {values[0]}", {**graph.scope}, graph.scope)
        return [], values if graph.add(use.format(x=x), "guards") else []
    changes = []
    for number in range(rng.randint(1, 2)):
        if rng.random() < 0.06:
            before, use, change = captures.write(rng, number)
            graph.define(before)
            if graph.add(use.replace("{x}", x), "guards"):
                graph.lines.append(change)
            continue
        before, use, lines = captures.capture(rng, number)
        graph.define(before)
        if graph.add(use.replace("{x}", x), "guards"):
            changes += lines
    return changes, []


def _write(rng, graph):
    """Have the graph write into one of its values."""
    x, name = rng.choice([name for name in graph.names if name[0] in "va"]), f"v{len(graph.lines)}"
    value = graph.value(x)
    truths = value.dtype.kind == "b"
    texts = WRITES[: None if value.ndim else 2] + (() if truths else WRITES_OF_NUMBERS)
    text = f"{name} = ({x} {'| False' if truths else '* 1'}).detach()\n"
    text += rng.choice(texts).format(x=x, y=name, one="True" if truths else "1")
    try:
        exec(text, graph.scope)
    except (TypeError, ValueError, IndexError):
        return
    graph.lines.append(Line(text, (name,), "writes"))
    graph.names.append(name)


def _finished(rng, graph, names, mode, without):
    """Return the program without its calls; None if it computes nothing."""
    values = [line.names[0] for line in graph.lines if line.names]
    if not values:
        return None
    results = dict.fromkeys([values[-1], *rng.sample(values, min(2, len(values)))])
    trains = training.trainable(graph) and not graph.is_wild and rng.random() < 0.7
    loss = training.loss_of(graph, rng) if trains else None
    if loss is None:
        return Case(tuple(graph.before), tuple(names), tuple(graph.lines), tuple(results))
    before, lines, handed, state = training.steps(graph, rng, ", ".join(names), without=without, first=mode == "served")
    before, results = (*graph.before, *before), (loss, *results)
    return Case(before, tuple(names), tuple(graph.lines), results, tuple(lines), handed, state)


def _changes(rng, changes, graph, case, last, without):
    """Yield what happens before a call, mostly one thing; an eager step is one of them."""
    if changes and rng.random() < 0.7:
        change = rng.choice(changes)
        yield Line(change.text.replace("{c}", captures.constant(rng)), kind=change.kind)
    optimizers = [line.text for line in case.before if line.text.startswith("opt0")]
    if optimizers and "updates" not in without:
        if rng.random() < 0.25:
            yield training.changes(graph, rng, optimizers[0])
        if rng.random() < 0.1:
            yield Line(f"step({', '.join(last.arguments)})", kind="updates")


def _arguments(rng, inputs, lengths, graph, varied):
    """Return the arguments of a call: other values, sometimes of other shapes and dtypes, or one tensor twice."""
    now = dict(lengths)
    if varied and rng.random() < 0.4:
        now[rng.choice("nmk")] = rng.choice([0, 1, 2, 3, 4, 7])
    given = [_argument(rng, one, now, graph, varied) for one in inputs]
    if len(inputs) > 1 and inputs[0] == inputs[1] and rng.random() < 0.5:
        given[:2] = [f"(same := {given[0]})", "same" if inputs[0].grad else rng.choice(["same", "ln.flip(same)"])]
    return given


def _argument(rng, one, lengths, graph, varied):
    dtype, shape = one.dtype, one.shape(lengths)
    if varied and rng.random() < 0.1:
        dtype = rng.choice([other for other in DTYPES if np.dtype(other).kind == np.dtype(dtype).kind])
    alike = [w for w in graph.weights if graph.value(w).shape == shape and graph.value(w).dtype == dtype]
    if alike and not one.grad and rng.random() < 0.3:
        return f"{rng.choice(alike)}.detach()"
    extra = (", grad=True" if one.grad else "") + (", special=True" if graph.is_wild else "")
    return f"tensor({rng.randrange(10**6)}, {shape}, '{dtype}'{extra})"


def _running(case):
    """Return the program without the calls that eager Python cannot do; None if the first is one of them."""
    while (failed := _failed_call(case)) is not None:
        if failed == 0:
            return None
        case = case.replace(calls=case.calls[:failed] + case.calls[failed + 1 :])
    return case


def _failed_call(case):
    found = enumerate(outcomes(case, lambda step: step))
    return next((position for position, outcome in found if isinstance(outcome, Exception)), None)
