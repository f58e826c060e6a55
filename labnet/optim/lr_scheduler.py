"""Schedules of the learning rate, with the names and numbers of torch.

A scheduler writes ``optimizer.lr``, that of each group if there are groups. Compiled steps read it at each call.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Literal

from labnet.optim.optimizer import Optimizer


class LRScheduler:
    """The base class of schedules: subclasses define `lr_at` and are called with `step` after each epoch or batch.

    Parameters
    ----------
    optimizer : Optimizer

    Attributes
    ----------
    base_lrs : list of float
        The learning rate of each group when its first scheduler was made.
    last_epoch : int
        Number of calls of `step`.

    Examples
    --------
    >>> import labnet as ln
    >>> class Halved(ln.optim.lr_scheduler.LRScheduler):
    ...     def lr_at(self, base, epoch):
    ...         return base / 2**epoch
    >>> optimizer = ln.optim.SGD(lr=1.0)
    >>> Halved(optimizer).step()
    >>> optimizer.lr
    0.5
    """

    def __init__(self, optimizer: Optimizer):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: expected an optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.base_lrs: list[float] = [vars(group).setdefault("_first_lr", group.lr) for group in optimizer.groups]
        self.last_epoch = -1
        self.step()

    def lr_at(self, base: float, epoch: int) -> float:
        """Return the learning rate after `epoch` steps, given the first one."""
        raise NotImplementedError

    def step(self) -> None:
        """Count a step and set the learning rate."""
        self.last_epoch += 1
        for group, base in zip(self.optimizer.groups, self.base_lrs, strict=True):
            group.lr = self.lr_at(base, self.last_epoch)

    def get_last_lr(self) -> list[float]:
        """Return the current learning rate of each group."""
        return [group.lr for group in self.optimizer.groups]

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` continues from."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`, and set the learning rate."""
        self.base_lrs, self.last_epoch = list(state["base_lrs"]), int(state["last_epoch"]) - 1
        self.step()


class StepLR(LRScheduler):
    """Multiply the learning rate by `gamma` every `step_size` steps.

    Examples
    --------
    >>> import labnet as ln
    >>> scheduler = ln.optim.lr_scheduler.StepLR(ln.optim.SGD(lr=1.0), step_size=2, gamma=0.5)
    >>> [scheduler.lr_at(1.0, epoch) for epoch in range(4)]
    [1.0, 1.0, 0.5, 0.5]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def lr_at(self, base: float, epoch: int) -> float:
        """Return the learning rate after `epoch` steps."""
        return base * self.gamma ** (epoch // self.step_size)


class MultiStepLR(LRScheduler):
    """Multiply the learning rate by `gamma` at each milestone.

    Examples
    --------
    >>> import labnet as ln
    >>> scheduler = ln.optim.lr_scheduler.MultiStepLR(ln.optim.SGD(lr=1.0), [1, 3], gamma=0.5)
    >>> [scheduler.lr_at(1.0, epoch) for epoch in range(4)]
    [1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def lr_at(self, base: float, epoch: int) -> float:
        """Return the learning rate after `epoch` steps."""
        return base * self.gamma ** bisect_right(self.milestones, epoch)


class ExponentialLR(LRScheduler):
    """Multiply the learning rate by `gamma` at each step.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.optim.lr_scheduler.ExponentialLR(ln.optim.SGD(lr=1.0), gamma=0.5).lr_at(1.0, 2)
    0.25
    """

    def __init__(self, optimizer: Optimizer, gamma: float):
        self.gamma = gamma
        super().__init__(optimizer)

    def lr_at(self, base: float, epoch: int) -> float:
        """Return the learning rate after `epoch` steps."""
        return base * self.gamma**epoch


class LambdaLR(LRScheduler):
    """Multiply the first learning rate by a function of the number of steps; a list has one per group.

    Examples
    --------
    >>> import labnet as ln
    >>> optimizer = ln.optim.SGD(lr=0.5)
    >>> ln.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch)).step()
    >>> optimizer.lr
    0.25
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]):
        self.lr_lambda = lr_lambda
        super().__init__(optimizer)

    def lr_at(self, base: float, epoch: int) -> float:
        """Return the learning rate after `epoch` steps."""
        return base * self.lr_lambda(epoch)


class LinearLR(LRScheduler):
    """Change the factor of the learning rate linearly over `total_iters` steps: the usual warm-up.

    Examples
    --------
    >>> import labnet as ln
    >>> warm_up = ln.optim.lr_scheduler.LinearLR(ln.optim.SGD(lr=1.0), start_factor=0.5, total_iters=2)
    >>> [warm_up.lr_at(1.0, epoch) for epoch in range(4)]
    [0.5, 0.75, 1.0, 1.0]
    """

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ):
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def lr_at(self, base: float, epoch: int) -> float:
        """Return the learning rate after `epoch` steps."""
        share = min(epoch, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * share)


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the first learning rate to `eta_min` over `T_max` steps (Loshchilov and Hutter, 2017).

    Examples
    --------
    >>> import labnet as ln
    >>> scheduler = ln.optim.lr_scheduler.CosineAnnealingLR(ln.optim.SGD(lr=1.0), T_max=2)
    >>> [round(scheduler.lr_at(1.0, epoch), 4) for epoch in range(3)]
    [1.0, 0.5, 0.0]
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0):  # noqa: N803 torch's name
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def lr_at(self, base: float, epoch: int) -> float:
        """Return the learning rate after `epoch` steps."""
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * epoch / self.T_max)) / 2


class SequentialLR(LRScheduler):
    """Run schedulers one after the other, each from its milestone on: a warm-up, then a decay.

    Examples
    --------
    >>> import labnet as ln
    >>> lr_scheduler, optimizer = ln.optim.lr_scheduler, ln.optim.SGD(lr=1.0)
    >>> warm_up = lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> decay = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler = lr_scheduler.SequentialLR(optimizer, [warm_up, decay], milestones=[2])
    >>> [scheduler.lr_at(1.0, epoch) for epoch in range(4)]
    [0.5, 0.75, 1.0, 0.5]
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]):
        if len(schedulers) != len(milestones) + 1:
            raise ValueError(
                f"SequentialLR: {len(schedulers)} schedulers need {len(schedulers) - 1} milestones, got {milestones}"
            )
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer)

    def lr_at(self, base: float, epoch: int) -> float:
        """Return the learning rate after `epoch` steps."""
        position = bisect_right(self.milestones, epoch)
        start = self.milestones[position - 1] if position else 0
        return self.schedulers[position].lr_at(base, epoch - start)


class OneCycleLR(LRScheduler):
    """Raise the learning rate to `max_lr` and lower it below its start (Smith and Topin, 2018), once per batch.

    The momentum, or the first of `betas`, goes the other way.

    Parameters
    ----------
    optimizer : Optimizer
    max_lr : float
    total_steps : int, optional
        By default ``epochs * steps_per_epoch``.
    epochs, steps_per_epoch : int, optional
    pct_start : float
        Share of the steps that raise the learning rate.
    anneal_strategy : "cos" or "linear"
    cycle_momentum : bool
    base_momentum, max_momentum : float
    div_factor, final_div_factor : float
        The start is ``max_lr / div_factor``, the end the start divided by `final_div_factor`.

    Examples
    --------
    >>> import labnet as ln
    >>> optimizer = ln.optim.SGD(lr=0.1, momentum=0.9)
    >>> scheduler = ln.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=11)
    >>> for _ in range(3):
    ...     scheduler.step()
    >>> round(optimizer.lr, 4), round(optimizer.momentum, 4)
    (0.9797, 0.852)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ):
        if total_steps is None and (epochs is None or steps_per_epoch is None):
            raise ValueError("OneCycleLR: expected total_steps, or epochs and steps_per_epoch")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: expected anneal_strategy 'cos' or 'linear', got {anneal_strategy!r}")
        self.total_steps = (epochs or 0) * (steps_per_epoch or 0) if total_steps is None else total_steps
        self.max_lr, self.anneal_strategy = max_lr, anneal_strategy
        self._peak = pct_start * self.total_steps - 1
        self._rates = (max_lr / div_factor, max_lr, max_lr / div_factor / final_div_factor)
        self._momenta = (max_momentum, base_momentum, max_momentum) if cycle_momentum else None
        super().__init__(optimizer)

    def _between(self, ends: tuple[float, float, float], epoch: int) -> float:
        """Return a value on the way from the first end to the peak and to the last end."""
        start, peak, end = ends
        rising = epoch <= self._peak
        first, last = (start, peak) if rising else (peak, end)
        share = epoch / self._peak if rising else (epoch - self._peak) / (self.total_steps - 1 - self._peak)
        if self.anneal_strategy == "cos":
            return last + (first - last) / 2 * (1 + math.cos(math.pi * share))
        return first + (last - first) * share

    def lr_at(self, base: float, epoch: int) -> float:
        """Return the learning rate after `epoch` steps."""
        if epoch >= self.total_steps:
            raise ValueError(f"OneCycleLR: {epoch} steps were taken of a schedule of {self.total_steps}")
        return self._between(self._rates, epoch)

    def step(self) -> None:
        """Count a step, and set learning rate and momentum."""
        super().step()
        if self._momenta is None:
            return
        momentum = self._between(self._momenta, self.last_epoch)
        for group in self.optimizer.groups:
            numbers = group.hyperparameters()
            if "betas" in numbers:
                group.set_hyperparameters({"betas": (momentum, *numbers["betas"][1:])})
            elif numbers.get("momentum"):
                group.set_hyperparameters({"momentum": momentum})
            else:
                raise ValueError(f"OneCycleLR: {group!r} has no momentum to cycle: pass cycle_momentum=False")


class ReduceLROnPlateau:
    """Multiply the learning rate by `factor` when a metric has not improved for more than `patience` steps.

    Parameters
    ----------
    optimizer : Optimizer
    mode : "min" or "max"
        Whether the metric should fall or rise.
    factor : float
    patience : int
    threshold : float
        Change that counts as an improvement, as a share of the best value with ``threshold_mode="rel"``.
    threshold_mode : "rel" or "abs"
    cooldown : int
        Steps after a reduction that are not counted.
    min_lr, eps : float
        The least learning rate, and the least change of it.

    Examples
    --------
    >>> import labnet as ln
    >>> optimizer = ln.optim.SGD(lr=1.0)
    >>> scheduler = ln.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    >>> for loss in (3.0, 2.0, 2.0):
    ...     scheduler.step(loss)
    >>> optimizer.lr
    0.1
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ):
        if not factor < 1:
            raise ValueError(f"ReduceLROnPlateau: expected factor below 1, got {factor}")
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown = threshold, threshold_mode, cooldown
        self.min_lr, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0

    def step(self, metrics: Any) -> None:
        """Take the metric of an epoch into account."""
        value = float(metrics)
        self.last_epoch += 1
        better = self._is_better(value)
        self.best = value if better else self.best
        self.num_bad_epochs = 0 if better else self.num_bad_epochs + 1
        if self.cooldown_counter:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group in self.optimizer.groups:
                self._reduce(group)
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        if math.isinf(self.best):
            return sign * value < sign * self.best
        if self.threshold_mode == "rel":
            return sign * value < sign * self.best * (1 - sign * self.threshold)
        return sign * value < sign * self.best - self.threshold

    def _reduce(self, group: Optimizer) -> None:
        new = max(group.lr * self.factor, self.min_lr)
        if group.lr - new > self.eps:
            group.lr = new

    def get_last_lr(self) -> list[float]:
        """Return the current learning rate of each group."""
        return [group.lr for group in self.optimizer.groups]

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` continues from."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        vars(self).update(state)
