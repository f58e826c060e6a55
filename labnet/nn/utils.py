"""Functions of the parameters and gradients of a model, under torch's names."""

import math
from collections.abc import Iterable

from labnet import ops
from labnet.ops.core.creation import asarray
from labnet.optim import accumulated
from labnet.tensor import Tensor


def clip_grad_norm_(parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scale ``.grad`` of parameters down to a total norm of at most `max_norm`, and return the norm before.

    `labnet.optim.clip_norm` does the same with what ``backward`` returns.

    Parameters
    ----------
    parameters : iterable of tensors
    max_norm : float
    norm_type : float
        Order of the norm; ``math.inf`` for the greatest absolute value.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([3.0, 4.0], requires_grad=True)
    >>> _ = (weight * weight / 2).sum().backward()
    >>> ln.nn.utils.clip_grad_norm_([weight], 1.0).item()
    5.0
    >>> [round(value, 4) for value in weight.grad.tolist()]
    [0.6, 0.8]
    """
    pairs = accumulated.read([parameters] if isinstance(parameters, Tensor) else parameters)
    if not pairs:
        return asarray(0.0)
    sizes = [ops.abs(slope) for _, slope in pairs]
    if norm_type == math.inf:
        total = ops.max(ops.stack([ops.max(size) for size in sizes]))
    else:
        total = ops.sum(ops.stack([ops.sum(size**norm_type) for size in sizes])) ** (1 / norm_type)
    scale = ops.minimum(max_norm / (total + 1e-6), 1.0)
    accumulated.write((one, slope * scale.astype(slope.dtype)) for one, slope in pairs)
    return total


def clip_grad_value_(parameters: Iterable[Tensor] | Tensor, clip_value: float) -> None:
    """Limit each element of ``.grad`` of parameters to [-clip_value, clip_value].

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([0.25, 4.0], requires_grad=True)
    >>> _ = (weight * weight).sum().backward()
    >>> ln.nn.utils.clip_grad_value_([weight], 1.0)
    >>> weight.grad.tolist()
    [0.5, 1.0]
    """
    pairs = accumulated.read([parameters] if isinstance(parameters, Tensor) else parameters)
    accumulated.write([(one, ops.clip(slope, -clip_value, clip_value)) for one, slope in pairs])


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Join all parameters into one vector.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.utils.parameters_to_vector(ln.nn.Linear(2, 3).parameters()).shape
    (9,)
    """
    return ops.concat([one.reshape((-1,)) for one in parameters])


def vector_to_parameters(vector: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write the parts of a vector into the parameters.

    Examples
    --------
    >>> import labnet as ln
    >>> layer = ln.nn.Linear(1, 1)
    >>> ln.nn.utils.vector_to_parameters(ln.asarray([2.0, 3.0]), layer.parameters())
    >>> layer.bias.tolist()
    [3.0]
    """
    start = 0
    for one in parameters:
        one.assign(vector[start : start + one.size].reshape(one.shape).detach())
        start += one.size
