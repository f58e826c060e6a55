"""Compiled steps on one thread beside labnet's eager ones, torch eager and jax.jit, in one run.

``python benchmarks/compiled.py`` prints a table and writes ``build/compiled.json``. Rows and rounds are those of
``benchmarks/eager.py``; a row ends with the least ratios to torch and jax that the project asks for.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import eager
import numpy as np
from eager import Row, jax, measure, normal, our_mlp, our_step, rng, torch, torch_mlp, torch_step

import labnet as ln
from labnet import kernels

if jax:
    import jax.numpy as jnp

#: Least ratios to torch eager and to jax.jit.
TARGETS = {"T1": (100.0, 30.0), "T2": (6.0, 2.7), "T3": (1.5, 1.25)}
TARGETS |= {"hidden layer 64": (8.0, None), "hidden layer 128": (2.5, None), "hidden layer 1024": (0.95, None)}


def ours(model, make_optimizer, loss, x, y) -> Row:
    """Return the same step eagerly and compiled, each with its own copy of the model."""
    eager_model, compiled_model = model(), model()
    plain = our_step(eager_model, make_optimizer(), loss, ln.asarray(x), ln.asarray(y))
    step = compiled_step(compiled_model, make_optimizer(), loss)
    given = ln.asarray(x), ln.asarray(y)
    return {"labnet": plain, "compiled": lambda: step(*given)}


def compiled_step(model, optimizer, loss) -> Callable:
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
    row: Row = {"labnet": both["labnet"], "compiled": lambda: compiled(x)}
    if torch:
        row["torch"] = both["torch"]
    return row


def inference_row(widths: tuple[int, ...], batch: int) -> Row:
    x, model = normal(batch, widths[0]), our_mlp(widths)
    given, compiled = ln.asarray(x), ln.jit(model)

    def plain() -> ln.Tensor:
        with ln.no_grad():
            return model(given)

    row: Row = {"labnet": plain, "compiled": lambda: compiled(given)}
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


def all_rows() -> dict[str, Callable[[], Row]]:
    tiny, small, large = ((1, 8, 8, 8, 8, 1), 10), ((64, 64, 64), 64), ((784, 256, 10), 128)
    rows: dict[str, Callable[[], Row]] = {
        "T1": lambda: mlp_row(*tiny),
        "T2": lambda: mlp_row(*small),
        "T3": classifier_row,
    }
    for n in (64, 128, 1024):
        rows[f"hidden layer {n}"] = lambda n=n: hidden_row(n)
    for name, shape in (("T1", tiny), ("T2", small), ("T3", large)):
        rows[f"{name} inference"] = lambda shape=shape: inference_row(*shape)
    return rows


def ratio(times: dict[str, float], peer: str) -> float | None:
    return times[peer] / times["compiled"] if peer in times else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.02, help="length of one round of one column")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", type=Path, default=Path("build/compiled.json"))
    arguments = parser.parse_args()
    columns = ["labnet", "compiled", "torch", "jax"]
    print(f"{'microseconds':<20}" + "".join(f"{c:>10}" for c in columns) + f"{'x torch':>9}{'x jax':>8}  least")
    kernels.load()
    results = {}
    for name, make in all_rows().items():
        if arguments.only not in name:
            continue
        times = measure(make(), rounds=arguments.rounds, seconds=arguments.seconds)
        ratios, least = (ratio(times, "torch"), ratio(times, "jax")), TARGETS.get(name, (None, None))
        results[name] = {"seconds": times, "ratios": ratios, "targets": least}
        cells = "".join(f"{times[c] * 1e6:>10.2f}" if c in times else f"{'':>10}" for c in columns)
        short = any(r and t and r < t for r, t in zip(ratios, least, strict=True))
        print(
            f"{name:<20}{cells}{ratios[0] or 0:>9.2f}{ratios[1] or 0:>8.2f}  "
            + " ".join(f"{t:g}" for t in least if t)
            + ("  short" if short else ""),
            flush=True,
        )
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
