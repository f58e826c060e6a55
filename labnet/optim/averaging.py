"""Averages of weights over a training."""

import copy
from collections.abc import Iterator
from typing import Any, Protocol

from labnet.autograd import no_grad
from labnet.tensor import Tensor


class _Stateful(Protocol):
    """What has parameters and buffers, such as a module."""

    def parameters(self) -> Iterator[Tensor]: ...

    def buffers(self) -> Iterator[Tensor]: ...


class EMA:
    """A copy of a module whose parameters are exponential moving averages of those of the module.

    Parameters
    ----------
    module : Module
    decay : float
        Share of the average that each update keeps.

    Attributes
    ----------
    module : Module
        The copy; its buffers are those of the module at the last update.

    Examples
    --------
    >>> import labnet as ln
    >>> model = ln.nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.assign(ln.zeros((1, 1)))
    >>> average = ln.optim.EMA(model, decay=0.75)
    >>> _ = model.weight.assign(ln.ones((1, 1)))
    >>> average.update()
    >>> average(ln.ones((1, 1))).item()
    0.25
    """

    def __init__(self, module: Any, decay: float = 0.999):
        if not 0 <= decay <= 1:
            raise ValueError(f"EMA: expected decay from 0 to 1, got {decay}")
        self.decay = decay
        self._source: _Stateful = module
        self.module = copy.deepcopy(module)

    def update(self) -> None:
        """Move the average towards the current weights of the module."""
        with no_grad():
            for average, new in zip(self.module.parameters(), self._source.parameters(), strict=True):
                average.assign(average * self.decay + new * (1 - self.decay))
            for buffer, new in zip(self.module.buffers(), self._source.buffers(), strict=True):
                buffer.assign(new)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Call the copy."""
        return self.module(*inputs, **named)
