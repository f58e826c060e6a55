"""How the servers of a schedule are connected, what one step of training is there, and what it must lead to."""

from collections.abc import Callable
from typing import Any, NamedTuple

import labnet as ln
from tests.helpers.network.store_server import batch, make_linear, make_model, make_optimizer


class Part(NamedTuple):
    """One server.

    Attributes
    ----------
    name : str
        Of its store.
    behind : int, optional
        Which other server it goes on in; those that are gone on in come first.
    kind : str
        How: a word of `tests.helpers.network.store_server.KINDS`.
    replica : bool
        Whether it follows that server instead, whose model it serves.
    """

    name: str
    behind: int | None = None
    kind: str = ""
    replica: bool = False


class Topology(NamedTuple):
    """The servers, the client's last; it may use the one model twice in a loss."""

    parts: tuple[Part, ...]
    twice: bool = False

    @property
    def replicated(self):
        return any(part.replica for part in self.parts)

    def examples(self, number):
        """Return the inputs and targets of a step, one pair for each use of the model."""
        return [batch(number), batch(number + 7)] if self.twice else [batch(number)]


TOPOLOGIES = {
    "single": Topology((Part("store"),)),
    "composed": Topology((Part("inner"), Part("outer", 0))),
    "chain": Topology((Part("inner"), Part("middle", 0), Part("outer", 1))),
    "twice": Topology((Part("store"),), twice=True),
    "composed-twice": Topology((Part("inner"), Part("outer", 0, "twice"))),
    "replicas": Topology((Part("primary"), Part("replica-1", 0, replica=True), Part("replica-2", 0, replica=True))),
}

#: What a kind of server computes, given its own layer and the server behind it.
_COMPOSED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "": lambda own, behind, x: behind(own(x)),
    "twice": lambda own, behind, x: (lambda y: behind(y) + behind(y * 0.5))(own(x)),
}


def total(outputs, examples):
    """Return the loss of a step."""
    losses = [ln.loss.mse(output, y) for output, (_, y) in zip(outputs, examples, strict=True)]
    return losses[0] if len(losses) == 1 else losses[0] + losses[1]


async def loss_of(model, topology, number):
    """Return the loss of a step of a remote model."""
    examples = topology.examples(number)
    return total(await ln.network.all(*[model(x) for x, _ in examples]), examples)


def without_faults(steps, topology):
    """Return the weights of each server after so many steps in one process, where each owns its weights."""
    layers, calls = [], []
    for part in (part for part in topology.parts if not part.replica):
        layer = make_model() if part.behind is None else make_linear()
        layers.append((layer, make_optimizer(), "" if part.behind is None else "own."))
        calls.append(layer if part.behind is None else _bound(part.kind, layer, calls[part.behind]))
    for number in range(steps):
        examples = topology.examples(number)
        gradients = total([calls[-1](x) for x, _ in examples], examples).backward()
        for layer, optimizer, _ in layers:
            own = {id(parameter) for parameter in layer.parameters()}
            optimizer(ln.autograd.Gradients([(t, g) for t, g in gradients.items() if id(t) in own]))
    found = [{prefix + name: value for name, value in values(layer).items()} for layer, _, prefix in layers]
    return found + found[:1] * sum(part.replica for part in topology.parts)


def _bound(kind, own, behind):
    return lambda x: _COMPOSED[kind](own, behind, x)


def values(model):
    """Return the weights of a model of this process, by name."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}
