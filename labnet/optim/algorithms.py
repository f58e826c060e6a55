"""The algorithms: the step of one parameter. Formulas and state names are torch's.

The numbers of a step tell its variant by their count, so that a compiled step is traced anew when the variant changes,
and takes other values of the same variant as they come.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from labnet import kernels
from labnet.errors import ShapeError
from labnet.optim.optimizer import Checks, Optimizer, Parameters, decays, not_negative
from labnet.tensor import Tensor


class SGD(Optimizer):
    """Gradient descent with momentum as in torch: ``v = momentum * v + g; p = p - lr * v``.

    Parameters
    ----------
    parameters : iterable of tensors or of groups, optional
        Train these only. A number in its place is `lr`.
    lr : float
        Step size.
    momentum : float
        Share of the previous step that is kept.
    weight_decay : float
        Multiple of the parameter that is added to the gradient.
    nesterov : bool
        Apply ``g + momentum * v`` in place of ``v`` (Sutskever et al., 2013).

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([1.0], requires_grad=True)
    >>> ln.optim.SGD(lr=0.5)((weight * weight).sum().backward())
    >>> weight.tolist()
    [0.0]
    """

    slots = ("momentum_buffer",)
    _checks: ClassVar[Checks] = {**Optimizer._checks, "momentum": not_negative, "weight_decay": not_negative}

    def __init__(
        self,
        parameters: Parameters | float | None = None,
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        super().__init__(lr, parameters=parameters)
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov=True needs a momentum")

    def _step_compiled(self, found: list[tuple[Tensor, Any]]) -> bool:
        if self.weight_decay or self.nesterov:
            return False
        kernel = kernels.sgd_with_momentum if self.momentum else kernels.sgd
        if not found or kernel.ready(found[0][0].dtype) is None:
            return False
        if self.momentum:
            return self._run(kernel, found, self.slots, (self.lr, self.momentum))
        return self._run(kernel, found, (), (self.lr,))

    def step_numbers(self, step: int) -> tuple[float, ...]:
        """Return the learning rate; the momentum if it is not 0; then factors of gradient and velocity, and the decay.

        Nothing follows the momentum of a plain step, and with decay alone the momentum is left out.
        """
        if not (self.weight_decay or self.nesterov):
            return (self.lr, self.momentum) if self.momentum else (self.lr,)
        if not self.momentum:
            return (self.lr, 0.0, self.weight_decay)
        factors = (1.0, self.momentum) if self.nesterov else (0.0, 1.0)
        return (self.lr, self.momentum, *factors, self.weight_decay)

    def formula(self, value: Any, gradient: Any, state: dict[str, Any], numbers: Sequence[Any]) -> Any:
        """Compute the new value, and the velocity if there is momentum."""
        lr, *rest = numbers
        if len(rest) > 1:
            gradient = gradient + value * rest[-1]
        if len(rest) in (1, 4):
            velocity = state["momentum_buffer"] = rest[0] * state["momentum_buffer"] + gradient
            gradient = gradient * rest[1] + velocity * rest[2] if len(rest) == 4 else velocity
        return value - lr * gradient


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1), with the bias correction of the paper.

    Parameters
    ----------
    parameters : iterable of tensors or of groups, optional
        Train these only. A number in its place is `lr`.
    lr : float
        Step size.
    betas : (float, float)
        Decay of the running means of gradient and squared gradient.
    eps : float
        Added to the denominator.
    weight_decay : float
        Multiple of the parameter that is added to the gradient.
    amsgrad : bool
        Divide by the greatest mean of squares so far (Reddi et al., 2018).

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([1.0], requires_grad=True)
    >>> ln.optim.Adam(lr=0.1)((weight * weight).sum().backward())
    >>> round(weight.item(), 4)
    0.9
    """

    slots = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    _checks: ClassVar[Checks] = {
        **Optimizer._checks,
        "betas": decays,
        "eps": not_negative,
        "weight_decay": not_negative,
    }
    #: Whether the decay is taken from the weights, not added to the gradient.
    is_decoupled: ClassVar[bool] = False

    def __init__(
        self,
        parameters: Parameters | float | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ):
        super().__init__(lr, parameters=parameters)
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.amsgrad = amsgrad

    def _step_compiled(self, found: list[tuple[Tensor, Any]]) -> bool:
        if self.amsgrad or (self.weight_decay and not self.is_decoupled):
            return False
        if not found or kernels.adam.ready(found[0][0].dtype) is None:
            return False
        states = [self.known(parameter).state for parameter, _ in found]
        steps = {state.get("step", 0) for state in states}
        if len(steps) != 1:
            return False
        step = steps.pop() + 1
        keep = 1 - self.lr * self.weight_decay
        if not self._run(kernels.adam, found, self.slots[1:3], (keep, *Adam.step_numbers(self, step)[:7])):
            return False
        for state in states:
            state["step"] = step
        return True

    def step_numbers(self, step: int) -> tuple[float, ...]:
        """Return the decay rates, bias corrections, eps, the corrected step size; then the weight decay, if any.

        For decoupled decay that is the factor of the weights. With `amsgrad` one more number follows.
        """
        beta1, beta2 = self.betas
        root, size = 1 / math.sqrt(1 - beta2**step), self.lr / (1 - beta1**step)
        decay = 1 - self.lr * self.weight_decay if self.is_decoupled else self.weight_decay
        more = (decay, 1.0) if self.amsgrad else (decay,) if decay or self.is_decoupled else ()
        return (beta1, 1 - beta1, beta2, 1 - beta2, root, self.eps, size, *more)

    def formula(self, value: Any, gradient: Any, state: dict[str, Any], numbers: Sequence[Any]) -> Any:
        """Compute the new value and the averages."""
        beta1, rest1, beta2, rest2, root, eps, size, *more = numbers
        if more and self.is_decoupled:
            value = value * more[0]
        elif more:
            gradient = gradient + value * more[0]
        mean = state["exp_avg"] = gradient * rest1 + beta1 * state["exp_avg"]
        square = state["exp_avg_sq"] = gradient * gradient * rest2 + beta2 * state["exp_avg_sq"]
        if len(more) == 2:
            square = state["max_exp_avg_sq"] = np.maximum(square, state["max_exp_avg_sq"])
        return value - mean / (square**0.5 * root + eps) * size


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2).

    Each step first subtracts ``lr * weight_decay`` of every parameter, then does an `Adam` step.

    Parameters
    ----------
    parameters, lr, betas, eps, amsgrad
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

    is_decoupled = True

    def __init__(
        self,
        parameters: Parameters | float | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ):
        super().__init__(parameters, lr, betas, eps, weight_decay, amsgrad)


class RMSprop(Optimizer):
    """Division by a running root mean square of the gradient, in torch's form (Tieleman and Hinton, 2012).

    Parameters
    ----------
    parameters : iterable of tensors or of groups, optional
        Train these only. A number in its place is `lr`.
    lr : float
        Step size.
    alpha : float
        Decay of the running mean of squared gradients.
    eps : float
        Added to the denominator.
    weight_decay : float
        Multiple of the parameter that is added to the gradient.
    momentum : float
        Share of the previous step that is kept.
    centered : bool
        Subtract the squared mean of the gradient, which leaves its variance.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([1.0], requires_grad=True)
    >>> ln.optim.RMSprop(lr=0.01)((weight * weight).sum().backward())
    >>> round(weight.item(), 4)
    0.9
    """

    slots = ("square_avg", "momentum_buffer", "grad_avg")
    _checks: ClassVar[Checks] = dict.fromkeys(("lr", "alpha", "eps", "weight_decay", "momentum"), not_negative)

    def __init__(
        self,
        parameters: Parameters | float | None = None,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ):
        super().__init__(lr, parameters=parameters)
        self.alpha, self.eps, self.weight_decay = alpha, eps, weight_decay
        self.momentum, self.centered = momentum, centered

    def step_numbers(self, step: int) -> tuple[float, ...]:
        """Return step size, decay, its complement, eps and weight decay; then the momentum, and 1 if centered."""
        more = (self.momentum, 1.0) if self.centered else (self.momentum,) if self.momentum else ()
        return (self.lr, self.alpha, 1 - self.alpha, self.eps, self.weight_decay, *more)

    def formula(self, value: Any, gradient: Any, state: dict[str, Any], numbers: Sequence[Any]) -> Any:
        """Compute the new value and the averages."""
        lr, alpha, rest, eps, decay, *more = numbers
        gradient = gradient + value * decay
        square = state["square_avg"] = alpha * state["square_avg"] + rest * gradient * gradient
        if len(more) == 2:
            mean = state["grad_avg"] = alpha * state["grad_avg"] + rest * gradient
            square = square - mean * mean
        change = gradient / (square**0.5 + eps)
        if more:
            change = state["momentum_buffer"] = more[0] * state["momentum_buffer"] + change
        return value - lr * change


class Adagrad(Optimizer):
    """Division by the root of the sum of all squared gradients so far (Duchi et al., 2011).

    Parameters
    ----------
    parameters : iterable of tensors or of groups, optional
        Train these only. A number in its place is `lr`.
    lr : float
        Step size.
    lr_decay : float
        The step size of step t is ``lr / (1 + (t - 1) * lr_decay)``.
    weight_decay : float
        Multiple of the parameter that is added to the gradient.
    eps : float
        Added to the denominator.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([1.0], requires_grad=True)
    >>> ln.optim.Adagrad(lr=0.1)((weight * weight).sum().backward())
    >>> round(weight.item(), 4)
    0.9
    """

    slots = ("step", "sum")
    _checks: ClassVar[Checks] = dict.fromkeys(("lr", "lr_decay", "weight_decay", "eps"), not_negative)

    def __init__(
        self,
        parameters: Parameters | float | None = None,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        *,
        eps: float = 1e-10,
    ):
        super().__init__(lr, parameters=parameters)
        self.lr_decay, self.weight_decay, self.eps = lr_decay, weight_decay, eps

    def step_numbers(self, step: int) -> tuple[float, ...]:
        """Return the step size of this step, weight decay and eps."""
        return (self.lr / (1 + (step - 1) * self.lr_decay), self.weight_decay, self.eps)

    def formula(self, value: Any, gradient: Any, state: dict[str, Any], numbers: Sequence[Any]) -> Any:
        """Compute the new value and the sum of squares."""
        size, decay, eps = numbers
        gradient = gradient + value * decay
        total = state["sum"] = state["sum"] + gradient * gradient
        return value - size * gradient / (total**0.5 + eps)


class Lion(Optimizer):
    """Steps by the sign of an average of gradients (Chen et al., 2023, algorithm 2).

    Parameters
    ----------
    parameters : iterable of tensors or of groups, optional
        Train these only. A number in its place is `lr`.
    lr : float
        Step size.
    betas : (float, float)
        Shares of the running mean in the step, and in the next mean.
    weight_decay : float
        Decay of the weights per unit of `lr`.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([1.0], requires_grad=True)
    >>> ln.optim.Lion(lr=0.25)((weight * weight).sum().backward())
    >>> weight.tolist()
    [0.75]
    """

    slots = ("exp_avg",)
    _checks: ClassVar[Checks] = {**Optimizer._checks, "betas": decays, "weight_decay": not_negative}

    def __init__(
        self,
        parameters: Parameters | float | None = None,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ):
        super().__init__(lr, parameters=parameters)
        self.betas, self.weight_decay = betas, weight_decay

    def step_numbers(self, step: int) -> tuple[float, ...]:
        """Return step size, both decay rates with their complements, and the factor of the weights."""
        beta1, beta2 = self.betas
        return (self.lr, beta1, 1 - beta1, beta2, 1 - beta2, 1 - self.lr * self.weight_decay)

    def formula(self, value: Any, gradient: Any, state: dict[str, Any], numbers: Sequence[Any]) -> Any:
        """Compute the new value and the mean."""
        lr, beta1, rest1, beta2, rest2, keep = numbers
        mean = state["exp_avg"]
        state["exp_avg"] = beta2 * mean + rest2 * gradient
        return value * keep - lr * np.sign(beta1 * mean + rest1 * gradient)


#: Coefficients of the quintic iteration that Muon uses for an approximate polar factor.
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(Optimizer):
    """Momentum whose matrix is made nearly orthogonal by five Newton-Schulz iterations (Jordan et al., 2024).

    For the weight matrices of hidden layers; train all other parameters with another optimizer. The defaults are those
    of torch, which iterates in bfloat16 where this does so in the precision of the weights.

    Parameters
    ----------
    parameters : iterable of matrices or of groups, optional
        Train these only. A number in its place is `lr`.
    lr : float
        Step size; for a matrix with more rows than columns times the root of their ratio.
    weight_decay : float
        Decay of the weights per unit of `lr`.
    momentum : float
        Decay of the running mean of gradients.
    nesterov : bool
        Apply the mean of gradient and running mean in place of the running mean.

    Raises
    ------
    ShapeError
        In a step with a parameter that is no matrix.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    >>> ln.optim.Muon(lr=0.1, weight_decay=0.0)((weight * weight).sum().backward())
    >>> bool((weight.numpy().diagonal() < 0.95).all())
    True
    """

    slots = ("momentum_buffer",)
    _checks: ClassVar[Checks] = dict.fromkeys(("lr", "weight_decay", "momentum"), not_negative)

    def __init__(
        self,
        parameters: Parameters | float | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
    ):
        super().__init__(lr, parameters=parameters)
        self.weight_decay, self.momentum, self.nesterov = weight_decay, momentum, nesterov

    def _step_elsewhere(self, found: list[tuple[Tensor, Any]]) -> bool:
        return False  # a matrix product is no part of an elementwise kernel

    def step_numbers(self, step: int) -> tuple[float, ...]:
        """Return step size, momentum and its complement, the gradient's share of the step, and the weights' factor."""
        share = 1 - self.momentum if self.nesterov else 0.0
        return (self.lr, self.momentum, 1 - self.momentum, share, 1 - self.lr * self.weight_decay)

    def formula(self, value: Any, gradient: Any, state: dict[str, Any], numbers: Sequence[Any]) -> Any:
        """Compute the new value and the mean."""
        if value.ndim != 2:
            raise ShapeError(f"Muon: expected weight matrices, got a parameter of shape {value.shape}")
        lr, momentum, rest, share, keep = numbers
        mean = state["momentum_buffer"] = momentum * state["momentum_buffer"] + rest * gradient
        x = gradient * share + mean * (1 - share)
        rows, columns = value.shape
        x = x.T if rows > columns else x
        x = x / np.maximum((x * x).sum() ** 0.5, 1e-7)
        a, b, c = _QUINTIC
        for _ in range(5):
            gram = x @ x.T
            x = a * x + (b * gram + c * (gram @ gram)) @ x
        x = x.T if rows > columns else x
        return value * keep - x * (lr * max(1.0, rows / columns) ** 0.5)


#: Makers of optimizers by the names that servers take.
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    kind.__name__.lower(): kind for kind in (SGD, Adam, AdamW, RMSprop, Adagrad, Lion, Muon)
}
