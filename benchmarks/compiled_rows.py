"""The rows of ``benchmarks/compiled.py``: the same step of labnet eagerly and compiled, of torch and of jax."""

import itertools
from collections.abc import Callable

import eager
import numpy as np
from eager import Row, jax, normal, our_mlp, our_step, rng, torch, torch_mlp, torch_step

import labnet as ln
from labnet.compile import Jitted

if jax:
    import jax.numpy as jnp


def ours(model, make_optimizer, loss, x, y) -> Row:
    """Return the same step eagerly and compiled, each with its own copy of the model."""
    eager_model, compiled_model = model(), model()
    plain = our_step(eager_model, make_optimizer(), loss, ln.asarray(x), ln.asarray(y))
    step = compiled_step(compiled_model, make_optimizer(), loss)
    return {"labnet": plain, "compiled": bound(step, ln.asarray(x), ln.asarray(y))}


def bound(step: Jitted, *arguments: ln.Tensor) -> Callable[[], object]:
    """Return a compiled function with its arguments, called as plainly as those of the peers."""
    if len(arguments) == 1:
        (x,) = arguments
        run = lambda: step(x)  # noqa: E731
    else:
        x, y = arguments
        run = lambda: step(x, y)  # noqa: E731
    run.step = step
    return run


def compiled_step(model, optimizer, loss) -> Jitted:
    def step(x, y):
        value = loss(model(x), y)
        optimizer(value.backward())
        return value

    return ln.jit(step)


def jax_state(widths: tuple[int, ...]) -> list:
    pairs = itertools.pairwise(widths)
    return [(jnp.asarray(normal(i, o, scale=i**-0.5)), jnp.asarray(normal(o, scale=0.1))) for i, o in pairs]


def jax_forward(state, x):
    for position, (weight, bias) in enumerate(state):
        x = x @ weight + bias
        x = jnp.maximum(x, 0) if position + 1 < len(state) else x
    return x


def jax_sgd(widths: tuple[int, ...], x, y) -> Callable[[], object]:
    given, wanted = jnp.asarray(x), jnp.asarray(y)

    def loss(state):
        return ((jax_forward(state, given) - wanted) ** 2).mean()

    def update(state):
        value, slopes = jax.value_and_grad(loss)(state)
        return jax.tree_util.tree_map(lambda v, g: v - 1e-3 * g, state, slopes), value

    return jax_loop(jax.jit(update, donate_argnums=0), jax_state(widths))


def jax_adam(widths: tuple[int, ...], x, labels) -> Callable[[], object]:
    given, wanted = jnp.asarray(x), jnp.asarray(labels)

    def loss(state):
        scores = jax.nn.log_softmax(jax_forward(state, given))
        return -jnp.take_along_axis(scores, wanted[:, None], axis=1).mean()

    def update(everything):
        state, means, squares, step = everything
        value, slopes = jax.value_and_grad(loss)(state)
        step = step + 1
        means = jax.tree_util.tree_map(lambda m, g: 0.9 * m + 0.1 * g, means, slopes)
        squares = jax.tree_util.tree_map(lambda s, g: 0.999 * s + 0.001 * g * g, squares, slopes)
        size = 1e-3 / (1 - 0.9**step)
        state = jax.tree_util.tree_map(
            lambda v, m, s: v - size * m / (jnp.sqrt(s / (1 - 0.999**step)) + 1e-8), state, means, squares
        )
        return (state, means, squares, step), value

    state = jax_state(widths)
    zeros = jax.tree_util.tree_map(jnp.zeros_like, state)
    more = jax.tree_util.tree_map(jnp.zeros_like, state)
    return jax_loop(jax.jit(update, donate_argnums=0), (state, zeros, more, jnp.zeros(())))


def jax_loop(update, state) -> Callable[[], object]:
    box = [state]

    def run() -> object:
        box[0], value = update(box[0])
        return value.block_until_ready()

    return run


def mlp_row(widths: tuple[int, ...], batch: int) -> Row:
    x, y = normal(batch, widths[0]), normal(batch, widths[-1])
    row = ours(lambda: our_mlp(widths), lambda: ln.optim.SGD(lr=1e-3), ln.loss.mse, x, y)
    if torch:
        model = torch_mlp(widths)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        given = torch.from_numpy(x), torch.from_numpy(y)
        row["torch"] = torch_step(model, optimizer, torch.nn.functional.mse_loss, *given)
    if jax:
        row["jax"] = jax_sgd(widths, x, y)
    return row


def classifier_row() -> Row:
    x, y = normal(128, 784), rng.integers(0, 10, 128)
    row = ours(lambda: our_mlp((784, 256, 10)), ln.optim.Adam, ln.loss.cross_entropy, x, y)
    if torch:
        row["torch"] = eager.classifier_rows()["T3 modules"]["torch"]
    if jax:
        row["jax"] = jax_adam((784, 256, 10), x, y)
    return row


def hidden_row(n: int) -> Row:
    """Forward and backward of one hidden layer with batch 64; the gradients are handed out."""
    both = eager.hidden_rows(n)[f"hidden layer {n}, forward+backward"]
    a, w, b = normal(64, n), normal(n, n, scale=n**-0.5), normal(n)
    weight, bias, seed = ln.asarray(w, requires_grad=True), ln.asarray(b, requires_grad=True), ln.asarray(a)

    def slopes(x):
        out = ln.tanh(ln.nn.relu(x @ weight + bias) * 0.5) + x
        return ln.grad(out, [x, weight, bias], seed)

    compiled, x = ln.jit(slopes), ln.asarray(a, requires_grad=True)
    row: Row = {"labnet": both["labnet"], "compiled": bound(compiled, x)}
    if torch:
        row["torch"] = both["torch"]
    return row


def inference_row(widths: tuple[int, ...], batch: int) -> Row:
    x, model = normal(batch, widths[0]), our_mlp(widths)
    given, compiled = ln.asarray(x), ln.jit(model)

    def plain() -> ln.Tensor:
        with ln.no_grad():
            return model(given)

    row: Row = {"labnet": plain, "compiled": bound(compiled, given)}
    if torch:
        peer, theirs = torch_mlp(widths), torch.from_numpy(x)

        def infer() -> object:
            with torch.inference_mode():
                return peer(theirs)

        row["torch"] = infer
    if jax:
        state, jitted, other = jax_state(widths), jax.jit(jax_forward), jnp.asarray(np.asarray(x))
        row["jax"] = lambda: jitted(state, other).block_until_ready()
    return row


def convolution() -> ln.nn.Sequential:
    return ln.nn.Sequential(
        *(ln.nn.Conv2d(1, 16, 3), ln.nn.relu, ln.nn.MaxPool2d(2)),
        *(ln.nn.Conv2d(16, 32, 3), ln.nn.relu, ln.nn.MaxPool2d(2)),
        *(lambda h: h.reshape((32, -1)), ln.nn.Linear(800, 10)),
    )


def convolution_row() -> Row:
    x, y = normal(32, 1, 28, 28), rng.integers(0, 10, 32)
    row = ours(convolution, lambda: ln.optim.SGD(lr=1e-3), ln.loss.cross_entropy, x, y)
    if torch:
        row["torch"] = eager.convolution_rows()["T4 modules"]["torch"]
    if jax:
        row["jax"] = jax_convolution(x, y)
    return row


def jax_convolution(x, labels) -> Callable[[], object]:
    given, wanted = jnp.asarray(x), jnp.asarray(labels)

    def convolve(h, weight, bias):
        h = jax.lax.conv(h, weight, (1, 1), "VALID") + bias[:, None, None]
        return jax.lax.reduce_window(jnp.maximum(h, 0), -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    def loss(state):
        first, second, (weight, bias) = state
        h = convolve(convolve(given, *first), *second).reshape((32, -1))
        scores = jax.nn.log_softmax(h @ weight + bias)
        return -jnp.take_along_axis(scores, wanted[:, None], axis=1).mean()

    def update(state):
        value, slopes = jax.value_and_grad(loss)(state)
        return jax.tree_util.tree_map(lambda v, g: v - 1e-3 * g, state, slopes), value

    shapes = [((16, 1, 3, 3), (16,)), ((32, 16, 3, 3), (32,)), ((800, 10), (10,))]
    state = [(jnp.asarray(normal(*w, scale=0.1)), jnp.asarray(normal(*b, scale=0.1))) for w, b in shapes]
    return jax_loop(jax.jit(update, donate_argnums=0), state)


class First(ln.nn.Module):
    """The first result of a module that has several."""

    def __init__(self, inner: ln.nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: ln.Tensor) -> ln.Tensor:
        """Drop all results but the first."""
        return self.inner(x)[0]


def encoder_row() -> Row:
    x, y = normal(8, 64, 64), normal(8, 64, 64)
    options = {"dim_feedforward": 128, "dropout": 0.0, "batch_first": True}
    make = lambda: ln.nn.TransformerEncoderLayer(64, 4, **options)  # noqa: E731
    row = ours(make, lambda: ln.optim.SGD(lr=1e-3), ln.loss.mse, x, y)
    if torch:
        row["torch"] = torch_sgd(torch.nn.TransformerEncoderLayer(64, 4, **options), x, y)
    return row


def lstm_row() -> Row:
    x, y = normal(32, 8, 64), normal(32, 8, 64)
    row = ours(lambda: First(ln.nn.LSTM(64, 64)), lambda: ln.optim.SGD(lr=1e-3), ln.loss.mse, x, y)
    if torch:

        class TorchFirst(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = torch.nn.LSTM(64, 64)

            def forward(self, x):
                return self.inner(x)[0]

        row["torch"] = torch_sgd(TorchFirst(), x, y)
    return row


def torch_sgd(model, x, y) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    return torch_step(model, optimizer, torch.nn.functional.mse_loss, torch.from_numpy(x), torch.from_numpy(y))


def all_rows() -> dict[str, Callable[[], Row]]:
    tiny, small, large = ((1, 8, 8, 8, 8, 1), 10), ((64, 64, 64), 64), ((784, 256, 10), 128)
    rows: dict[str, Callable[[], Row]] = {
        "T1": lambda: mlp_row(*tiny),
        "T2": lambda: mlp_row(*small),
        "T3": classifier_row,
        "T4": convolution_row,
    }
    for n in (64, 128, 1024):
        rows[f"hidden layer {n}"] = lambda n=n: hidden_row(n)
    rows |= {"encoder layer": encoder_row, "LSTM": lstm_row}
    for name, shape in (("T1", tiny), ("T2", small), ("T3", large)):
        rows[f"{name} inference"] = lambda shape=shape: inference_row(*shape)
    return rows
