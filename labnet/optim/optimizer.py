"""Optimizers: callables that take the gradients of a backward and change the parameters.

``opt(loss.backward())`` applies exactly these gradients and clears the ``.grad`` of what it changed. New
values go to memory that nobody looks at, so graphs and arrays handed out keep what they saw. Formulas and
state words are torch's.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from sys import getrefcount
from typing import Any, ClassVar

import numpy as np

from labnet import memory
from labnet.autograd import Gradients
from labnet.errors import GradientError, ShapeError
from labnet.kernels.device_dispatch import copied, finished, is_on_gpu, moved
from labnet.ops import dispatch
from labnet.ops.halves import wider
from labnet.optim.inputs import warn_of_leaves
from labnet.tensor import Tensor, as_array, wrap

Values = np.ndarray[Any, Any]
#: What an optimizer remembers about one parameter: arrays of its shape, and the number of steps.
State = dict[str, Any]
Named = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]
#: Return the number that was assigned to a name, or complain.
Checks = Mapping[str, Callable[[str, Any], Any]]
#: Called after a step with the ids of the parameters that changed. Held weakly: who wants to be called keeps it.
Watcher = Callable[[frozenset[int]], None]

_ndarray, _empty = np.ndarray, np.empty


def _least_references() -> int:
    array = np.empty(0)
    return getrefcount(array)


#: What counting gives for an array that only one local variable refers to; it depends on Python's version.
ALONE = _least_references()

#: Who wants to be called after a step.
watchers: "weakref.WeakSet[Any]" = weakref.WeakSet()


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
    watchers.add(watcher)


class Known:
    """What an optimizer knows of one parameter.

    Attributes
    ----------
    parameter : weakref
    state : dict
        See `State`.
    made : int
        Identity of the array that this optimizer gave the parameter last.
    spare : array or None
        The value before the last step, if this optimizer made it. Only the optimizer can hand it out, so
        once it is the only one to refer to it, it stays so and may write into it.
    """

    __slots__ = ("made", "parameter", "spare", "state")

    def __init__(self, parameter: "weakref.ref[Tensor]"):
        self.parameter = parameter
        self.state: State = {}
        self.spare: Values | None = None
        self.made = 0


def not_negative(name: str, value: Any) -> float:
    """Return a number, as it was or as the one element of an array.

    Raises
    ------
    TypeError
        If it is none.
    ValueError
        If it is negative.
    """
    number = value.item() if getattr(value, "size", None) == 1 else value
    if not isinstance(number, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {value!r:.40}")
    if not number >= 0:
        raise ValueError(f"{name} must not be negative, got {number}")
    return number


def decays(name: str, value: Any) -> tuple[float, ...]:
    """Return two shares of what is kept from one step to the next.

    Raises
    ------
    TypeError
        If there are not two, or they are no numbers.
    ValueError
        If one is negative, or not below 1.
    """
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name} must be two numbers, got {type(value).__name__} {value!r:.40}")
    found = tuple(not_negative(f"{name}[{place}]", share) for place, share in enumerate(value))
    if not max(found) < 1:
        raise ValueError(f"{name} must be below 1, got {found}")
    return found


class Optimizer:
    """Base of the optimizers: which parameters change, and with which state.

    Subclasses define `_formula`, or `updated` for what is no such arithmetic, and list in `slots` the state words.

    Parameters
    ----------
    lr : float
        Step size; may be assigned at any time, and is checked then as here.
    parameters : iterable of tensors, optional
        Train these only; others in the gradients are left alone.

    Raises
    ------
    TypeError
        If `lr` is no number.
    ValueError
        If `lr` is negative.
    """

    #: State words of each parameter; ``step`` counts, all others have the parameter's shape.
    slots: ClassVar[tuple[str, ...]] = ()
    #: Whether `_formula` says all that a step does, so that it can be compiled.
    _has_formula: ClassVar[bool] = False
    #: What checks the numbers that a step is computed with, whenever one is assigned.
    _checks: ClassVar[Checks] = {"lr": not_negative}
    _only: dict[int, Tensor] | None
    _state: dict[int, Known]

    def __init__(self, lr: float, *, parameters: Iterable[Tensor] | None = None):
        self.lr = lr
        self._only = _by_identity(parameters)
        self._state = {}
        self._looked_at, self._warned = 0, False

    def __setattr__(self, name: str, value: Any) -> None:
        """Have the numbers of NumPy be Python's: those do not change the precision of the arrays they meet."""
        check = self._checks.get(name)
        object.__setattr__(self, name, _as_python(value if check is None else check(name, value)))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: parameters themselves where the optimizer looks them up by identity."""
        only = None if self._only is None else list(self._only.values())
        live = [(known.parameter(), known.state) for known in self._state.values()]
        state = [
            (parameter, {slot: _portable(value) for slot, value in values.items()})
            for parameter, values in live
            if parameter is not None
        ]
        return {**self.__dict__, "_only": only, "_state": state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _state={})
        self._only = _by_identity(state["_only"])
        for parameter, values in state["_state"]:
            self._known(parameter).state = {slot: _own(value) for slot, value in values.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Optimizer":
        """Return an optimizer for the copies of the parameters that `memo` has in the end, else for the same ones.

        The module may be copied after the optimizer: so parameters are looked up when they are first needed.
        """
        state = self.__getstate__()
        copied = memo[id(self)] = type(self).__new__(type(self))
        attributes = {name: deepcopy(value, memo) for name, value in state.items() if name not in _LOOKED_UP}
        copied.__dict__.update(attributes, _unbound=(memo, state["_only"], state["_state"]))
        return copied

    def __getattr__(self, name: str) -> Any:
        """Find the parameters of a copy: only a copy lacks these attributes."""
        if name not in _LOOKED_UP or "_unbound" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        memo, only, state = self.__dict__.pop("_unbound")
        self.__setstate__(
            {
                "_only": None if only is None else [memo.get(id(parameter), parameter) for parameter in only],
                "_state": [(memo.get(id(parameter), parameter), values) for parameter, values in state],
            }
        )
        return self.__dict__[name]

    def __init_subclass__(cls) -> None:
        """Have no kernel, and no formula, do the work of a class that defines `updated` anew."""
        if "updated" in vars(cls) and "_step_compiled" not in vars(cls):
            cls._step_compiled = Optimizer._step_compiled  # type: ignore[method-assign]
        if {"updated", "_formula"} & vars(cls).keys():
            cls._has_formula = "_formula" in vars(cls)

    def __call__(self, gradients: Gradients) -> None:
        """Change the parameters by one step: all of them, or on an error none, state included.

        Raises
        ------
        GradientError
            If the gradients were not awaited, or this is not what a backward returned.
        """
        check_gradients("an optimizer", gradients, "opt(await loss.backward())")
        found, only = gradients.found(), self._only
        tracer = dispatch.current_tracer() if dispatch.Plain is None else None
        if len(found) != self._looked_at:  # at the first step, and whenever leaves come or go
            self._looked_at = len(found)
            leaves = [leaf if tracer is None else tracer.original(leaf) for leaf, _ in found]
            self._warned = self._warned or warn_of_leaves(self, leaves, only)
        if only is not None:
            found = [pair for pair in found if id(pair[0] if tracer is None else tracer.original(pair[0])) in only]
        if tracer is not None:
            tracer.update(self, found)
            return
        if any(is_on_gpu(parameter._array) for parameter, _ in found):
            if not self._step_elsewhere(found):
                self._step(found)
        elif not self._step_compiled(found):
            self._step(found)
        if watchers:
            announce([parameter for parameter, _ in found])

    def _numbers(self, step: int) -> tuple[float, ...]:
        """Return what `_formula` needs to know at one step, counted from 1."""
        return (self.lr,)

    def _formula(self, value: Any, gradient: Any, state: dict[str, Any], numbers: Sequence[Any]) -> Any:
        """Return the value of a parameter after one step, in arithmetic of arrays that tensors have too.

        So it is carried out in NumPy, and compiled. What is put into `state` under the names of arrays in `slots` is
        there at the next step, zeros at first.
        """
        raise NotImplementedError

    def updated(self, value: Values, gradient: Values, state: State) -> Values:
        """Return the value of a parameter after one step; what is put into `state` is there at the next one.

        For a parameter of float16 all of it is float32, as squares of its gradients are too small for float16.
        """
        value, gradient = wider((value, gradient))
        step, arrays = state.get("step", 0) + 1, [slot for slot in self.slots if slot != "step"]
        before = {slot: wider([state[slot]])[0] if slot in state else np.zeros_like(value) for slot in arrays}
        known = dict(before)
        new = self._formula(value, gradient, known, self._numbers(step))
        for slot in arrays:
            if known[slot] is not before[slot]:  # NumPy makes numbers of arrays without dimensions
                state[slot] = finished(known[slot], value.dtype)
        if "step" in self.slots:
            state["step"] = step
        result: Values = finished(new, value.dtype)
        return result

    def _step(self, found: list[tuple[Tensor, Any]]) -> None:
        """Take a step, parameter by parameter."""
        updates = []
        for parameter, gradient in found:
            state, array = dict(self._known(parameter).state), parameter._array
            value = finished(self.updated(array, finished(as_array(gradient)), state), array.dtype)
            updates.append((parameter, value, state))
        for parameter, value, state in updates:
            memory.overwrite(parameter, value)
            parameter.grad = None
            self._known(parameter).state = state

    def _step_elsewhere(self, found: list[tuple[Tensor, Any]]) -> bool:
        """Take a step with all parameters at once by a kernel made of the formula; tell whether there is one."""
        if not self._has_formula:
            return False
        from labnet.kernels.cuda.kernels import optimizers

        states = [self._known(parameter).state for parameter, _ in found]
        steps = {state.get("step", 0) for state in states}
        values: list[Any] = [parameter._array for parameter, _ in found]
        gradients = [finished(as_array(gradient)) for _, gradient in found]
        if len(steps) != 1 or not optimizers.are_supported(values, gradients):
            return False
        step = steps.pop() + 1
        slots = [slot for slot in self.slots if slot != "step"]
        before = [[state.get(slot) for slot in slots] for state in states]
        news, after = optimizers.update(self._formula, self._numbers(step), values, gradients, slots, before)
        for (parameter, _), new, state, own in zip(found, news, states, after, strict=True):
            memory.overwrite(parameter, new)
            parameter.grad = None
            state.update({slot: array for slot, array in zip(slots, own, strict=True) if array is not None})
            if "step" in self.slots:
                state["step"] = step
        return True

    def _step_compiled(self, found: list[tuple[Tensor, Any]]) -> bool:
        """Take a step with all parameters at once by a compiled kernel, and tell whether there was a fitting one."""
        return False

    def _run(
        self,
        compiled: Callable[..., int],
        found: list[tuple[Tensor, Any]],
        slots: tuple[str, ...],
        numbers: tuple[float, ...],
    ) -> bool:
        """Hand values, gradients, memory for new values, and states to a kernel; install the new values.

        The memory of the last but one value serves again where nobody has a reference to it any more, and
        nobody can come by one: see `Known`.
        """
        states, known, values, gradients, news = self._state, [], [], [], []
        for parameter, gradient in found:
            one = states.get(id(parameter)) or self._known(parameter)
            value = parameter._array
            spare, one.spare = one.spare, None
            if spare is None or getrefcount(spare) > ALONE:
                spare = _empty(value.shape, value.dtype)
            known.append(one)
            values.append(value)
            gradients.append(gradient if type(gradient) is _ndarray else np.asarray(gradient))
            news.append(spare)
            for slot in slots:
                if slot not in one.state:
                    one.state[slot] = np.zeros(value.shape, value.dtype)
        spare = None
        together = (*values, *gradients, *news, *[one.state[slot] for slot in slots for one in known])
        if not compiled(id(together), *numbers):
            together = tuple(map(np.ascontiguousarray, together))
            if not compiled(id(together), *numbers):
                return False
        for (parameter, _), one, old, new in zip(found, known, values, together[2 * len(news) :], strict=False):
            if parameter._family is None:
                parameter._array = new
                if id(old) == one.made and old.base is None:
                    one.spare = old
                one.made = id(new)
            else:
                memory.overwrite(parameter, new)
                one.made = id(parameter._array) if parameter._array is new else 0
            parameter._node.grad = None  # type: ignore[union-attr]
        return True

    def _known(self, parameter: Tensor) -> "Known":
        key, states = id(parameter), self._state
        known = states.get(key)
        if known is None:
            reference = weakref.ref(parameter, lambda _: states.pop(key, None))
            known = states[key] = Known(reference)
        return known

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
        for key, known in self._state.items():
            if key not in names and known.state:
                shape = getattr(known.parameter(), "shape", ())
                raise KeyError(f"state_dict: a parameter of shape {shape} has state, but no name among {len(names)}")
            found.update({f"{names[key]}.{slot}": wrap(copied(value)) for slot, value in known.state.items()})
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
            loaded.setdefault(name, {})[slot] = (
                int(value) if slot == "step" else moved(copied(as_array(value)), named[name].device)
            )
        self.lr = float(state["lr"])
        self._state.clear()
        for name, slots in loaded.items():
            self._known(named[name]).state = slots

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lr={self.lr})"


#: Attributes in which parameters are looked up by identity.
_LOOKED_UP = ("_only", "_state")


def _by_identity(parameters: Iterable[Tensor] | None) -> dict[int, Tensor] | None:
    return None if parameters is None else {id(parameter): parameter for parameter in parameters}


def _portable(value: Any) -> Any:
    """Return a copy of a state as what can be copied and pickled on every device."""
    return wrap(copied(value)) if hasattr(value, "shape") else value


def _own(value: Any) -> Any:
    return value._array if isinstance(value, Tensor) else value


def _as_python(value: Any) -> Any:
    """Return a number of NumPy, also in a tuple, as the one of Python; anything else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if type(value) is tuple:
        return tuple(map(_as_python, value))
    return value


def announce(parameters: Iterable[Tensor]) -> None:
    """Tell everybody who watches that these parameters have changed."""
    if watchers:
        changed = frozenset(id(parameter) for parameter in parameters)
        for watcher in tuple(watchers):
            watcher(changed)


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
