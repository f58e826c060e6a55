"""Optimizers: callables that take the gradients of a backward and change the parameters.

``opt(loss.backward())`` applies exactly these gradients and clears the ``.grad`` of what it changed. New
values go to new memory, so graphs and arrays handed out keep what they saw.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from labnet.autograd import Gradients
from labnet.errors import GradientError
from labnet.tensor import Tensor

Values = np.ndarray[Any, Any]


class Optimizer:
    """Base of the optimizers: which parameters change, and with which state.

    Parameters
    ----------
    lr : float
        Step size; may be assigned at any time.
    parameters : iterable of tensors, optional
        Train these only; others in the gradients are left alone.
    """

    def __init__(self, lr: float, *, parameters: Iterable[Tensor] | None = None):
        if not lr >= 0:
            raise ValueError(f"lr must not be negative, got {lr}")
        self.lr = lr
        self._only = None if parameters is None else {id(p): p for p in parameters}
        self._state: dict[int, tuple[weakref.ref[Tensor], dict[str, Any]]] = {}

    def __call__(self, gradients: Gradients) -> None:
        """Change the parameters by one step: all of them, or on an error none.

        Raises
        ------
        GradientError
            If the gradients were not awaited, or this is not what a backward returned.
        """
        if not isinstance(gradients, Gradients):
            raise GradientError(
                f"an optimizer takes what loss.backward() returns, got {type(gradients).__name__}; "
                "where the graph crosses the network write opt(await loss.backward())"
            )
        updates = [
            (parameter, self.updated(parameter.numpy(), gradient.numpy(), self._state_of(parameter)))
            for parameter, gradient in gradients.items()
            if self._only is None or id(parameter) in self._only
        ]
        for parameter, value in updates:
            parameter.assign(value)
            parameter.grad = None

    def updated(self, value: Values, gradient: Values, state: dict[str, Any]) -> Values:
        """Return the value of a parameter after one step; `state` is kept for it between steps."""
        raise NotImplementedError

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        key = id(parameter)
        if key not in self._state:
            states = self._state
            self._state[key] = (weakref.ref(parameter, lambda _: states.pop(key, None)), {})
        return self._state[key][1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lr={self.lr})"


class SGD(Optimizer):
    """Gradient descent, with momentum as in torch: ``v = momentum * v + g; p = p - lr * v``.

    Parameters
    ----------
    lr : float
        Step size.
    momentum : float
        Share of the previous step that is carried on.
    parameters : iterable of tensors, optional
        Train these only.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([1.0], requires_grad=True)
    >>> ln.optim.SGD(lr=0.5)((weight * weight).sum().backward())
    >>> weight.tolist()
    [0.0]
    """

    def __init__(self, lr: float = 1e-3, momentum: float = 0.0, *, parameters: Iterable[Tensor] | None = None):
        super().__init__(lr, parameters=parameters)
        self.momentum = momentum

    def updated(self, value: Values, gradient: Values, state: dict[str, Any]) -> Values:
        """Return the value after one step."""
        if self.momentum:
            velocity = state.get("velocity")
            gradient = gradient if velocity is None else self.momentum * velocity + gradient
            state["velocity"] = gradient
        return value - self.lr * gradient


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1), with the bias correction of the paper.

    Parameters
    ----------
    lr : float
        Step size.
    betas : (float, float)
        Decay of the running means of gradient and squared gradient.
    eps : float
        Added to the denominator.
    parameters : iterable of tensors, optional
        Train these only.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([1.0], requires_grad=True)
    >>> ln.optim.Adam(lr=0.1)((weight * weight).sum().backward())
    >>> round(weight.item(), 4)
    0.9
    """

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        parameters: Iterable[Tensor] | None = None,
    ):
        super().__init__(lr, parameters=parameters)
        self.betas = betas
        self.eps = eps

    def updated(self, value: Values, gradient: Values, state: dict[str, Any]) -> Values:
        """Return the value after one step."""
        beta1, beta2 = self.betas
        step = state["step"] = state.get("step", 0) + 1
        mean = state["mean"] = beta1 * state.get("mean", 0.0) + (1 - beta1) * gradient
        square = state["square"] = beta2 * state.get("square", 0.0) + (1 - beta2) * gradient * gradient
        denominator = np.sqrt(square) / np.sqrt(1 - beta2**step) + self.eps
        return np.asarray(value - (self.lr / (1 - beta1**step)) * (mean / denominator), dtype=value.dtype)
