"""Draws what a program does with the gradients of what it computes: optimizers, several of them, several times."""

import numpy as np

from tests.compile.fuzz.case import Line

OPTIMIZERS = (
    "ln.optim.SGD(lr=0.05{only})",
    "ln.optim.SGD(lr=0.05, momentum=0.9{only})",
    "ln.optim.Adam(lr=0.02{only})",
    "ln.optim.AdamW(lr=0.02, weight_decay=0.1{only})",
)
SETTINGS = {
    "SGD": ("momentum = 0.5", "momentum = 0.0"),
    "Adam": ("betas = (0.5, 0.9)", "eps = 0.1"),
    "AdamW": ("weight_decay = 0.5", "betas = (0.5, 0.9)"),
}
#: What one step does; ``{o}`` is an optimizer, ``{q}`` another one, ``{g}`` the arguments, ``{p}`` all parameters.
_FORWARD = "loss, *found = forward({g})\n"
_ONCE, _OTHER = f"{_FORWARD}{{o}}(loss.backward())\n", f"{_FORWARD}{{q}}(loss.backward())\n"
STEPS = {
    "one step": _ONCE,
    "clipped": "loss, *found = forward({g})\n{o}(ln.optim.clip_norm(loss.backward(), 0.5))",
    "two steps": _ONCE + _ONCE,
    "three in a loop": (
        "for turn in range(3):\n    loss, *found = forward({g})\n    {o}((loss * (turn + 1)).backward())"
    ),
    "two optimizers": _ONCE + _OTHER,
    "two optimizers of one loss": _FORWARD + "grads = loss.backward()\n{o}(grads)\n{q}(grads)",
    "settings change": f"{_ONCE}{{o}}.lr = {{o}}.lr * 0.5\n{_ONCE}{{o}}.lr = {{o}}.lr * 2",
    "gradients are left": "loss, *found = forward({g})\nloss.backward()",
    "gradients of two losses are left": (
        "loss, *found = forward({g})\nloss.backward(retain_graph=True)\n(loss * 2).backward()"
    ),
    "accumulated": (
        "total = 0.0\nfor turn in range(2):\n    loss, *found = forward({g})\n    total = total + loss * (turn + 0.5)\n"
        "{o}(total.backward())"
    ),
    "average": (
        "loss, *found = forward({g})\n{o}(loss.backward())\n"
        "for mean, now in zip(means, trained):\n    mean[...] = 0.9 * mean + 0.1 * now.detach()"
    ),
}
#: What is handed out of gradients, besides results.
GRADIENTS = (
    "loss, *found = forward({g})\nslopes = ln.grad(loss, {p})",
    "loss, *found = forward({g})\nslopes = ln.grad(loss, [*{p}, *{p}])",
    "loss, *found = forward({g})\nslopes = [ln.grad(loss, {p}, retain_graph=True), ln.grad(loss * 2, {p})]",
    (
        "loss, *found = forward({g})\nfirst = ln.grad(loss, {p}, create_graph=True)\n"
        "slopes = ln.grad(sum((s * s).sum() for s in first), {p})"
    ),
)


def trainable(graph):
    """Return the names of the arguments and weights that take gradients."""
    return [name for name in graph.names if name[0] in "aw" and graph.value(name).requires_grad]


def loss_of(graph, rng):
    """Return the text of a loss of the values that can be trained; None if there is none."""
    values = [name for name in graph.names if name[0] == "v" and graph.value(name).requires_grad]
    if not values:
        return None
    chosen = dict.fromkeys([values[-1], rng.choice(values)])
    terms = [f"ln.mean(ln.square({name}) / (1 + ln.square({name})) + ln.sin({name} * 0.125))" for name in chosen]
    return " + ".join([*terms, *(f"0 * ln.sum({name})" for name in trainable(graph))])


def steps(graph, rng, arguments, *, without, first=False):
    """Return definitions, the lines of a step, what it hands out, and the state; perhaps with first gradients only."""
    trained = trainable(graph)
    given = {"g": arguments, "p": f"[{', '.join(trained)}]", "o": "opt0", "q": "opt1"}
    if rng.random() < 0.3 or "updates" in without or trained[0][0] == "a":  # what is handed in is not updated
        text = rng.choice(GRADIENTS[:1] if "updates" in without else GRADIENTS[: -1 if first else None])
        kind = "reuse" if text is GRADIENTS[0] else "updates"
        return [], [Line(text.format(**given), kind=kind)], ("loss.detach()", "*found", "slopes"), ()
    name = rng.choice(sorted(STEPS))
    shared = rng.random() < 0.5
    only = [trained, trained] if shared else [trained[::2], trained[1::2] or trained]
    before = [
        Line(f"opt{i} = " + rng.choice(OPTIMIZERS).format(only=f", parameters=[{', '.join(only[i])}]"))
        for i in range(2)
    ]
    before.append(
        Line(f"trained = {given['p']}\nmeans = [ln.zeros(t.shape, dtype=t.dtype, device=t.device) for t in trained]")
    )
    state = [*trained, f"[t.grad for t in {given['p']}]"] + (["means"] if name == "average" else [])
    kind = "writes" if name == "average" else "reuse" if name == "one step" else "updates"
    lines = [Line(STEPS[name].format(**given), kind=kind)]
    return before, lines, ("loss.detach()", "*[x.detach() for x in found]"), tuple(state)


def changes(graph, rng, optimizer):
    """Return a change of what is trained, or of the settings of an optimizer, between two calls."""
    name = rng.choice(trainable(graph))
    dtype, shape = graph.value(name).dtype, graph.value(name).shape
    options = ["opt0.lr = 0.2", "opt1.lr = 0.01", f"{name}.requires_grad = False", f"{name}.requires_grad = True"]
    options += [f"{name}.assign(draw({rng.randrange(10**6)}, {shape}, '{np.dtype(dtype)}'))", f"{name}.grad = None"]
    options += [
        f"opt0.{setting}" for kind, settings in SETTINGS.items() if f".{kind}(" in optimizer for setting in settings
    ]
    return Line(rng.choice(options), kind="updates")
