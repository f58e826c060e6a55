"""Transformations of functions: derivatives of functions of tensors, and their application to batches.

A function takes tensors and returns one. The results of transformations can be transformed again.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

from labnet.autograd import (
    Leaf,
    Node,
    Run,
    enable_grad,
    is_grad_enabled,
    next_number,
    reachable,
    recorded_since,
    sweep_since,
)
from labnet.batching import Batch, Unbatchable, current_batch
from labnet.errors import GradientError, LabnetError, ShapeError
from labnet.ops.core import dispatch
from labnet.ops.core.creation import ones_like, random_state, restart_at, zeros_like
from labnet.ops.core.dispatch import traced_by
from labnet.ops.core.gradients import grad as gradient_of
from labnet.ops.layout.joining import stack
from labnet.ops.layout.shape import moveaxis, reshape
from labnet.tensor import Tensor, wrap

Function = Callable[..., Any]
Positions = int | tuple[int, ...]


def _variable(x: Any) -> Tensor:
    """Return a tensor that gradients can be taken of, with the history of `x`."""
    tensor = x if isinstance(x, Tensor) else Tensor(x)
    if tensor.dtype.kind != "f":
        raise GradientError(f"func: only floating-point tensors have gradients, got dtype {tensor.dtype}")
    if (batch := current_batch()) is not None:  # each slice has a variable of its own
        with batch.outside():
            return batch.of(_variable(batch.whole(tensor)))
    variable = tensor * 1 if tensor.requires_grad else tensor.detach()
    if not variable.requires_grad:
        variable.requires_grad = True
    return variable


def _chosen(args: Sequence[Any], argnums: Positions) -> tuple[list[Any], list[Tensor]]:
    """Return the arguments, with variables at the chosen positions, and these variables."""
    positions = (argnums,) if isinstance(argnums, int) else argnums
    given = list(args)
    for position in positions:
        given[position] = _variable(given[position])
    return given, [given[position] for position in positions]


def _own(found: Any, variables: Sequence[Tensor]) -> Any:
    """Return results without a history that only leads to the variables; other histories stay."""
    if isinstance(found, tuple | list):
        return type(found)(_own(each, variables) for each in found)
    if not isinstance(found, Tensor) or found.node is None:
        return found
    ours = {x.node for x in variables}
    leaves = {node for node in reachable(found.node) if isinstance(node, Leaf) and node.owner() is not None}
    return found.detach() if leaves <= ours or not is_grad_enabled() else found


def _gradients(y: Tensor, xs: Sequence[Tensor], seed: Any = None) -> list[Tensor]:
    """Return differentiable gradients of `y`; zeros if it does not depend on `xs`."""
    if not y.requires_grad:
        return [zeros_like(x) for x in xs]
    if (batch := current_batch()) is not None:  # slices are independent: the sum has all gradients
        if seed is None and y.size != 1:
            raise GradientError(f"func: expected a scalar function, got a result of shape {y.shape}")
        with batch.outside():
            first = ones_like(batch.whole(y)) if seed is None else batch.whole(seed)
            return [batch.of(found) for found in _gradients(batch.whole(y), [batch.whole(x) for x in xs], first)]
    return list(gradient_of(y, xs, seed, create_graph=True))


def _result(found: Sequence[Any], argnums: Positions) -> Any:
    return found[0] if isinstance(argnums, int) else tuple(found)


def value_and_grad(function: Function, argnums: Positions = 0, *, has_aux: bool = False) -> Function:
    """Return a function that returns the value of a scalar function and its gradient.

    Parameters
    ----------
    function : callable
        Returns a scalar; with `has_aux`, a pair of it and anything else.
    argnums : int or tuple of int
        Positions of the arguments to differentiate; a tuple leads to a tuple of gradients.
    has_aux : bool

    Returns
    -------
    callable
        Of the same arguments; returns (value, gradient).

    Examples
    --------
    >>> import labnet as ln
    >>> value, slope = ln.func.value_and_grad(lambda x: x**2)(ln.asarray(3.0))
    >>> value.item(), slope.item()
    (9.0, 6.0)
    """

    def both(*args: Any, **static: Any) -> Any:
        with enable_grad():
            given, variables = _chosen(args, argnums)
            out = function(*given, **static)
            found = _gradients(out[0] if has_aux else out, variables)
        return _own(out, variables), _own(_result(found, argnums), variables)

    return both


def grad(function: Function, argnums: Positions = 0, *, has_aux: bool = False) -> Function:
    """Return the gradient of a scalar function, as a function; the parameters are those of `value_and_grad`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.func.grad(ln.func.grad(lambda x: x**3))(ln.asarray(2.0)).item()
    12.0
    """
    both = value_and_grad(function, argnums, has_aux=has_aux)

    def gradient(*args: Any, **static: Any) -> Any:
        out, found = both(*args, **static)
        return (found, out[1]) if has_aux else found

    return gradient


def vjp(function: Function, *primals: Any) -> tuple[Tensor, Callable[..., tuple[Tensor, ...]]]:
    """Return the value of a function, and the function of its vector-Jacobian products.

    Parameters
    ----------
    function : callable
    *primals : tensors
        Arguments of `function`.

    Returns
    -------
    (value, pull)
        ``pull(cotangent)`` returns one tensor per argument.

    Examples
    --------
    >>> import labnet as ln
    >>> value, pull = ln.func.vjp(lambda x, y: x * y, ln.asarray(2.0), ln.asarray(3.0))
    >>> [part.item() for part in pull(ln.asarray(1.0))]
    [3.0, 2.0]
    """
    with enable_grad():
        variables = [_variable(x) for x in primals]
        value = function(*variables)

    def pull(cotangent: Any) -> tuple[Tensor, ...]:
        with enable_grad():
            found = tuple(_gradients(value, variables, cotangent))
        return _own(found, variables)  # type: ignore[no-any-return]

    return _own(value, variables), pull


def jvp(function: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return the value of a function, and its derivative along a direction.

    The product with the Jacobian is the gradient of a vector-Jacobian product, which is linear in its vector.

    Parameters
    ----------
    function : callable
    primals, tangents : sequences of tensors
        Arguments, and the direction for each.

    Examples
    --------
    >>> import labnet as ln
    >>> value, slope = ln.func.jvp(lambda x: x**2, (ln.asarray(3.0),), (ln.asarray(1.0),))
    >>> slope.item()
    6.0
    """
    with enable_grad():
        variables = [_variable(x) for x in primals]
        value = function(*variables)
        cotangent = _variable(zeros_like(value))
        total = zeros_like(value)
        for slope, tangent in zip(_gradients(value, variables, cotangent), tangents, strict=True):
            direction = tangent if isinstance(tangent, Tensor) else Tensor(tangent, dtype=slope.dtype)
            if direction.shape != slope.shape:
                raise ShapeError(f"jvp: a tangent has shape {direction.shape}, its argument {slope.shape}")
            total = total + _gradients((slope * direction).sum(), [cotangent])[0]
    own = [*variables, cotangent]
    return _own(value, own), _own(total, own)


def jacobian(function: Function, argnums: Positions = 0) -> Function:
    """Return the Jacobian of a function, as a function: the shape of the result, then that of the argument.

    Runs one backward per element of the result.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.func.jacobian(lambda x: x * x)(ln.asarray([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """

    def rows(*args: Any, **static: Any) -> Any:
        with enable_grad():
            given, variables = _chosen(args, argnums)
            value = function(*given, **static)
            flat = reshape(value, (-1,))
            found = [_gradients(flat[position], variables) for position in range(flat.shape[0])]
            columns = zip(zip(*found, strict=True), variables, strict=True)
            parts = [reshape(stack(column), value.shape + x.shape) for column, x in columns]
        return _own(_result(parts, argnums), variables)

    return rows


def hessian(function: Function, argnums: int = 0) -> Function:
    """Return the second derivatives of a scalar function, as a function.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.func.hessian(lambda x: (x**3).sum())(ln.asarray([1.0, 2.0])).tolist()
    [[6.0, 0.0], [0.0, 12.0]]
    """
    return jacobian(grad(function, argnums), argnums)


def checkpoint(function: Function) -> Function:
    """Return a function whose intermediate values are computed again in the backward, in place of being kept.

    A training step then needs the memory of one such function at a time, and computes its forward twice (Chen et al.,
    2016). It draws the same random numbers both times. What else it changes, such as the running statistics of a
    `BatchNorm2d`, it changes twice. In compiled steps it is the function itself.

    Parameters
    ----------
    function : callable
        Such as a module; takes anything and returns one tensor.

    Raises
    ------
    GradientError
        If the function calls a served model, whose gradient is sent once; in the backward, if a tensor that requires
        gradients was changed after the forward.
    TypeError
        If the function does not return one tensor.

    Examples
    --------
    >>> import labnet as ln
    >>> layer = ln.nn.Sequential(ln.nn.Linear(3, 64), ln.nn.Tanh(), ln.nn.Linear(64, 3))
    >>> x = ln.ones((2, 3))
    >>> plain = layer(x).sum().backward()
    >>> again = ln.checkpoint(layer)(x).sum().backward()
    >>> all((plain[p] == again[p]).all() for p in layer.parameters())
    True
    """

    @functools.wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        if not is_grad_enabled() or dispatch.current_tracer() is not None:
            return function(*args, **named)
        return _Segment.of(function, args, named)

    return run


class _Segment(Node):
    """The node of a function that is computed again in the backward."""

    __slots__ = ("_call", "_state", "_values")
    _call: Function | None
    #: State of the random numbers before the call, if it has drawn some.
    _state: Any
    #: The leaves that the function depends on, with their arrays.
    _values: list[tuple[Tensor, Any]]

    @classmethod
    def of(cls, function: Function, args: Sequence[Any], named: dict[str, Any]) -> Tensor:
        """Compute a function, and keep its arguments only."""
        state = random_state()
        call = functools.partial(function, *map(_kept, args), **{name: _kept(x) for name, x in named.items()})
        start = next_number()
        out = call()
        if not isinstance(out, Tensor):
            raise TypeError(f"checkpoint: expected a function that returns one tensor, got {type(out).__name__}")
        if out.node is None:
            return out
        inner = recorded_since(out.node, start)
        if not all(node.plain for node in inner):
            raise GradientError("checkpoint: the function calls a served model, whose forward would be sent twice")
        outer = dict.fromkeys(parent for node in inner for parent in node.parents or () if parent is not None)
        segment = cls([node for node in outer if node not in inner] or [out.node])
        segment._call, segment._state = call, None if state == random_state() else state
        owners = [node.owner() for node in segment.parents or () if isinstance(node, Leaf)]
        segment._values = [(owner, owner.array) for owner in owners if owner is not None]
        return wrap(out.array, segment)

    def vjp(self, gradient: Any, run: Run) -> list[Any]:
        """Compute the function again, and return the gradients of what it depends on."""
        assert self.parents is not None, "check_kept() refuses freed nodes"
        assert self._call is not None
        for owner, array in self._values:
            if owner.array is not array:
                raise GradientError(
                    f"checkpoint: a tensor of shape {owner.shape} that requires gradients was changed between the "
                    "forward and the backward, which computes the function again: change it after the backward"
                )
        now = random_state()
        if self._state is not None:
            restart_at(self._state)
        try:
            start = next_number()
            with enable_grad():
                out = self._call()
        finally:
            if self._state is not None:
                restart_at(now)
        found = {} if out.node is None else sweep_since(out.node, gradient, start, run)
        return [None if parent is None else found.get(parent) for parent in self.parents]

    def release(self) -> None:
        """Drop the arguments."""
        self.parents = self._call = None
        self._values = []


def _kept(x: Any) -> Any:
    """Return a tensor that stays as it is when `x` is written to."""
    return wrap(x.array, x.node) if isinstance(x, Tensor) else x


def vmap(function: Function, in_dims: int | tuple[int | None, ...] | None = 0, out_dims: int = 0) -> Function:
    """Return a function that applies another one to each slice of its arguments, and stacks the results.

    The function runs once, with tensors that stand for one slice and hold all; ops without a batching rule run once per
    slice. A function that reads elements, as in ``if x > 0`` or ``x.item()``, or that writes to tensors, runs once per
    slice. Random numbers differ between slices.

    Parameters
    ----------
    function : callable
        Returns a tensor, or a tuple of tensors.
    in_dims : int, None or tuple of these
        The dimension of the slices of each argument; None for one that is the same for all.
    out_dims : int
        The dimension of the slices in the results.

    Raises
    ------
    ShapeError
        If the numbers of slices differ, or are zero.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.func.vmap(ln.vecdot)(ln.ones((3, 2)), ln.ones((3, 2))).tolist()
    [2.0, 2.0, 2.0]
    """

    def mapped(*args: Any, **static: Any) -> Any:
        dims = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(args)
        if len(dims) != len(args):
            raise ShapeError(f"vmap: got {len(args)} arguments and {len(dims)} in_dims")
        pairs = list(zip(args, dims, strict=True))
        moved = [x if dim is None else moveaxis(x, dim, 0) for x, dim in pairs]
        lengths = {x.shape[0] for x, (_, dim) in zip(moved, pairs, strict=True) if dim is not None}
        if len(lengths) != 1 or 0 in lengths:
            raise ShapeError(f"vmap: expected arguments with one number of slices, got {sorted(lengths)}")
        length = lengths.pop()
        with contextlib.suppress(
            Unbatchable, LabnetError, IndexError
        ):  # errors come again, with the shapes of one slice
            return _at_once(function, moved, dims, static, length, out_dims)
        outs = [
            function(*(x if dim is None else x[i] for x, dim in zip(moved, dims, strict=True)), **static)
            for i in range(length)
        ]
        if isinstance(outs[0], tuple):
            return tuple(stack(column, axis=out_dims) for column in zip(*outs, strict=True))
        return stack(outs, axis=out_dims)

    return mapped


def _at_once(
    function: Function, moved: Sequence[Any], dims: Sequence[int | None], static: Any, length: int, out_dims: int
) -> Any:
    """Run a function once for all slices, which are along the first dimension."""
    batch = Batch(length)
    given = [x if dim is None else batch.of(x) for x, dim in zip(moved, dims, strict=True)]
    with traced_by(batch):
        out = function(*given, **static)
        with batch.outside():
            if isinstance(out, tuple):
                return tuple(moveaxis(batch.whole(part), 0, out_dims) for part in out)
            return moveaxis(batch.whole(out), 0, out_dims)
