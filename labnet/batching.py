"""Batching: one run of a function on stand-ins for one slice, each of which holds a whole batch.

Ops have batching rules, a few for all of the registry. An op without a rule runs once per slice; a function that
reads elements, or decides on them, is refused with `Unbatchable`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from labnet import ops
from labnet.ops.core import dispatch
from labnet.ops.core.declaration import Op
from labnet.tensor import Tensor, size_of, witness

Static = dict[str, Any]


class Unbatchable(Exception):
    """The function needs the elements of one slice, so it has to run once per slice."""


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise Unbatchable


class Batched(Tensor):
    """A stand-in for one slice, which holds the slices of a whole batch along the first dimension of `whole`.

    Examples
    --------
    >>> x = Batch(3).of(ops.reshape(Tensor([1.0, 2.0, 3.0]), (3, 1)))
    >>> x.shape, x.whole.shape
    ((1,), (3, 1))
    """

    __slots__ = ("batch", "whole")
    whole: Tensor
    batch: "Batch"

    array = property(_refuse)
    backward = backward_start = _refuse

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dimensions of one slice."""
        return self.whole.shape[1:]

    @property
    def ndim(self) -> int:
        """Number of dimensions of one slice."""
        return self.whole.ndim - 1

    @property
    def size(self) -> Any:
        """Number of elements of one slice; called, the lengths of its dimensions."""
        return size_of(self.shape)

    @property
    def dtype(self) -> Any:
        """Data type of the elements."""
        return self.whole.dtype

    @property
    def device(self) -> str:
        """Device of the elements."""
        return self.whole.device

    @property
    def node(self) -> Any:  # type: ignore[override]
        """The node of the whole batch."""
        return self.whole.node

    @property
    def requires_grad(self) -> bool:
        """Whether a backward through this tensor leads to a gradient."""
        return self.whole.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.whole.requires_grad = value

    def detach(self) -> Tensor:
        """Return the same values without their history."""
        with self.batch.outside():
            return self.batch.of(self.whole.detach())


def _numbered(x: Any, count: int, *, from_end: bool = False) -> Any:
    """Return dimensions of a slice as dimensions of the batch."""
    if isinstance(x, int | np.integer):
        return int(x) % max(count, 1) + 1
    return tuple(_numbered(one, count) for one in x)


class Batch:
    """The tracer of one batch: runs ops on whole batches, in the context in which it was made.

    Examples
    --------
    >>> batch = Batch(2)
    >>> with dispatch.traced_by(batch):
    ...     total = batch.of(Tensor([[1.0, 2.0], [3.0, 4.0]])).sum()
    >>> total.whole.tolist()
    [3.0, 7.0]
    """

    def __init__(self, length: int):
        self.length = length
        self.outer, self.outer_witness = dispatch.current_tracer(), witness.get()

    def of(self, whole: Tensor) -> Batched:
        """Return the stand-in for the slices of a tensor."""
        found: Batched = object.__new__(Batched)
        found.whole, found.batch, found.family = whole, self, None
        if self.outer_witness is not None:
            self.outer_witness("made", found)
        return found

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Compute with whole batches in this context."""
        token, witnessed = dispatch._tracer.set(self.outer), witness.set(self.outer_witness)
        try:
            yield
        finally:
            dispatch._tracer.reset(token)
            witness.reset(witnessed)

    def is_batched(self, x: Any) -> bool:
        """Return whether this is a stand-in of this batch."""
        return isinstance(x, Batched) and x.batch is self

    def whole(self, x: Any) -> Tensor:
        """Return all slices of a value, with a constant repeated; call it within `outside`."""
        if self.is_batched(x):
            return x.whole  # type: ignore[no-any-return]
        tensor = x if isinstance(x, Tensor) else Tensor(x)
        return ops.broadcast_to(ops.expand_dims(tensor, axis=0), (self.length, *tensor.shape))

    def apply(self, op: Op, inputs: Sequence[Any], static: Static) -> Any:
        """Run an op on whole batches."""
        with self.outside():
            if not _contains(self, (tuple(inputs), static)):
                return op.function(list(inputs), **static) if op.variadic else op.function(*inputs, **static)
            usual = _elementwise if op.scalar is not None and not op.is_custom else None
            rule: Any = _RULES.get(op.name, usual)
            if op.name not in _READ_KEYS and _contains(self, static):
                rule = None
            found = None if rule is None else rule(self, op, inputs, static)
            if found is not None:
                return self.of(found)
            return self.of(self._each(op, inputs, static))

    def _each(self, op: Op, inputs: Sequence[Any], static: Static) -> Tensor:
        """Run an op once per slice."""
        outs = []
        for position in range(self.length):
            given, named = _slices(self, (tuple(inputs), static), position)
            outs.append(op.function(list(given), **named) if op.variadic else op.function(*given, **named))
        return ops.stack(outs, axis=0)

    def random(self, draw: Callable[[str], Any]) -> Tensor:
        """Return other random numbers for each slice."""
        with self.outside():
            if self.outer is not None:
                return self.of(ops.stack([self.outer.random(draw) for _ in range(self.length)], axis=0))
            return self.of(Tensor(np.stack([draw("cpu") for _ in range(self.length)])))

    def lift(self, x: Any) -> Any:
        """Return an operand as it is."""
        return x

    def original(self, x: Tensor) -> Tensor:
        """Return the tensor itself."""
        return x

    def base_of(self, x: Tensor) -> Tensor:
        """Return the tensor itself: stand-ins share no memory."""
        return x

    def witness(self, what: str, tensor: Tensor, *given: Any) -> Any:
        """Detach a tensor; refuse to read the elements of a slice, and to write."""
        if what == "detach":
            with self.outside():
                return tensor.detach()
        if what in ("assign", "backward") or (what != "made" and self.is_batched(tensor)):
            raise Unbatchable
        if self.outer_witness is not None:
            return self.outer_witness(what, tensor, *given)
        return None

    write = replace = update = _refuse

    def check_within(self, x: Tensor, bound: int, message: str) -> None:
        """Raise `IndexError` for elements outside of [0, bound)."""
        whole = x.whole if isinstance(x, Batched) else x
        if self.outer is not None:
            self.outer.check_within(whole, bound, message)
        elif bool(np.any((whole.array < 0) | (whole.array >= bound))):
            raise IndexError(message)

    def __getattr__(self, name: str) -> Any:
        """Refuse what only a compiled function can record."""
        raise Unbatchable(name)


def _contains(batch: Batch, value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_contains(batch, part) for part in value)
    if isinstance(value, dict):
        return any(_contains(batch, part) for part in value.values())
    return batch.is_batched(value)


def _slices(batch: Batch, value: Any, position: int) -> Any:
    """Return a nested value with each stand-in replaced by one of its slices."""
    if isinstance(value, tuple | list):
        return type(value)(_slices(batch, part, position) for part in value)
    if isinstance(value, dict):
        return {key: _slices(batch, part, position) for key, part in value.items()}
    return value.whole[position] if batch.is_batched(value) else value


def _ndim(x: Any) -> int:
    return x.ndim if isinstance(x, Tensor | np.ndarray) else np.ndim(x)


def _aligned(batch: Batch, x: Any, ndim: int) -> Any:
    """Return a batch whose slices have at least `ndim` dimensions, those of length one first."""
    if not batch.is_batched(x):
        return x
    whole = x.whole
    return ops.reshape(whole, (whole.shape[0], *(1,) * (ndim - x.ndim), *whole.shape[1:])) if x.ndim < ndim else whole


def _elementwise(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    ndim = max(map(_ndim, inputs))
    return op.function(*(_aligned(batch, x, ndim) for x in inputs), **static)


def _matmul(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    ndims = [_ndim(x) for x in inputs]
    if 0 in ndims:
        return None
    wholes = [x.whole if batch.is_batched(x) else x for x in inputs]
    if ndims[0] == 1:
        wholes[0] = ops.expand_dims(wholes[0], axis=-2)
    if ndims[1] == 1:
        wholes[1] = ops.expand_dims(wholes[1], axis=-1)
    most = max(2, *ndims)
    for place, (x, whole) in enumerate(zip(inputs, wholes, strict=True)):
        lacking = most - max(2, ndims[place])
        if batch.is_batched(x) and lacking:
            wholes[place] = ops.reshape(whole, (whole.shape[0], *(1,) * lacking, *whole.shape[1:]))
    out = ops.matmul(*wholes)
    gone = tuple(-2 + place for place in range(2) if ndims[place] == 1)
    return ops.squeeze(out, axis=gone) if gone else out


def _along(*, several: bool, tuples: bool = True) -> Callable[..., Any]:
    """Return the rule of an op with ``axis=``, None for all dimensions if there may be several."""

    def rule(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
        (x,) = inputs
        axis = static.get("axis", op.parameters["axis"])
        if axis is None and not tuples:
            if static.get("keepdims") or not x.ndim or (x.ndim > 1 and "keepdims" not in op.parameters):
                return None
            return op.function(ops.reshape(x.whole, (batch.length, -1)), **{**static, "axis": 1})
        if not x.ndim:
            one = {**static, "axis": 1, "keepdims": False}
            return op.function(ops.expand_dims(x.whole, axis=1), **one) if several else None
        places = tuple(range(1, x.ndim + 1)) if axis is None else _checked(axis, x.ndim)
        return None if places is None else op.function(x.whole, **{**static, "axis": places})

    return rule


def _checked(axis: Any, ndim: int) -> Any:
    """Return dimensions of the batch, or None for some that do not exist, which the op refuses for one slice."""
    each = axis if isinstance(axis, tuple | list) else (axis,)
    return _numbered(axis, ndim) if all(-ndim <= one < ndim for one in each) else None


def _trailing(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    """Apply an op of the last dimensions, to which all before are a batch."""
    least = {"standardize": static.get("dims", 1), "gelu": 0, "astype": 0}.get(op.name, 2)
    return op.function(*(batch.whole(x) for x in inputs), **static) if inputs[0].ndim >= least else None


def _reshape(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    (x,), shape = inputs, static["shape"]
    lengths = [shape] if isinstance(shape, int) else list(shape)
    if lengths.count(-1) == 1:
        rest = int(np.prod([n for n in lengths if n != -1]))
        if not rest or x.size % rest:
            return None
        lengths[lengths.index(-1)] = x.size // rest
    if int(np.prod(lengths)) != x.size:
        return None
    return ops.reshape(x.whole, (batch.length, *lengths))


def _broadcast(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    shape = tuple(static["shape"])
    return ops.broadcast_to(_aligned(batch, inputs[0], len(shape)), (batch.length, *shape))


def _permute(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    (x,) = inputs
    axes = _checked(static["axes"], x.ndim)
    return None if axes is None or len(axes) != x.ndim else ops.permute_dims(x.whole, (0, *axes))


def _expand(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    (x,), axis = inputs, static.get("axis", op.parameters["axis"])
    ndim = x.ndim + (len(axis) if isinstance(axis, tuple | list) else 1)
    places = _checked(axis, ndim)
    return None if places is None else ops.expand_dims(x.whole, axis=places)


def _squeeze(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    (x,), axis = inputs, static.get("axis")
    places = tuple(i + 1 for i, n in enumerate(x.shape) if n == 1) if axis is None else _checked(axis, x.ndim)
    return None if places is None else ops.squeeze(x.whole, axis=places)


def _move(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    (x,) = inputs
    places = [_checked(static[name], x.ndim) for name in ("source", "destination")]
    return None if None in places else ops.moveaxis(x.whole, *places)


def _join(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    axis, ndim = static.get("axis", 0), _ndim(inputs[0])
    places = None if axis is None else _checked(axis, ndim)
    return None if places is None else ops.concat([batch.whole(x) for x in inputs], axis=places)


def _get(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    (x,), key = inputs, static["key"]
    parts = key if isinstance(key, tuple) else (key,)
    batched = [part for part in parts if batch.is_batched(part)]
    if batched and (batch.is_batched(x) or len(parts) > 1):
        return None
    if batched:
        return None if batched[0].dtype.kind == "b" else ops.getitem(x, batched[0].whole)
    advanced = [i for i, part in enumerate(parts) if not isinstance(part, slice | type(None) | type(...))]
    arrays = [i for i in advanced if not isinstance(parts[i], int | np.integer)]
    if arrays and advanced[-1] - advanced[0] >= len(advanced):  # NumPy moves separated ones to the front
        return None
    return ops.getitem(x.whole, (slice(None), *parts))


def _linear(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    x, weight, bias = inputs
    if not batch.is_batched(weight) and not batch.is_batched(bias):
        return op.function(x.whole, weight, bias)
    with dispatch.traced_by(batch):
        turned = ops.matrix_transpose(weight)
        out = ops.matmul(x, turned)
        return batch.whole(out if bias is None else out + bias)


def _difference(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    with dispatch.traced_by(batch):
        difference = ops.subtract(*inputs)
        return batch.whole(ops.mean(difference * difference))


def _cross_entropy(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    (x,), labels = inputs, static["labels"]
    axis = _checked(static.get("axis", -1), x.ndim)
    if axis is None or not (batch.is_batched(x) and batch.is_batched(labels)):
        return None
    return op.function(x.whole, labels=labels.whole, axis=axis)


def _images(batch: Batch, op: Op, inputs: Sequence[Any], static: Static) -> Any:
    """Convolve all images of all slices with the same filters."""
    x, weight, bias = inputs
    if not batch.is_batched(x) or batch.is_batched(weight) or batch.is_batched(bias) or x.ndim != 4:
        return None
    whole = ops.reshape(x.whole, (batch.length * x.shape[0], *x.shape[1:]))
    out = op.function(whole, weight, bias, **static)
    return ops.reshape(out, (batch.length, x.shape[0], *out.shape[1:]))


_REDUCTIONS = ("sum", "mean", "max", "min", "prod", "var", "std", "all", "any", "count_nonzero")
_ALONG = (
    "argmax",
    "argmin",
    "softmax",
    "log_softmax",
    "sort",
    "argsort",
    "argselect",
    "cumulative_sum",
    "cumulative_prod",
)
#: Ops whose static arguments may be stand-ins.
_READ_KEYS = ("getitem", "cross_entropy_with_logits")
_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_REDUCTIONS, _along(several=True)),
    **dict.fromkeys(_ALONG, _along(several=False, tuples=False)),
    "flip": _along(several=False),
    **dict.fromkeys(("astype", "gelu", "standardize", "tril", "triu", "matrix_transpose"), _trailing),
    **dict.fromkeys(("max_pool2d", "avg_pool2d"), _trailing),
    "matmul": _matmul,
    "reshape": _reshape,
    "broadcast_to": _broadcast,
    "permute_dims": _permute,
    "expand_dims": _expand,
    "squeeze": _squeeze,
    "moveaxis": _move,
    "concat": _join,
    "getitem": _get,
    "linear": _linear,
    "mean_squared_error": _difference,
    "cross_entropy_with_logits": _cross_entropy,
    "conv2d": _images,
}


def current_batch() -> Batch | None:
    """Return the batch that ops run for in this context, if any.

    Examples
    --------
    >>> current_batch() is None
    True
    """
    tracer: Any = dispatch.current_tracer()
    return tracer if isinstance(tracer, Batch) else None
