"""Draws what a program computes: elementwise ops, views, reductions, products, and values read in several orders.

Every line is run as soon as it is drawn, so that the next one knows the shapes and dtypes that there are.
"""

import itertools
import math
import re

import numpy as np

import labnet as ln
from tests.compile.fuzz.case import HEAD, Line

FLOAT = (
    "ln.exp({x})",
    "ln.exp({x} * 0.25)",
    "ln.tanh({x})",
    "ln.sin({x})",
    "ln.sqrt(ln.abs({x}) + 0.5)",
    "ln.log1p(ln.abs({x}))",
    "-{x}",
    "ln.abs({x})",
    "ln.square({x})",
    "ln.nn.relu({x})",
    "ln.nn.sigmoid({x})",
    "ln.nn.gelu({x})",
    "ln.nn.silu({x})",
    "ln.round({x} * 3)",
    "ln.floor({x} * 3)",
    "ln.sign({x})",
    "{x} * 0.5 + 1",
    "1 / (ln.abs({x}) + 1)",
    "ln.where({x} > 0, {x}, 0.1)",
    "ln.clip({x}, -1, 1)",
    "{x} ** 2",
    "{x}.detach()",
    "{x} / 4",
    "ln.expm1({x} * 0.5)",
)
INTEGER = ("-{x}", "abs({x})", "~{x}", "{x} * {x}", "{x} >> 1", "{x} << 2", "{x} // 3", "{x} % 5", "{x} & 6", "{x} ^ 3")
INTEGER += ("ln.maximum({x}, 2)", "ln.where({x} > 1, {x}, 4)", "ln.clip({x}, 1, 5)", "{x} + 1", "ln.sign({x})")
BOOLEAN = ("~{x}", "ln.logical_not({x})", "{x} & True")
FLOATS = (
    "{x} + {y}",
    "{x} - {y}",
    "{x} * {y}",
    "ln.maximum({x}, {y})",
    "ln.minimum({x}, {y})",
    "{x} / (ln.abs({y}) + 1)",
)
FLOATS += (
    "ln.where({x} > {y}, {x}, {y} * 0.5)",
    "ln.atan2({x}, {y} + 3)",
    "ln.hypot({x}, ln.abs({y}) + 1)",
    "{y} - {x}",
)
FLOATS += ("ln.logaddexp({x}, {y})", "{x} % (ln.abs({y}) + 1)", "({x} < {y})", "({x} >= {y})", "ln.copysign({x}, {y})")
INTEGERS = ("{x} + {y}", "{x} - {y}", "{x} * {y}", "ln.maximum({x}, {y})", "{x} & {y}", "{x} | {y}", "{x} ^ {y}")
INTEGERS += (
    "({x} < {y})",
    "({x} == {y})",
    "ln.where({x} > {y}, {x}, {y})",
    "{x} // (abs({y}) + 1)",
    "{x} % (abs({y}) + 1)",
)
BOOLEANS = ("{x} & {y}", "{x} | {y}", "{x} ^ {y}", "ln.logical_or({x}, {y})", "ln.where({x}, {y}, {x})")
#: Reads that change the order or the number of elements; `a` is an axis, `n` its length, `b` another axis.
ORDERS = (
    "ln.flip({x}, axis={a})",
    "ln.flip({x})",
    "ln.roll({x}, {k}, axis={a})",
    "ln.take({x}, np.arange({x}.shape[{a}])[::-1], axis={a})",
    "ln.take({x}, np.roll(np.arange({x}.shape[{a}]), {k}), axis={a})",
    "ln.take_along_axis({x}, ln.argsort({x}.detach(), axis={a}), axis={a})",
    "{x}[np.arange({x}.shape[0])[::-1]]",
    "{x}.reshape((-1,))[::-1].reshape({x}.shape)",
    "ln.concat([{x}[1:], {x}[:1]], axis=0)",
    "ln.concat([{x}, {x}], axis={a})[{skip}1::2]",
    "ln.broadcast_to({x}[:1], {x}.shape)",
    "ln.cumulative_sum({x}, axis={a})",
    "ln.sort({x}, axis={a})",
    "ln.nn.softmax({x}, axis={a})",
    "ln.nn.layer_norm({x}, {x}.shape[-1], eps=0.1)",
    "ln.sum({x}, axis={a}, keepdims=True)",
    "ln.max({x}, axis={a}, keepdims=True)",
    "{x}[{skip}:1]",
    "{x}[{skip}-1:]",
    "{x}[..., :1]",
    "ln.permute_dims(ln.permute_dims({x}, {turn}), {back})",
    "{same}",
    "{same}",
    "{same}",
)
VIEWS = (
    "ln.permute_dims({x}, {turn})",
    "{x}[{skip}::2]",
    "{x}[{skip}::-1]",
    "{x}[{skip}1:]",
    "{x}[-1]",
    "{x}[..., 0]",
    "{x}[None]",
    "{x}[..., None]",
    "{x}.reshape((-1,))",
    "{x}.reshape((1, -1))",
    "{x}.reshape((-1, 1))",
    "ln.expand_dims({x}, axis={a})",
    "ln.moveaxis({x}, 0, -1)",
    "ln.broadcast_to({x}, (2, *{x}.shape))",
    "ln.squeeze({x}[{skip}:1], axis={a})",
    "ln.tile({x}, (2,))",
    "ln.repeat({x}, 2, axis={a})",
    "ln.stack([{x}, {x}], axis={a})",
    "ln.concat([{x}, {x}], axis={a})",
    "{x}[np.array([0, -1, 0])]",
    "{x}[places([0, 0])]",
    "{x}[[0, -1], ...]",
    "ln.take({x}, [0, 0, -1], axis={a})",
)
NUMERIC_VIEWS = ("ln.pad({x}, 1)", "ln.diff({x}, axis={a})", "ln.tril({x})", "ln.triu({x}, k=1)")
REDUCTIONS = ("sum", "max", "min", "mean", "std", "var", "prod", "any", "all", "argmax", "argmin", "count_nonzero")
CASTS = ("float32", "float64", "int32", "int64", "bool", "uint8")


class Graph:
    """The lines of a function, and the values that they have for the first call."""

    def __init__(self, rng, *, sizes, limit, without=()):
        self._rng, self._sizes, self._limit, self._without = rng, sizes, limit, without
        self.scope = {"__name__": "case"}
        exec(HEAD, self.scope)
        self.before, self.lines, self.names, self.weights = [], [], [], []

    def define(self, line):
        """Run a line that stands before the function."""
        exec(line.text, self.scope)
        self.before.append(line)

    def value(self, name):
        return self.scope[name]

    def leaf(self, name, shape, dtype, *, grad=False, special=False):
        """Return the text of a new tensor."""
        extra = (", grad=True" if grad else "") + (", special=True" if special else "")
        text = f"tensor({self._rng.randrange(10**6)}, {shape}, '{dtype}'{extra})"
        self.scope[name] = eval(text, self.scope)
        self.names.append(name)
        return text

    def weight(self, shape, dtype):
        """Define a tensor before the function, trainable where it holds floats, and return its name."""
        name = f"w{len(self.weights)}"
        floating = np.dtype(dtype).kind == "f"
        self.before.append(Line(f"{name} = {self.leaf(name, shape, dtype, grad=floating)}", (name,)))
        self.weights.append(name)
        return name

    def add(self, text, kind):
        """Append a line if it can be run, and its result is of a size and magnitude to go on with."""
        name = f"v{len(self.lines)}"
        try:
            found = eval(text, self.scope)
        except (TypeError, ValueError, IndexError, ArithmeticError):
            return False
        if not isinstance(found, ln.Tensor) or found.size > self._limit or found.ndim > 4:
            return False
        if found.dtype.kind == "f" and not (self.is_wild or self._is_tame(text, found)):
            return False
        self.scope[name] = found
        self.lines.append(Line(f"{name} = {text}", (name,), kind))
        self.names.append(name)
        return True

    def _is_tame(self, text, found):
        """Return whether floats, and the integers that they are computed of, have a magnitude to go on with."""
        read = [self.value(name) for name in re.findall(r"\b[avw]\d+\b", text) if name in self.names]
        arrays = [x.detach().numpy() for x in (found, *(x for x in read if x.dtype.kind in "iu"))]
        return all(bool(np.all(np.isfinite(x)) and np.abs(x).max(initial=0) < 1e3) for x in arrays)

    #: Whether infinities and the like are welcome.
    is_wild = False

    def grow(self, count):
        """Append so many lines."""
        for _ in range(20 * count):
            if len(self.lines) >= count:
                return
            self._one()

    def multiply(self):
        """Append a product of an argument and a weight."""
        self._product(self._rng.choice(self.names))

    def _one(self):
        draws = {
            self._reuse: 5,
            self._elementwise: 4,
            self._view: 3,
            self._reduction: 2,
            self._cast: 1,
            self._product: 3,
        }
        if "products" in self._without:
            del draws[self._product]
        self._rng.choices(list(draws), list(draws.values()))[0](self._pick())

    def _pick(self):
        """Return a name, rather of something that was computed last."""
        return self._rng.choice(self.names[-3:] if self._rng.random() < 0.6 else self.names)

    # Lines

    def _of_kind(self, x, floats, integers, booleans):
        return {"f": floats, "b": booleans}.get(self.value(x).dtype.kind, integers)

    def _elementwise(self, x):
        if self._rng.random() < 0.5:
            text = self._rng.choice(self._of_kind(x, FLOAT, INTEGER, BOOLEAN)).format(x=x)
        else:
            text = self._rng.choice(self._of_kind(x, FLOATS, INTEGERS, BOOLEANS)).format(x=x, y=self._partner(x))
        self.add(text, self._kind_of(x))

    def _kind_of(self, x):
        return "values" if self.is_wild or self.value(x).dtype == np.uint64 else "reuse"

    def _partner(self, x):
        """Return a value that broadcasts with `x`, of the same kind."""
        shape, kind = self.value(x).shape, self.value(x).dtype.kind
        fitting = [y for y in self.names if self.value(y).dtype.kind == kind and _broadcast(self.value(y).shape, shape)]
        return self._rng.choice(fitting)

    def _reuse(self, x):
        """Read a value in two orders, or more, mostly one that was just computed of what is in memory."""
        if self._rng.random() < 0.6 and self.add(
            self._rng.choice(self._of_kind(x, FLOAT, INTEGER, BOOLEAN)).format(x=x), "reuse"
        ):
            x = self.names[-1]
        if not self.value(x).ndim:
            return
        text = self._rng.choice(self._of_kind(x, FLOATS, INTEGERS, BOOLEANS))
        sides = [x, f"({self._ordered(x)})"]
        if self._rng.random() < 0.3:
            sides[0] = f"({self._ordered(x)})"
        self._rng.shuffle(sides)
        self.add(text.format(x=sides[0], y=sides[1]), self._kind_of(x))

    def _ordered(self, x):
        return self._rng.choice(ORDERS).format(**self._places(x))

    def _places(self, x):
        """Return axes, permutations and numbers that fit a value."""
        shape = self.value(x).shape
        a = self._rng.randrange(len(shape))
        turn = self._rng.sample(range(len(shape)), len(shape))
        equal = [axes for axes in _permutations(len(shape)) if tuple(shape[i] for i in axes) == shape]
        return {
            "x": x,
            "a": self._rng.choice([a, a - len(shape)]),
            "k": self._rng.choice([1, -1, 2]),
            "skip": ":, " * a,
            "turn": tuple(turn),
            "back": tuple(turn),
            "same": f"ln.permute_dims({x}, {self._rng.choice(equal)})",
        }

    def _view(self, x):
        if not self.value(x).ndim:
            return
        numeric = self.value(x).dtype.kind != "b" and self._rng.random() < 0.2
        self.add(self._rng.choice(NUMERIC_VIEWS if numeric else VIEWS).format(**self._places(x)), "reuse")

    def _reduction(self, x):
        value = self.value(x)
        name = self._rng.choice(REDUCTIONS)
        axes = self._rng.sample(range(value.ndim), self._rng.randint(0, value.ndim)) if value.ndim else []
        axis = axes[0] if name.startswith("arg") and axes else tuple(axes) if axes else None
        axis = axis[0] if isinstance(axis, tuple) and len(axis) == 1 and self._rng.random() < 0.5 else axis
        if name in ("mean", "std", "var") and value.dtype.kind != "f":
            name = "sum"
        if name in ("std", "var"):
            x = f"({x} + {x} * {x})"
        kept = ", keepdims=True" if self._rng.random() < 0.5 else ""
        self.add(f"ln.{name}({x}, axis={axis}{kept})", "reuse")

    def _cast(self, x):
        target = self._rng.choice(CASTS)
        kind = self.value(x).dtype.kind
        inside = (
            f"ln.clip(ln.abs({x}) * 4, 0, 100)" if kind == "f" and target not in ("float32", "float64", "bool") else x
        )
        self.add(f"{inside}.astype('{target}')", "values")

    # Products

    def _product(self, x):
        value = self.value(x)
        if not value.ndim or value.dtype.kind == "b":
            return
        dtype, shape = value.dtype.name, value.shape
        inner = shape[-1]
        rows = shape[-2] if len(shape) > 1 else inner
        n = self._rng.choice([1, *self._sizes])
        forms = [
            (f"{x} @ {{w}}", (inner, n)),
            (f"{x} @ {{w}}.mT", (n, inner)),
            (f"{x} @ {{w}}", (inner,)),
            (f"{{w}} @ {x}", (n, rows)),
            (f"{{w}}.mT @ {x}", (rows, n)),
            (f"{{w}} @ {x}", (rows,)),
        ]
        if len(shape) > 1:
            forms += [
                (f"{x}.mT @ {{w}}", (rows, n)),
                (f"{x}.mT @ {{w}}.mT", (n, rows)),
                (f"{{w}} @ {x}.mT", (n, inner)),
                (f"{x}[..., ::-1] @ {{w}}", (inner, n)),
                (f"{x}[..., ::2, :] @ {{w}}", (inner, n)),
                (f"{x}[..., :1] @ {{w}}", (1, n)),
                (f"{x}[..., :1, :] @ {{w}}", (inner, n)),
                (f"{x} @ {{w}}[:, ::2]", (inner, 2 * n)),
                (f"{x} @ {{w}}[:, :1]", (inner, n)),
                (f"{x} @ {{w}}", (2, inner, n)),
                (f"{{w}} @ {x}", (2, n, rows)),
                (f"{x} @ {x}.mT", None),
                (f"{x}.mT @ {x}", None),
                (f"ln.tensordot({x}, {{w}}, axes=1)", (inner, n)),
                (f"ln.vecdot({x}, ln.flip({x}))", None),
            ]
            if dtype in ("float32", "float64"):
                forms.append((f"ln.nn.linear({x}, {{w}})", (n, inner)))
        text, wanted = self._rng.choice(forms)
        if wanted is not None and (math.prod(wanted) > self._limit or len(self.weights) > 3):
            return
        scale = (
            f" * {round(max(1, inner if wanted is None else wanted[0]) ** -0.5, 3)}" if value.dtype.kind == "f" else ""
        )
        if wanted is None:
            self.add(f"({text}){scale}", "products")
            return
        name = self.weight(wanted, dtype)
        if not self.add(f"({text.format(w=name)}){scale}", "products"):
            self.weights.pop()
            self.before.pop()
            self.names.remove(name)


def _broadcast(one, other):
    try:
        return np.broadcast_shapes(one, other) is not None
    except ValueError:
        return False


def _permutations(count):
    return list(itertools.permutations(range(count)))
