"""Attention as one recorded step, for tiles of queries, so that there is no matrix of all scores.

The backward computes the weights once more (Dao et al., 2022). A compiled kernel, when it is ready, computes the same
bits as the NumPy code here.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from labnet import kernels, ops
from labnet.autograd import Node, Run, is_recording
from labnet.kernels import blas
from labnet.kernels.exponential import exponential
from labnet.ops.core.dispatch import current_tracer
from labnet.tensor import Tensor, wrap

Values = np.ndarray[Any, Any]
Composed = Callable[[Tensor, Tensor, Tensor], Tensor]
_SINGLE = np.dtype("float32")
#: Queries of a tile; fewer if keys after them are left out.
_TILE, _CAUSAL_TILE = 256, 64


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, causal: bool, composed: Composed
) -> Tensor | None:
    """Compute attention in tiles.

    Parameters
    ----------
    query, key, value : tensors of shape (..., L, E), (..., S, E) and (..., S, V), with equal leading dimensions
    bias : tensor that broadcasts to (..., L, S), optional
        Added to the scores; a query with no other bias than minus infinity has output 0.
    scale : float
        Factor of the scores.
    causal : bool
        Query i attends to keys 0 to i only; then there is no bias.
    composed : callable
        Attention of query, key and value in ops, for higher derivatives.

    Returns
    -------
    tensor of shape (..., L, V), or None
        None without any effect for what tiles do not take: a traced computation, a bias with a gradient, or arrays that
        are not all float32 on the CPU.

    Examples
    --------
    >>> import labnet as ln
    >>> x = ln.asarray([[1.0], [3.0]])
    >>> attend(x, x, x, None, 1.0, True, lambda *_: x)[0].tolist()
    [1.0]
    """
    tensors = (query, key, value) if bias is None else (query, key, value, bias)
    if current_tracer() is not None or not all(isinstance(x, Tensor) for x in tensors):
        return None
    arrays = [x.array for x in tensors]
    if any(type(x) is not np.ndarray or x.dtype != _SINGLE for x in arrays) or not isinstance(scale, int | float):
        return None
    q, k, v = arrays[:3]
    if q.ndim < 2 or k.shape[:-2] != q.shape[:-2] or v.shape[:-1] != k.shape[:-1] or k.shape[-1] != q.shape[-1]:
        return None
    shape = (*q.shape[:-1], k.shape[-2])
    if not math.prod(shape) or not q.shape[-1] or not v.shape[-1]:
        return None
    if bias is not None and (bias.node is not None or not _broadcasts(bias.shape, shape)):
        return None
    parents = (query.node, key.node, value.node)
    tiles = Tiles(q, k, v, None if bias is None else np.broadcast_to(arrays[3], shape), scale, causal)
    recorded = is_recording() and any(parents)
    out = tiles.out.reshape(*q.shape[:-1], v.shape[-1])
    return wrap(out, Attention(parents, tiles, composed) if recorded else None)


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Return whether an array broadcasts to a shape, of which no dimension is 0."""
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(length in (1, wanted) for length, wanted in pairs)


class Tiles:
    """The values of attention that the backward needs.

    Attributes
    ----------
    query, key, value, out : arrays of shape (B, L, E), (B, S, E), (B, S, V) and (B, L, V)
        Leading dimensions are joined. What the arguments are views of is not kept.
    moments : array of shape (B, L, 2)
        The greatest score and the sum of the exponentials of each query.
    """

    def __init__(self, query: Values, key: Values, value: Values, bias: Values | None, scale: float, causal: bool):
        self._shapes = (query.shape, key.shape, value.shape)
        self.scale, self.causal = scale, causal
        self.query, self.key, self.value = (_joined(x) for x in (query, key, value))
        self._set_bias(bias)
        count, queries, _ = self.query.shape
        self.out = np.empty((count, queries, value.shape[-1]), query.dtype)
        self.moments = np.empty((count, queries, 2), query.dtype)
        self.tile = _CAUSAL_TILE if causal else _TILE
        self._compute(count * queries * self.key.shape[1])

    @blas.in_one_thread
    def _compute(self, work: int) -> None:
        compiled = kernels.attention.ready(self.query.dtype, work)
        scaled = self._scaled()
        together = (scaled, self.key, self.value, self._bias, self._offsets, self.out, self.moments)
        if compiled is None or not compiled(together, self.tile, int(self.causal), self._step):
            self._forward(scaled)

    @property
    def inputs(self) -> tuple[Values, ...]:
        """Query, key and value in the shapes of the arguments."""
        pairs = zip((self.query, self.key, self.value), self._shapes, strict=True)
        return tuple([x.reshape(shape) for x, shape in pairs])

    def _scaled(self) -> Values:
        """Return the queries times the scale, which are computed again in the backward."""
        return np.multiply(self.query, self.scale, out=np.empty(self.query.shape, self.query.dtype))

    def _set_bias(self, bias: Values | None) -> None:
        """Find where the bias of each matrix begins in memory, and how far its rows are apart."""
        self._bias, self._step, self._offsets, self._matrices = bias, 0, np.zeros(len(self.query), np.int64), bias
        if bias is None:
            return
        slim = tuple(slice(None) if step else slice(1) for step in bias.strides[:-1])
        memory = np.ascontiguousarray(bias[slim])  # without repetition, but for that of keys
        spread = np.broadcast_to(memory, bias.shape)
        steps = [step // memory.itemsize for step in spread.strides]
        places = [np.arange(n) * step for n, step in zip(bias.shape[:-2], steps[:-2], strict=True)]
        offsets = np.zeros((), np.int64)
        for place in places:
            offsets = offsets[..., None] + place
        self._bias, self._offsets, self._step = memory, np.ascontiguousarray(offsets.reshape(-1)), steps[-2]
        self._matrices = spread

    def _tiles(self) -> Iterator[tuple[slice, slice, Any]]:
        """Yield, for each tile, its queries, its keys, and True for scores of keys that are left out."""
        queries, keys = self.query.shape[1], self.key.shape[1]
        for first in range(0, queries, self.tile):
            last = min(first + self.tile, queries)
            seen = min(keys, last) if self.causal else keys
            late = np.arange(seen) > np.arange(first, last)[:, None] if self.causal else None
            yield slice(first, last), slice(seen), late

    def _scores(self, scaled: Values, rows: slice, columns: slice, late: Any) -> tuple[Values, Any]:
        """Return the scores of a tile of scaled queries, and True for queries without any key."""
        scores = scaled[:, rows] @ self.key[:, columns].swapaxes(1, 2)
        if late is not None:
            scores[:, late] = -math.inf
        if self._matrices is None:
            return scores, None
        bias = self._matrices[..., rows, columns]
        together = scores.reshape(bias.shape)
        together += bias
        alone = np.broadcast_to(np.max(bias, axis=-1) == -math.inf, bias.shape[:-1]).reshape(scores.shape[:-1])
        scores[alone] = -math.inf
        return scores, alone

    def _forward(self, scaled: Values) -> None:
        for rows, columns, late in self._tiles():
            scores, alone = self._scores(scaled, rows, columns, late)
            greatest = np.max(scores, axis=-1)
            if alone is not None:
                greatest[alone] = 0
            scores -= greatest[..., None]
            scores = exponential(scores)
            total = np.sum(scores, axis=-1)
            if alone is not None:
                total[alone] = 1
            self.moments[:, rows, 0], self.moments[:, rows, 1] = greatest, total
            self.out[:, rows] = scores @ self.value[:, columns]
            self.out[:, rows] /= total[..., None]

    @blas.in_one_thread
    def back(self, gradient: Values, wanted: Sequence[bool]) -> list[Values | None]:
        """Return those gradients of query, key and value that are wanted."""
        g = _joined(gradient)
        starts = (np.empty, np.zeros, np.zeros)
        given = (self._scaled(), self.key, self.value)
        found: list[Any] = [
            start(x.shape, x.dtype) if one else None for one, start, x in zip(wanted, starts, given, strict=True)
        ]
        compiled = kernels.attention_backward.ready(g.dtype, self.moments.size // 2 * self.key.shape[1])
        together = (g, *given, self._bias, self._offsets, self.out, self.moments, *found)
        if compiled is None or not compiled(together, self.tile, int(self.causal), self._step):
            for one in found[1:]:
                if one is not None:
                    one.fill(0)  # a part of a divided call may have added to it
            self._backward(g, given[0], *found)
        if found[0] is not None:
            found[0] *= self.scale
        return [None if x is None else x.reshape(shape) for x, shape in zip(found, self._shapes, strict=True)]

    def _backward(self, g: Values, scaled: Values, by_query: Any, by_key: Any, by_value: Any) -> None:
        for rows, columns, late in self._tiles():
            weights, _ = self._scores(scaled, rows, columns, late)
            weights -= self.moments[:, rows, :1]
            weights = exponential(weights)
            weights /= self.moments[:, rows, 1:]
            if by_value is not None:
                by_value[:, columns] += weights.swapaxes(1, 2) @ g[:, rows]
            if by_query is None and by_key is None:
                continue
            slopes = g[:, rows] @ self.value[:, columns].swapaxes(1, 2)
            slopes -= np.sum(g[:, rows] * self.out[:, rows], axis=-1, keepdims=True)
            slopes *= weights
            if by_query is not None:
                by_query[:, rows] = slopes @ self.key[:, columns]
            if by_key is not None:
                by_key[:, columns] += slopes.swapaxes(1, 2) @ scaled[:, rows]


def _joined(x: Values) -> Values:
    """Return an array as (B, rows, columns), in order of memory."""
    return np.ascontiguousarray(x).reshape(-1, *x.shape[-2:])


class Attention(Node):
    """The node of attention in tiles."""

    __slots__ = ("composed", "tiles")

    def __init__(self, parents: tuple[Node | None, ...], tiles: Tiles, composed: Composed):
        super().__init__(parents)
        self.tiles: Tiles | None = tiles
        self.composed: Composed | None = composed

    def vjp(self, gradient: Any, run: Run) -> Sequence[Any]:
        """Return the gradients of query, key and value; None where not needed."""
        tiles, parents = self.tiles, self.parents
        assert tiles is not None, "check_kept() refuses freed nodes"
        assert parents is not None
        if run.create_graph:
            assert self.composed is not None
            return ops.replay(self.composed, tiles.inputs, parents, gradient)
        return tiles.back(np.asarray(gradient), [parent is not None for parent in parents])

    def release(self) -> None:
        """Drop the saved values."""
        self.parents = self.tiles = self.composed = None

    @property
    def saved(self) -> Sequence[Any]:
        """Queries, keys, values, outputs, and the moments of the scores."""
        tiles = self.tiles
        return () if tiles is None else (tiles.query, tiles.key, tiles.value, tiles.out, tiles.moments)
