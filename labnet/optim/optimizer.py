"""Optimizers: callables that take the gradients of a backward and change the parameters.

``opt(loss.backward())`` applies exactly these gradients and clears the ``.grad`` of what it changed. New
values go to new memory, so graphs and arrays handed out keep what they saw. Formulas and state words are torch's.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from labnet import memory
from labnet.autograd import Gradients
from labnet.errors import GradientError, ShapeError
from labnet.tensor import Tensor, wrap

Values = np.ndarray[Any, Any]
#: What an optimizer remembers about one parameter: arrays of its shape, and the number of steps.
State = dict[str, Any]
Named = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]
#: Called after a step with the ids of the parameters that changed. Held weakly: who wants to be called keeps it.
Watcher = Callable[[frozenset[int]], None]

_watchers: "weakref.WeakSet[Any]" = weakref.WeakSet()


def watch(watcher: Watcher) -> None:
    """Have an object called with the ids of the changed parameters after each step of any optimizer.

    It is held weakly, so it is forgotten together with its owner; a bound method would be gone at once.
    A step costs nothing more while nobody watches.

    Examples
    --------
    >>> import labnet as ln
    >>> class Count:
    ...     steps = 0
    ...     def __call__(self, changed):
    ...         self.steps += 1
    >>> count = Count()
    >>> watch(count)
    >>> weight = ln.ones(1, requires_grad=True)
    >>> ln.optim.SGD()((weight * 2).sum().backward()); count.steps
    1
    """
    _watchers.add(watcher)


class Optimizer:
    """Base of the optimizers: which parameters change, and with which state.

    Subclasses define `updated`, and list in `slots` the state words that it uses.

    Parameters
    ----------
    lr : float
        Step size; may be assigned at any time.
    parameters : iterable of tensors, optional
        Train these only; others in the gradients are left alone.

    Raises
    ------
    ValueError
        If `lr` is negative.
    """

    #: State words of each parameter; ``step`` counts, all others have the parameter's shape.
    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self, lr: float, *, parameters: Iterable[Tensor] | None = None):
        if not lr >= 0:
            raise ValueError(f"lr must not be negative, got {lr}")
        self.lr = lr
        self._only = None if parameters is None else {id(p): p for p in parameters}
        self._state: dict[int, tuple[weakref.ref[Tensor], State]] = {}

    def __call__(self, gradients: Gradients) -> None:
        """Change the parameters by one step: all of them, or on an error none, state included.

        Raises
        ------
        GradientError
            If the gradients were not awaited, or this is not what a backward returned.
        """
        check_gradients("an optimizer", gradients, "opt(await loss.backward())")
        updates, only = [], self._only
        for parameter, gradient in gradients.found():
            if only is None or id(parameter) in only:
                state, array = dict(self._state_of(parameter)), parameter._array
                slope = np.asarray(gradient)
                updates.append((parameter, np.asarray(self.updated(array, slope, state), array.dtype), state))
        for parameter, value, state in updates:
            memory.overwrite(parameter, value)
            parameter.grad = None
            if state:
                self._remember(parameter, state)
        if _watchers:
            changed = frozenset(id(parameter) for parameter, _, _ in updates)
            for watcher in tuple(_watchers):
                watcher(changed)

    def updated(self, value: Values, gradient: Values, state: State) -> Values:
        """Return the value of a parameter after one step; what is put into `state` is there at the next one."""
        raise NotImplementedError

    def _state_of(self, parameter: Tensor) -> State:
        known = self._state.get(id(parameter))
        return {} if known is None else known[1]

    def _remember(self, parameter: Tensor, state: State) -> None:
        key, states = id(parameter), self._state
        known = states.get(key)
        if known is not None:
            states[key] = (known[0], state)
        elif state:
            states[key] = (weakref.ref(parameter, lambda _: states.pop(key, None)), state)

    def state_dict(self, named_parameters: Named) -> dict[str, Tensor]:
        """Return what the optimizer remembers, under names that outlive the process.

        Parameters
        ----------
        named_parameters : mapping, or iterable of (name, tensor)
            Such as ``module.named_parameters()``.

        Returns
        -------
        dict
            ``"lr"``, and for each parameter that was changed so far its state, such as ``"0.weight.exp_avg"``.

        Raises
        ------
        KeyError
            If a parameter that was changed has no name.

        Examples
        --------
        >>> import labnet as ln
        >>> layer, optimizer = ln.nn.Linear(2, 1), ln.optim.Adam()
        >>> optimizer(layer(ln.ones((1, 2))).sum().backward())
        >>> sorted(optimizer.state_dict(layer.named_parameters()))[:4]
        ['bias.exp_avg', 'bias.exp_avg_sq', 'bias.step', 'lr']
        """
        names = {id(parameter): name for name, parameter in dict(named_parameters).items()}
        found = {"lr": wrap(np.asarray(self.lr, "float64"))}
        for key, (reference, state) in self._state.items():
            if key not in names:
                shape = getattr(reference(), "shape", ())
                raise KeyError(f"state_dict: a parameter of shape {shape} has state, but no name among {len(names)}")
            found.update({f"{names[key]}.{slot}": wrap(np.asarray(value)) for slot, value in state.items()})
        return found

    def load_state_dict(self, state: Mapping[str, Tensor], named_parameters: Named) -> None:
        """Take over what `state_dict` returned, in this process or another one.

        Parameters
        ----------
        state : mapping
            As returned by `state_dict` of an optimizer of the same class.
        named_parameters : mapping, or iterable of (name, tensor)
            The same names, for the parameters as they are now.

        Raises
        ------
        KeyError
            If a name is unknown, or ``"lr"`` is missing; nothing is changed then.
        ShapeError
            If a state has another shape than its parameter; nothing is changed then.
        """
        named = dict(named_parameters)
        if "lr" not in state:
            raise KeyError(f"load_state_dict: 'lr' is missing among {sorted(state)}")
        loaded: dict[str, State] = {}
        for key, value in state.items():
            name, _, slot = key.rpartition(".")
            if key == "lr":
                continue
            if name not in named or slot not in self.slots:
                expected = ", ".join(f"NAME.{known}" for known in self.slots) or "none"
                raise KeyError(
                    f"load_state_dict: unknown state {key!r} for {type(self).__name__}; expected {expected} "
                    f"with NAME one of {sorted(named)}"
                )
            shape = () if slot == "step" else named[name].shape
            if value.shape != shape:
                raise ShapeError(f"load_state_dict: {key} has shape {value.shape}, expected {shape}")
            loaded.setdefault(name, {})[slot] = int(value) if slot == "step" else np.array(value)
        self.lr = float(state["lr"])
        self._state.clear()
        for name, slots in loaded.items():
            self._remember(named[name], slots)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lr={self.lr})"


def check_gradients(name: str, gradients: object, remotely: str) -> None:
    """Refuse what no backward returned; `remotely` is what to write where the graph crosses the network.

    Raises
    ------
    GradientError
        If these are no `Gradients`.
    """
    if not isinstance(gradients, Gradients):
        raise GradientError(
            f"{name} takes what loss.backward() returns, got {type(gradients).__name__}; "
            f"where the graph crosses the network write {remotely}"
        )
