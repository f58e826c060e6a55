"""The graph of a forward on a server, and its vector-Jacobian product."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from labnet import autograd
from labnet.autograd import Gradients
from labnet.errors import GradientError
from labnet.network.protocol.keys import Key, Origin
from labnet.network.server.routing import Failure
from labnet.tensor import Tensor, differentiate, on_host


class Graph:
    """The graph of one forward: inputs as leaves, and the outputs computed from them."""

    __slots__ = (
        *("_origin", "by_name", "computed", "epoch", "exported", "forwarded", "inputs", "key", "outputs", "renews"),
        *("returned", "seen"),
    )

    def __init__(
        self,
        inputs: dict[str, Tensor],
        outputs: dict[str, Tensor],
        by_name: bool,
        *,
        key: str,
        seen: Any = None,
        epoch: str | None = None,
        exported: Sequence[autograd.Node] = (),
        returned: type = Tensor,
    ):
        self.inputs = inputs
        self.outputs = outputs
        #: Whether inputs are passed to the model by name.
        self.by_name = by_name
        #: Key of the forward request.
        self.key = key
        self._origin: Origin | None = None
        #: The call that this one repeats, for the backward that is tried.
        self.renews = ""
        #: What the forward depended on besides its inputs; None where it is not needed.
        self.seen = seen
        #: On a replica: the incarnation of the primary whose weights were used.
        self.epoch = epoch
        #: Nodes of tensors that the forward has read as plain arrays.
        self.exported = exported
        #: Class of what the model returned.
        self.returned = returned
        #: Whether other servers were asked to apply their part; this server must then apply its own.
        self.forwarded = False
        #: Gradients that were already computed with other servers, by digest of the request.
        self.computed: dict[str, Gradients] = {}

    @property
    def origin(self) -> Origin:
        """Origin of the keys of the backward's requests to other servers, the same in all attempts."""
        if self._origin is None:
            self._origin = Origin(Key.parse(self.key), "backward ")
        return self._origin

    @property
    def nodes(self) -> list[autograd.Node]:
        """Every node that the outputs depend on."""
        roots = [output.node for output in self.outputs.values() if output.node is not None]
        return list(dict.fromkeys(node for root in roots for node in autograd.reachable(root)))

    @property
    def nbytes(self) -> int:
        """Bytes kept alive by the graph."""
        return sum(autograd.kept_nbytes(output.node) for output in self.outputs.values())


def check_reached(graph: Graph, gradients: Gradients, parameters: Iterable[Tensor]) -> None:
    """Raise `GradientError` if the forward took values out of the graph, so that a gradient is lost.

    Parameters
    ----------
    parameters : iterable of tensor
        Of the model.
    """
    reached = {id(tensor) for tensor, _ in gradients.found()}
    inputs = {name: tensor for name, tensor in graph.inputs.items() if tensor.requires_grad}
    lost = [tensor for tensor in (*inputs.values(), *parameters) if id(tensor) not in reached]
    floats = [output for output in graph.outputs.values() if output.dtype.kind == "f"]
    if lost and floats and not any(output.requires_grad for output in floats) and graph.returned is not Tensor:
        raise GradientError(f"the served function returned {_named(graph.returned)}, {_REMEDY}")
    if not lost or not graph.exported:
        return
    behind = {node for root in graph.exported for node in autograd.reachable(root)}
    if any(tensor.node in behind for tensor in lost):
        names = [name for name, tensor in inputs.items() if id(tensor) not in reached and tensor.node in behind]
        of = "a parameter" if not names else f"input {names[0]!r}" if graph.by_name else "its input"
        raise GradientError(
            f"the served function read {of} as a plain array, by numpy(), np.asarray or torch.from_numpy, {_REMEDY}"
        )


_REMEDY = (
    "so no gradient can come back; use ln.sin instead of np.sin, give it a gradient with vjp=, or serve the torch "
    "module itself (docs/bring-your-own-model.md)"
)


def _named(kind: type) -> str:
    if kind is np.ndarray:
        return "a plain array"
    return f"a {kind.__module__.partition('.')[0]} {kind.__name__.lower()}"


def check_gradient(gradients: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
    """Refuse a gradient that does not match these outputs."""
    for name, gradient in gradients.items():
        output = outputs.get(name)
        if output is None:
            raise Failure(422, "BadGradient", f"gradient {name!r} is for no output: expected {sorted(outputs)}")
        if gradient.shape != output.shape or gradient.dtype != output.dtype:
            raise Failure(
                422,
                "BadGradient",
                f"the gradient has shape {gradient.shape} and dtype {gradient.dtype}, "
                f"the output has shape {output.shape} and dtype {output.dtype}",
            )
        if not np.isfinite(on_host(gradient)).all():
            raise Failure(422, "BadGradient", "the gradient has NaN or infinity; no weight has changed")


def vjp(graph: Graph, gradients: dict[str, Tensor], loss: float | None) -> Gradients:
    """Differentiate the outputs that have a gradient and a history.

    The graph is retained until the update has succeeded; it is freed with the record of its call.
    """
    pairs = [(graph.outputs[name], g) for name, g in gradients.items() if graph.outputs[name].requires_grad]
    if not pairs:
        return Gradients()
    if len(pairs) == 1:
        return differentiate(*pairs[0], loss=loss, retain_graph=True)
    total = (pairs[0][0] * pairs[0][1]).sum()
    for output, gradient in pairs[1:]:
        total = total + (output * gradient).sum()
    return differentiate(total, loss=loss if loss is not None else float("nan"), retain_graph=True)
