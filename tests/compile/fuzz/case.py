"""A program as text that Python runs: definitions, a function, and calls with changes between them."""

import dataclasses
import functools
import re
import textwrap
import warnings
from dataclasses import dataclass

import numpy as np

HEAD = """\
import collections, dataclasses, enum, functools, math, types
import numpy as np
import labnet as ln

SPECIAL = {"f": [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 3e38, 1.0, -1.0, 0.5], "b": [True, False]}


def draw(seed, shape, dtype, special=False):
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if special and dtype.kind != "b":
        extremes = [np.iinfo(dtype).max, np.iinfo(dtype).min, 0, 1, 2, 8] if dtype.kind in "iu" else SPECIAL["f"]
        return rng.choice(np.array(extremes).astype(dtype), shape)
    if dtype.kind in "iu":
        return rng.integers(0 if dtype.kind == "u" else -9, 10, shape).astype(dtype)
    return rng.random(shape) < 0.5 if dtype.kind == "b" else rng.uniform(-1.5, 1.5, shape).astype(dtype)


def tensor(seed, shape, dtype, grad=False, special=False):
    return ln.asarray(draw(seed, shape, dtype, special), requires_grad=grad)


def places(numbers):
    return ln.asarray(numbers)


"""

RUN = """

def arrays(found):
    if isinstance(found, dict):
        found = [*found.values()]
    if isinstance(found, list | tuple):
        return [arrays(x) for x in found]
    return found.numpy() if isinstance(found, ln.Tensor) else found


for name, make in (("eager", lambda step: step), ("compiled", ln.jit)):
    scope = {**globals()}
    exec(SOURCE, scope)
    step = make(scope["step"])
    for changes, arguments, state in CALLS:
        exec(changes, scope)
        print(name, arrays(step(*eval(arguments, scope))), arrays(eval(state, scope)))
"""


def quietly(function):
    """Have a function that runs programs say nothing of means of nothing, overflows and the like."""

    @functools.wraps(function)
    def quiet(*args, **named):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return function(*args, **named)

    return quiet


@dataclass(frozen=True)
class Line:
    """One or several lines of Python, the names that they define, and the kind of fault that they may show."""

    text: str
    names: tuple[str, ...] = ()
    kind: str = "reuse"

    def uses(self, name):
        return re.search(rf"\b{name}\b", self.text) is not None


@dataclass(frozen=True)
class Call:
    """What changes before a call, and the arguments of the call."""

    arguments: tuple[str, ...]
    changes: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Case:
    """A program.

    Attributes
    ----------
    before : tuple of Line
        Definitions: tensors, optimizers, and what else the function finds.
    parameters : tuple of str
        Names of the arguments.
    graph : tuple of Line
        What is computed of them, by the function `forward`.
    results : tuple of str
        What is handed out.
    steps : tuple of Line
        What the function `step` does with the results and gradients of `forward`; empty if that is compiled itself.
    handed : tuple of str
        What these steps hand out besides.
    state : tuple of str
        What is compared after each call besides results.
    calls : tuple of Call
    """

    before: tuple[Line, ...]
    parameters: tuple[str, ...]
    graph: tuple[Line, ...]
    results: tuple[str, ...]
    steps: tuple[Line, ...] = ()
    handed: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()

    def source(self):
        """Return the definitions and the function `step`."""
        names = ", ".join(self.parameters)
        body = [*(line.text for line in self.graph), f"return [{', '.join(self.results)}]"]
        text = "".join(line.text + "\n" for line in self.before)
        text += f"\ndef forward({names}):\n" + _indented(body)
        if self.steps:
            body = [line.text for line in self.steps] + [f"return [{', '.join(self.handed)}]"]
            return text + f"\ndef step({names}):\n" + _indented(body)
        return text + "\nstep = forward\n"

    def runnable(self):
        """Return a program that prints what eager and compiled calls leave."""
        rows = []
        for call in self.calls:
            changes = "".join(line.text + "\n" for line in call.changes)
            given = f"[{', '.join(call.arguments)}]"
            rows.append(f'    ({changes!r}, {given!r}, "[{", ".join(self.state)}]"),\n')
        return f"{HEAD}SOURCE = '''\n{self.source()}'''\nCALLS = [\n{''.join(rows)}]{RUN}"

    def kinds(self):
        """Return the kinds of faults that the lines may show."""
        lines = [*self.before, *self.graph, *self.steps, *(line for call in self.calls for line in call.changes)]
        return sorted({line.kind for line in lines})

    def replace(self, **fields):
        return dataclasses.replace(self, **fields)


def _indented(lines):
    return textwrap.indent("\n".join(lines), "    ") + "\n"
