"""Local steps: a copy of a served model is trained here, and the server applies the difference (DiLoCo)."""

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from labnet import wire
from labnet.errors import BadGradient, CallExpired, GraphExpired, ServeError, StaleGradient
from labnet.network.client.forward import Forward
from labnet.network.client.remote_call import RemoteCall
from labnet.network.protocol import differences
from labnet.nn import Module
from labnet.optim import Optimizer
from labnet.tensor import Tensor, as_array

DTYPES = (None, "bfloat16", "int8")


class LocalTrainer:
    """Trains a copy of a served model and sends the differences of its weights; made by `remote_model`.

    After `local_steps` steps the server gets the weights before these steps minus those after them, as the gradient
    of its outer optimizer (Douillard et al., DiLoCo, arXiv 2311.08105), once however often it is sent. The copy then
    goes on from the weights of the server, which has applied the differences of all trainers.

    Attributes
    ----------
    model : Module
        The copy.
    optimizer : Optimizer
        Trains the copy; its state stays here.
    rounds : int
        Number of differences that the server has applied.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Forward]],
        model: Any,
        optimizer: Any,
        local_steps: int,
        *,
        wire_dtype: str | None = None,
    ):
        if type(local_steps) is not int or local_steps < 1:
            raise ValueError(f"local_steps must be a number from 1 on, got {local_steps!r:.40}")
        if not isinstance(model, Module) or not isinstance(optimizer, Optimizer):
            raise ServeError(
                "remote_model: local_steps need model=, a Module like the served one, and optimizer=, one of "
                f"labnet.optim; got {model!r:.60} and {optimizer!r:.60}"
            )
        if wire_dtype not in DTYPES:
            raise ValueError(f"wire_dtype must be one of {DTYPES}, got {wire_dtype!r:.40}")
        self._fetch_weights, self.model, self.optimizer, self.local_steps = fetch, model, optimizer, local_steps
        self.rounds = 0
        self._wire_dtype = wire_dtype
        self._taken = 0
        self._call: RemoteCall | None = None
        self._start: dict[str, Any] = {}
        self._left: dict[str, Any] = {}
        self._body: wire.Body | None = None

    async def step(self, x: Any, y: Any, loss: Callable[[Tensor, Any], Tensor]) -> float:
        """Train the copy on a batch; send the difference if this was the last step of a round; return the loss."""
        if self._body is not None or self._call is None:
            await self.synchronize()
        value = loss(self.model(x), y)
        gradients: Any = value.backward()
        self.optimizer(gradients)
        self._taken += 1
        if self._taken >= self.local_steps:
            await self.synchronize()
        return float(value.item())

    async def synchronize(self) -> None:
        """Send the difference of the steps since the last round, and load the weights of the server."""
        if self._call is not None and (self._taken or self._body is not None):
            if self._body is None:
                now = self._weights()
                changes = {name: start - now[name] + self._left.get(name, 0) for name, start in self._start.items()}
                self._body, self._left = differences.encode(changes, self._wire_dtype)
                self._taken = 0
            try:
                await self._call.send(self._body)
            except (BadGradient, CallExpired, GraphExpired, StaleGradient) as error:  # the server would refuse it again
                self._body, self._call = None, None
                if error.applied != "yes":
                    raise
            self._body, self._call = None, None
            self.rounds += 1
        if self._call is None:
            await self._fetch()

    def _weights(self) -> dict[str, Any]:
        return {name: np.array(parameter.numpy()) for name, parameter in self.model.named_parameters()}

    async def _fetch(self) -> None:
        """Load the weights of the server into the copy."""
        forward = await self._fetch_weights()
        found = {name: as_array(tensor) for name, tensor in forward.reply.tensors.items()}
        own = dict(self.model.named_parameters())
        for name, array in found.items():
            if name not in own or own[name].shape != array.shape:
                there, here = array.shape, own[name].shape if name in own else "missing"
                raise ServeError(f"remote_model: the parameter {name!r} is {there} on the server and {here} in model=")
        for name, array in found.items():
            own[name].assign(Tensor(array))
        self._start = {name: np.array(array) for name, array in found.items()}
        self._call = RemoteCall(forward, inputs={}, blocking=False)
