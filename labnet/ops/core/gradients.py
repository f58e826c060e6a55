"""Gradients of any order, without changing ``.grad``."""

from collections.abc import Callable, Sequence
from typing import Any, overload

from labnet import autograd
from labnet.errors import GradientError
from labnet.kernels.device_dispatch import finished
from labnet.ops.core import dispatch
from labnet.ops.core.creation import zeros_like
from labnet.tensor import Tensor, wrap


@overload
def grad(
    y: Tensor,
    xs: Tensor,
    grad: Any = None,
    create_graph: bool = False,
    *,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
) -> Tensor: ...
@overload
def grad(
    y: Tensor,
    xs: Sequence[Tensor],
    grad: Any = None,
    create_graph: bool = False,
    *,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
) -> tuple[Tensor, ...]: ...
def grad(
    y: Tensor,
    xs: Tensor | Sequence[Tensor],
    grad: Any = None,
    create_graph: bool = False,
    *,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Return the gradient of `y` with respect to each of `xs`.

    Parameters
    ----------
    y : tensor
        A scalar, or any tensor together with `grad`.
    xs : tensor or sequence of tensors
        Leaves, or intermediate tensors of the computation of `y`.
    grad : array-like, optional
        Gradient of a scalar with respect to `y`, of the same shape; `grad_outputs` is torch's name for it.
    create_graph : bool
        Record the computation, for higher derivatives.
    retain_graph : bool, optional
        Keep the graph of `y` for another gradient; as `create_graph` by default.

    Returns
    -------
    tensor, or tuple of tensors for a sequence
        Zeros where `y` does not depend on the tensor.

    Raises
    ------
    GradientError
        If one of `xs` does not require gradients, or the graph crosses the network.

    Examples
    --------
    >>> import labnet as ln
    >>> x = ln.asarray(3.0, requires_grad=True)
    >>> slope = ln.grad(x * x * x, x, create_graph=True)
    >>> slope.item(), ln.grad(slope, x).item()
    (27.0, 18.0)
    """
    if grad_outputs is not None:
        if grad is not None:
            raise TypeError("grad: grad and grad_outputs are two names of one argument, got both")
        grad = grad_outputs
    several = not isinstance(xs, Tensor)
    wanted: Sequence[Tensor] = list(xs) if not isinstance(xs, Tensor) else [xs]
    if (tracer := dispatch.current_tracer()) is not None:  # which accounts for writes
        y, wanted = tracer.lift(y), [tracer.lift(x) for x in wanted]
    nodes = []
    for position, x in enumerate(wanted):
        if x.node is None:
            raise GradientError(f"grad: tensor {position} of shape {x.shape} does not require gradients")
        nodes.append(x.node)
    root, seed, run = y.backward_start(grad, create_graph=create_graph)
    first = seed if create_graph or dispatch.current_tracer() is not None else seed.array
    sweep = autograd.Sweep(root, first, run=run, targets=set(nodes))
    if sweep.awaits:
        raise GradientError("grad: this graph crosses the network; use `await loss.backward()`")
    found = autograd.sweep_now(sweep, retain_graph=create_graph if retain_graph is None else retain_graph)
    results = tuple(_own(found[n]) if n in found else zeros_like(x) for n, x in zip(nodes, wanted, strict=True))
    return results if several else results[0]


def _own(gradient: Any) -> Tensor:
    """Return a new tensor for a gradient, because rules may share one among inputs; memory is shared until written."""
    if not isinstance(gradient, Tensor):
        return wrap(finished(gradient))
    return wrap(gradient.array, gradient.node) if dispatch.current_tracer() is None else gradient


def replay(
    compute: Callable[..., Tensor], arrays: Sequence[Any], parents: Sequence[autograd.Node | None], gradient: Tensor
) -> list[Tensor | None]:
    """Differentiate a computation that was recorded as one node, for higher derivatives.

    Parameters
    ----------
    compute : callable
        The same computation, in ops.
    arrays, parents : sequences
        Values and node of each input; None for one that needs no gradient.
    gradient : tensor
        Gradient of the output.
    """
    # one op after the parents, so that no input is an ancestor of another
    inputs = [wrap(array, parent) * 1.0 for array, parent in zip(arrays, parents, strict=True)]
    needed = [x for x in inputs if x.requires_grad]
    found = dict(zip(map(id, needed), grad(compute(*inputs), needed, gradient, create_graph=True), strict=True))
    return [found.get(id(x)) for x in inputs]
