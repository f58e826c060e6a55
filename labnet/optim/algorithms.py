"""The algorithms: the step of one parameter. Formulas and state names are torch's."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from labnet import kernels
from labnet.optim.optimizer import Checks, Optimizer, decays, not_negative
from labnet.tensor import Tensor


class SGD(Optimizer):
    """Gradient descent with momentum as in torch: ``v = momentum * v + g; p = p - lr * v``.

    Parameters
    ----------
    lr : float
        Step size.
    momentum : float
        Share of the previous step that is kept.
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

    slots = ("momentum_buffer",)
    _checks: ClassVar[Checks] = {**Optimizer._checks, "momentum": not_negative}

    def __init__(self, lr: float = 1e-3, momentum: float = 0.0, *, parameters: Iterable[Tensor] | None = None):
        super().__init__(lr, parameters=parameters)
        self.momentum = momentum

    def _step_compiled(self, found: list[tuple[Tensor, Any]]) -> bool:
        kernel = kernels.sgd_with_momentum if self.momentum else kernels.sgd
        if kernel.compiled is None:
            kernels.ask()
            return False
        if self.momentum:
            return self._run(kernel.compiled, found, self.slots, (self.lr, self.momentum))
        return self._run(kernel.compiled, found, (), (self.lr,))

    def step_numbers(self, step: int) -> tuple[float, ...]:
        """Return the learning rate, and the momentum if it is not 0."""
        return (self.lr, self.momentum) if self.momentum else (self.lr,)

    def formula(self, value: Any, gradient: Any, state: dict[str, Any], numbers: Sequence[Any]) -> Any:
        """Compute the new value, and the velocity if there is momentum."""
        lr, *momentum = numbers
        if momentum:
            gradient = state["momentum_buffer"] = momentum[0] * state["momentum_buffer"] + gradient
        return value - lr * gradient


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

    slots = ("step", "exp_avg", "exp_avg_sq")
    _checks: ClassVar[Checks] = {**Optimizer._checks, "betas": decays, "eps": not_negative}

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

    def _step_compiled(self, found: list[tuple[Tensor, Any]]) -> bool:
        return self._step_decayed(found, 1.0)

    def _step_decayed(self, found: list[tuple[Tensor, Any]], keep: float) -> bool:
        """Take a step with decoupled decay: multiply each value by `keep`, then apply the gradient."""
        compiled = kernels.adam.compiled
        if compiled is None:
            kernels.ask()
            return False
        states = [self.known(parameter).state for parameter, _ in found]
        steps = {state.get("step", 0) for state in states}
        if len(steps) != 1:
            return False
        step = steps.pop() + 1
        if not self._run(compiled, found, self.slots[1:], (keep, *Adam.step_numbers(self, step))):
            return False
        for state in states:
            state["step"] = step
        return True

    def step_numbers(self, step: int) -> tuple[float, ...]:
        """Return the decay rates, the bias corrections, eps and the corrected step size."""
        beta1, beta2 = self.betas
        root, size = 1 / math.sqrt(1 - beta2**step), self.lr / (1 - beta1**step)
        return (beta1, 1 - beta1, beta2, 1 - beta2, root, self.eps, size)

    def formula(self, value: Any, gradient: Any, state: dict[str, Any], numbers: Sequence[Any]) -> Any:
        """Compute the new value and both averages."""
        beta1, rest1, beta2, rest2, root, eps, size = numbers
        mean = state["exp_avg"] = gradient * rest1 + beta1 * state["exp_avg"]
        square = state["exp_avg_sq"] = gradient * gradient * rest2 + beta2 * state["exp_avg_sq"]
        return value - mean / (square**0.5 * root + eps) * size


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2).

    Each step first subtracts ``lr * weight_decay`` of every parameter, then does an `Adam` step.

    Parameters
    ----------
    lr, betas, eps, parameters
        As for `Adam`.
    weight_decay : float
        Decay per unit of `lr`.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([1.0], requires_grad=True)
    >>> ln.optim.AdamW(lr=0.1, weight_decay=1.0)((weight * weight).sum().backward())
    >>> round(weight.item(), 4)
    0.8
    """

    _checks: ClassVar[Checks] = {**Adam._checks, "weight_decay": not_negative}

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        parameters: Iterable[Tensor] | None = None,
    ):
        super().__init__(lr, betas, eps, parameters=parameters)
        self.weight_decay = weight_decay

    def _step_compiled(self, found: list[tuple[Tensor, Any]]) -> bool:
        return self._step_decayed(found, 1 - self.lr * self.weight_decay)

    def step_numbers(self, step: int) -> tuple[float, ...]:
        """Return the numbers of Adam and the factor that decays the weights."""
        return (*super().step_numbers(step), 1 - self.lr * self.weight_decay)

    def formula(self, value: Any, gradient: Any, state: dict[str, Any], numbers: Sequence[Any]) -> Any:
        """Compute Adam's new value of the decayed weights."""
        return super().formula(value * numbers[-1], gradient, state, numbers[:-1])
