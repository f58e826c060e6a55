"""The gradients that backwards have added up in ``.grad``, in eager code and in a traced function."""

from collections.abc import Iterable
from typing import Any

from labnet.ops.core import dispatch
from labnet.tensor import Tensor


def read(parameters: Iterable[Tensor]) -> list[tuple[Tensor, Any]]:
    """Return (parameter, gradient) for each parameter that has a gradient.

    Examples
    --------
    >>> import labnet as ln
    >>> weight, unused = ln.ones(1, requires_grad=True), ln.ones(1, requires_grad=True)
    >>> _ = (weight * 2).sum().backward()
    >>> [gradient.tolist() for _, gradient in read([weight, unused])]
    [[2.0]]
    """
    tracer: Any = dispatch.current_tracer()
    if tracer is None:
        return [(one, one.grad) for one in parameters if one.grad is not None]
    known = {id(one) for one in parameters}
    return [
        (one, slope) for one, slope in tracer.leaves.values() if id(tracer.original(one)) in known or id(one) in known
    ]


def write(pairs: Iterable[tuple[Tensor, Any]]) -> None:
    """Replace the gradients of parameters.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.ones(1, requires_grad=True)
    >>> write([(weight, ln.zeros(1))])
    >>> weight.grad.tolist()
    [0.0]
    """
    tracer: Any = dispatch.current_tracer()
    for one, slope in pairs:
        if tracer is None:
            one.grad = slope
        else:
            tracer.set_gradient(one, slope)


def clear(parameters: Iterable[Tensor]) -> None:
    """Clear the gradients of parameters.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.ones(1, requires_grad=True)
    >>> _ = (weight * 2).sum().backward()
    >>> clear([weight])
    >>> weight.grad is None
    True
    """
    parameters = list(parameters)
    tracer: Any = dispatch.current_tracer()
    if tracer is None:
        for one in parameters:
            one.grad = None
        return
    for one in [*parameters, *(one for one, _ in read(parameters))]:
        tracer.set_gradient(one, None)
