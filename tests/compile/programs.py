"""Random programs for the compiler: small steps on tensors of random shapes, a loss, and an optimizer or gradients."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

import labnet as ln

UNARY = ("tanh", "exp", "negative", "abs", "square", "relu", "sigmoid", "softmax", "gelu", "sin", "log1p", "round")
BINARY = ("add", "subtract", "multiply", "maximum", "minimum", "where", "divide", "clip")
SHAPING = ("transpose", "flip", "row", "slice", "sum0", "sum1", "mean", "max1", "flatten", "pair", "product", "stretch")
SHAPING += (
    "sort",
    "running",
    "gather",
    "same rows",
    "roll",
    "pad",
    "norm",
    "middle",
    "best",
    "chosen",
    "detach",
    "convert",
)
OPTIMIZERS = {
    "none": lambda: None,
    "sgd": lambda: ln.optim.SGD(lr=0.05),
    "momentum": lambda: ln.optim.SGD(lr=0.05, momentum=0.5),
    "adam": lambda: ln.optim.Adam(lr=0.01),
    "adamw": lambda: ln.optim.AdamW(lr=0.01),
}


@dataclass(frozen=True)
class Plan:
    """What a random program does, with which parameters, and how they are trained."""

    steps: tuple[tuple[str, int, int], ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    optimizer: str
    seed: int

    def parameters(self):
        rng = np.random.default_rng(self.seed)
        return [ln.asarray(rng.uniform(-1, 1, shape).astype(self.dtype), requires_grad=True) for shape in self.shapes]

    def training(self, parameters):
        """Return the step that trains these parameters: outputs, and gradients where there is no optimizer."""
        optimizer = OPTIMIZERS[self.optimizer]()

        def step():
            out = compute(self.steps, parameters)
            loss = ln.sum(out * out) * 0.01 + ln.sum(ln.tanh(out))
            if optimizer is None:
                return [loss, out.detach(), *ln.grad(loss, parameters)]
            optimizer(loss.backward())
            return [loss.detach(), out.detach()]

        return step

    def tolerance(self):
        return 3e-5 if self.dtype == "float32" else 1e-10


def compute(steps, parameters):
    """Return the last of the values that the steps compute, each from earlier ones."""
    values = list(parameters)
    for name, first, second in steps:
        x, y = values[first % len(values)], values[second % len(values)]
        if name in SHAPING:
            values.append(shaped(name, x))
        else:
            values.append(single(name, x) if name in UNARY else double(name, x, y))
    return values[-1] + 0 * sum_of(parameters)


def sum_of(parameters):
    """Have every parameter take part, so that each has a gradient."""
    total = ln.sum(parameters[0])
    for parameter in parameters[1:]:
        total = total + ln.sum(parameter)
    return total


def shaped(name, x):
    """Change the shape of a tensor in one way; one that does not suit gets through unchanged."""
    if not x.ndim or not x.size or (x.ndim < 2 and name in ("transpose", "sum1", "max1", "slice", "product", "norm")):
        return x
    return {
        "transpose": lambda: ln.permute_dims(x, tuple(reversed(range(x.ndim)))),
        "flip": lambda: ln.flip(x, axis=0),
        "row": lambda: x[-1],
        "slice": lambda: x[:, ::2],
        "sum0": lambda: ln.sum(x, axis=0, keepdims=True),
        "sum1": lambda: ln.sum(x, axis=1),
        "mean": lambda: ln.mean(x),
        "max1": lambda: ln.max(x, axis=-1, keepdims=True),
        "flatten": lambda: x.reshape((-1,)),
        "pair": lambda: ln.concat([x, x * 2], axis=0) if x.size < 100 else x,
        "product": lambda: (x @ ln.permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))) * 0.1,
        "stretch": lambda: x[None, ...] if x.ndim < 3 else x,
        "sort": lambda: ln.sort(x, axis=0),
        "running": lambda: ln.cumulative_sum(x, axis=-1) * 0.5,
        "gather": lambda: ln.take(x, ln.argsort(x.reshape((-1,))[: x.shape[0]].detach()), axis=0),
        "same rows": lambda: x[np.zeros(3, int)],
        "roll": lambda: ln.roll(x, 1, axis=0),
        "pad": lambda: ln.pad(x, 1) if x.size < 100 else x,
        "norm": lambda: ln.nn.layer_norm(x, x.shape[-1], eps=0.1),
        "middle": lambda: x.reshape((-1, 1)) + 1 if x.size < 100 else x,
        "best": lambda: ln.argmax(x, axis=-1).astype(x.dtype),
        "chosen": lambda: ln.take_along_axis(x, ln.argmin(x.detach(), axis=-1, keepdims=True), axis=-1),
        "detach": lambda: x.detach(),
        "convert": lambda: x.astype("float64").astype(x.dtype),
    }[name]()


def single(name, x):
    if name == "softmax":
        return ln.nn.softmax(x) if x.ndim and x.shape[-1] else x
    if name == "exp":
        return ln.exp(ln.minimum(x, 2.0))
    if name == "log1p":
        return ln.log1p(ln.abs(x))
    return getattr(ln, name, None)(x) if hasattr(ln, name) else getattr(ln.nn, name)(x)


def double(name, x, y):
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        y = ln.sum(y)
    if name == "where":
        return ln.where(x > y, x, y * 0.5)
    if name == "divide":
        return x / (ln.abs(y) + 1)
    if name == "clip":
        return ln.clip(x, -1, ln.abs(y)) if np.broadcast_shapes(x.shape, y.shape) == x.shape else x
    return getattr(ln, name)(x, y)


_steps = st.lists(
    st.tuples(st.sampled_from(UNARY + BINARY + SHAPING), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=8
)
_shapes = st.lists(st.lists(st.sampled_from([1, 2, 3, 4]), max_size=3).map(tuple), min_size=1, max_size=3)
plans = st.builds(
    Plan,
    _steps.map(tuple),
    _shapes.map(tuple),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(sorted(OPTIMIZERS)),
    st.integers(0, 1000),
)


def check(plan, compiled_step, parameters, *, calls=2):
    """Run a compiled step and an eager one from the same parameters, and compare everything that they leave."""
    eager = plan.parameters()
    step = plan.training(eager)
    for _ in range(calls):
        expected, got = step(), compiled_step()
        for right, found in zip(expected, got, strict=True):
            close(found, right, plan)
    for right, found in zip(eager, parameters, strict=True):
        close(found, right, plan)


def check_together(plans, *, calls=2):
    """Compile several programs in one function, run it, and compare each with itself run eagerly."""
    parameters = [plan.parameters() for plan in plans]
    steps = [plan.training(each) for plan, each in zip(plans, parameters, strict=True)]
    compiled = ln.jit(lambda: [step() for step in steps])
    results = [compiled() for _ in range(calls)]
    for position, plan in enumerate(plans):
        outputs = iter([result[position] for result in results])
        check(plan, lambda outputs=outputs: next(outputs), parameters[position], calls=calls)


def close(found, right, plan):
    assert found.shape == right.shape, plan
    assert found.dtype == right.dtype, plan
    tolerance = plan.tolerance() * max(1.0, float(np.abs(right.numpy()).max(initial=0.0)))
    np.testing.assert_allclose(found.numpy(), right.numpy(), rtol=tolerance, atol=tolerance, err_msg=str(plan))
