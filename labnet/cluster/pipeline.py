"""Pipeline parallelism: a model in stages on several workers, trained in micro-batches."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from labnet.errors import GradientError
from labnet.network.client.remote_model import RemoteModel
from labnet.network.client.shared_updates import Round
from labnet.ops.core.creation import full_like
from labnet.stats import losses
from labnet.tensor import Tensor, as_array, differentiate, wrap


class Pipeline:
    """A sequence of stages, made by `Cluster.pipeline`.

    A step splits its batch into micro-batches, which pass through the stages forwards and backwards. It then makes one
    update of each stage with the sum of their gradients; for a mean loss, that is the gradient of the whole batch.

    Parameters
    ----------
    stages : sequence of RemoteModel
        Async remote models in order.
    micro_batches : int
        Number of pieces that a batch is split into.

    Raises
    ------
    ValueError
        If there is no stage or no micro-batch.
    """

    def __init__(self, stages: Sequence[RemoteModel], *, micro_batches: int = 4):
        if not stages:
            raise ValueError("a pipeline needs at least one stage")
        if type(micro_batches) is not int or micro_batches < 1:
            raise ValueError(f"micro_batches must be a number from 1 on, got {micro_batches!r:.40}")
        if blocking := [stage for stage in stages if stage.blocking]:
            raise ValueError(f"the stages of a pipeline must not block: {blocking[0]!r} does")
        self.stages = list(stages)
        self.micro_batches = micro_batches
        self._unfinished: _Step | None = None

    async def __call__(self, x: Any) -> Tensor:
        """Run a forward of a whole batch through all stages."""
        for stage in self.stages:
            x = await stage(x)
        result: Tensor = x
        return result

    async def step(self, x: Any, target: Any, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        """Run one training step; return the loss of the batch.

        Parameters
        ----------
        x, target : tensor
            The batch, split along the first dimension.
        loss : callable
            From output and target of a micro-batch to its mean loss.

        Raises
        ------
        GradientError
            If the previous step is unfinished; `resume` finishes it.
        ValueError
            If the batch is smaller than the number of micro-batches, or x and target differ in length.
        RemoteError
            If a stage did not answer in time. Nothing is lost: `resume` continues this step.
        """
        if self._unfinished is not None:
            raise GradientError("the step before was not finished: await pipeline.resume() first")
        self._unfinished = _Step(self, _cut(x, target, self.micro_batches), loss)
        return await self.resume()

    async def resume(self) -> float:
        """Finish a failed step; gradients that were applied are not applied again."""
        step = self._unfinished
        if step is None:
            raise GradientError("there is no step to be finished")
        value = await step.run()
        self._unfinished = None
        return value

    def abandon(self) -> None:
        """Discard a failed step; stages that have made their update keep it."""
        self._unfinished = None


class _Step:
    """One training step: its micro-batches and their progress."""

    def __init__(
        self,
        pipeline: Pipeline,
        pieces: list[tuple[Tensor, Tensor, float]],
        loss: Callable[[Tensor, Tensor], Tensor],
    ):
        self._pipeline = pipeline
        self._pieces = pieces
        self._loss = loss
        self._round = Round(len(pieces))
        self._losses: dict[int, Tensor] = {}
        self._done: set[int] = set()

    async def run(self) -> float:
        """Run the remaining work; return the loss."""
        tasks = [asyncio.ensure_future(self._piece(n)) for n in range(len(self._pieces)) if n not in self._done]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        await self._round.flush()
        value = float(sum(self._losses[n].item() * share for n, (_, _, share) in enumerate(self._pieces)))
        losses.note(value)
        return value

    async def _piece(self, number: int) -> None:
        x, target, share = self._pieces[number]
        if number not in self._losses:
            self._losses[number] = self._loss(await self._pipeline(x), target)
        loss = self._losses[number]
        with self._round.collecting(number):  # the share is in the gradient, so that stages show the unscaled loss
            await differentiate(loss, full_like(loss.detach(), share), accumulate=True, loss=loss.item())
        self._losses[number] = self._losses[number].detach()
        self._done.add(number)


def _cut(x: Any, target: Any, count: int) -> list[tuple[Tensor, Tensor, float]]:
    """Split a batch into pieces, each with its share of the whole."""
    xs, targets = (value if isinstance(value, Tensor) else wrap(as_array(value)) for value in (x, target))
    rows = xs.shape[0] if xs.ndim else 0
    if rows < count or targets.ndim == 0 or targets.shape[0] != rows:
        raise ValueError(
            f"a step needs as many targets as inputs, at least {count} for as many micro-batches: "
            f"got shapes {xs.shape} and {targets.shape}"
        )
    bounds = np.linspace(0, rows, count + 1).astype(int).tolist()
    return [(xs[begin:end], targets[begin:end], (end - begin) / rows) for begin, end in pairwise(bounds)]
