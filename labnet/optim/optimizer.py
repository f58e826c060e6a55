"""Optimizers: callables that take the gradients of a backward and change the parameters.

``opt(loss.backward())`` applies exactly these gradients and clears the ``.grad`` of changed parameters. New values are
written to unshared memory, so graphs and exported arrays keep the old ones. Formulas and state names are torch's.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from copy import deepcopy
from sys import getrefcount
from typing import Any, ClassVar

import numpy as np

from labnet import kernels, memory
from labnet.autograd import Gradients
from labnet.errors import GradientError, ShapeError
from labnet.kernels.device_dispatch import copied, finished, is_on_gpu, moved
from labnet.ops.core import dispatch
from labnet.ops.core.half_precision import wider
from labnet.optim import accumulated
from labnet.optim.inputs import warn_of_leaves
from labnet.tensor import Tensor, as_array, wrap

Values = np.ndarray[Any, Any]
#: State of one parameter: arrays of its shape and the number of steps.
State = dict[str, Any]
Named = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]
#: Tensors, (name, tensor) pairs, or groups: ``{"params": tensors, "lr": 0.1}``.
Parameters = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]
#: Checks and returns a number that is assigned to a name.
Checks = Mapping[str, Callable[[str, Any], Any]]
#: Called after a step with the ids of the changed parameters; held weakly, so its owner must keep it.
Watcher = Callable[[frozenset[int]], None]

_ndarray, _empty = np.ndarray, np.empty


#: The registered watchers.
watchers: "weakref.WeakSet[Any]" = weakref.WeakSet()


def watch(watcher: Watcher) -> None:
    """Register an object to call with the ids of changed parameters after each optimizer step.

    It is held weakly and is dropped with its owner; a bound method would be dropped at once. Steps have no overhead
    without watchers.

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
    """The record of an optimizer about one parameter.

    Attributes
    ----------
    parameter : weakref
    state : dict
        See `State`.
    made : int
        Identity of the last array that this optimizer assigned to the parameter.
    spare : array or None
        The value before the last step, if this optimizer made it. No other code can obtain it, so when the optimizer
        holds the only reference, it may write into the array.
    """

    __slots__ = ("made", "parameter", "spare", "state")

    def __init__(self, parameter: "weakref.ref[Tensor]"):
        self.parameter = parameter
        self.state: State = {}
        self.spare: Values | None = None
        self.made = 0


def not_negative(name: str, value: Any) -> float:
    """Check and return a number, or the single element of an array.

    Raises
    ------
    TypeError
        If it is no number.
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
    """Check and return two decay rates.

    Raises
    ------
    TypeError
        If there are not two numbers.
    ValueError
        If one is negative or not below 1.
    """
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name} must be two numbers, got {type(value).__name__} {value!r:.40}")
    found = tuple(not_negative(f"{name}[{place}]", share) for place, share in enumerate(value))
    if not max(found) < 1:
        raise ValueError(f"{name} must be below 1, got {found}")
    return found


class _Constructor(type):
    """Accepts the parameters or the learning rate as the first argument, and finishes each new optimizer."""

    def __call__(cls, *given: Any, **named: Any) -> Any:
        code = getattr(cls.__init__, "__code__", None)  # type: ignore[misc]
        first = None if code is None else code.co_varnames[1:2]
        if given and first == ("parameters",) and not _are_parameters(given[0]):
            given = (None, *given)
        made = super().__call__(*given, **named)
        made.finish()
        return made


class Group(MutableMapping[str, Any]):
    """The parameters and hyperparameters of one group, as a mapping in torch's form.

    Examples
    --------
    >>> import labnet as ln
    >>> optimizer = ln.optim.SGD([ln.ones(1, requires_grad=True)], lr=0.1)
    >>> optimizer.param_groups[0]["lr"] = 0.5
    >>> optimizer.lr
    0.5
    """

    def __init__(self, optimizer: "Optimizer"):
        self._optimizer = optimizer

    def __getitem__(self, name: str) -> Any:
        return self._optimizer.parameters() if name == "params" else self._optimizer.hyperparameters()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self._optimizer, name, value)

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"param_groups: a hyperparameter cannot be deleted: {name!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(["params", *self._optimizer.hyperparameters()])

    def __len__(self) -> int:
        return 1 + len(self._optimizer.hyperparameters())

    def __repr__(self) -> str:
        return repr({**self, "params": len(self["params"])})


class Optimizer(metaclass=_Constructor):
    """The base class of optimizers, which manages parameters and their state.

    Subclasses define `formula`, or `updated` for other computations, and list the state names in `slots`.

    Parameters
    ----------
    lr : float
        Step size; may be assigned at any time, with the same checks.
    parameters : iterable of tensors, optional
        Train these only; other parameters in the gradients are not changed. `step` needs them. Groups with
        hyperparameters of their own are dicts, ``{"params": tensors, "lr": 0.1}``.

    Raises
    ------
    TypeError
        If `lr` is no number.
    ValueError
        If `lr` is negative.
    """

    #: State names of each parameter; ``step`` is a count, all others have the parameter's shape.
    slots: ClassVar[tuple[str, ...]] = ()
    #: Whether `formula` defines the whole step, so that it can be compiled.
    has_formula: ClassVar[bool] = False
    #: Checks of hyperparameters, applied at each assignment.
    _checks: ClassVar[Checks] = {"lr": not_negative}
    _only: dict[int, Tensor] | None
    _state: dict[int, Known]
    _groups: "tuple[Optimizer, ...]"
    _finished = False

    def __init__(self, lr: float, *, parameters: Parameters | float | None = None):
        self.lr = lr
        self._dicts, self._only = _parsed(parameters)
        self._groups = ()
        self._state = {}
        self._looked_at, self._warned = 0, False

    def finish(self) -> None:
        """Make one optimizer per group of parameters; from now on unknown attributes are refused."""
        self._finished = True
        for settings in vars(self).pop("_dicts", ()):
            self._groups = (*self._groups, self._group(_by_identity(settings["params"]), settings))

    def _group(self, only: dict[int, Tensor] | None, settings: Mapping[str, Any]) -> "Optimizer":
        """Return an optimizer of one group of parameters, with this one's hyperparameters where it has none."""
        group = object.__new__(type(self))
        vars(group).update(vars(self), _only=only, _groups=(), _state={}, _warned=True)
        for name, value in settings.items():
            if name != "params":
                setattr(group, name, value)
        return group

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters, ``{"params": tensors, "lr": 0.1}``; the present ones become the first group.

        Raises
        ------
        GradientError
            If the optimizer was made without parameters.
        ValueError
            If it has one of the parameters already.

        Examples
        --------
        >>> import labnet as ln
        >>> optimizer = ln.optim.SGD([ln.ones(1, requires_grad=True)], lr=0.1)
        >>> optimizer.add_param_group({"params": ln.ones(2, requires_grad=True), "lr": 0.5})
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.1, 0.5]
        """
        present = {id(one): one for one in self._known_parameters("add_param_group")}
        (settings,), added = _parsed([dict(group)])
        if added is None or not present.keys().isdisjoint(added):
            raise ValueError("add_param_group: this optimizer has one of the parameters already")
        new = self._group(added, settings)
        if not self._groups:  # its state goes with the parameters
            first = self._group(self._only, {})
            first._state, self._state = self._state, {}
            self._groups = (first,)
        self._groups = (*self._groups, new)
        self._only = present | added

    @property
    def groups(self) -> "tuple[Optimizer, ...]":
        """The optimizers of all parameter groups; this one alone if there are no groups."""
        return self._groups or (self,)

    @property
    def param_groups(self) -> list[Group]:
        """The groups as mappings with ``"params"`` and the hyperparameters, in torch's form."""
        return [Group(group) for group in self.groups]

    def parameters(self) -> list[Tensor]:
        """Return the parameters that this optimizer was given; empty if it was given none."""
        return list((self._only or {}).values())

    def hyperparameters(self) -> dict[str, Any]:
        """Return the numbers that define a step; those of a group have the prefix of its position, as in ``0.lr``.

        Examples
        --------
        >>> import labnet as ln
        >>> ln.optim.Adam().hyperparameters()["betas"]
        (0.9, 0.999)
        """
        own = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        found = {name: value for name, value in own.items() if isinstance(value, int | float | tuple)}
        for position, group in enumerate(self._groups):
            found.update({f"{position}.{name}": value for name, value in group.hyperparameters().items()})
        return found

    def set_hyperparameters(self, numbers: Mapping[str, Any]) -> None:
        """Assign numbers under the names of `hyperparameters`."""
        for name, value in numbers.items():
            position, dot, own = name.rpartition(".")
            owner = self._groups[int(position)] if dot else self
            setattr(owner, own, tuple(value) if isinstance(value, list) else value)

    @property
    def kind(self) -> str:
        """Name of the algorithm, which a store checks when it is opened again."""
        return type(self).__name__

    @property
    def is_restricted(self) -> bool:
        """Whether it trains the parameters that it was given only."""
        return self._only is not None

    def trains(self, parameter: Tensor) -> bool:
        """Return whether a step changes a parameter that has a gradient."""
        return self._only is None or id(parameter) in self._only

    def snapshot(self) -> "dict[int, Known]":
        """Return the records of all parameters, for `restore`."""
        return {key: known for group in self.groups for key, known in group._state.items()}

    def restore(self, snapshot: "Mapping[int, Known]") -> None:
        """Replace the records of all parameters by those of `snapshot`."""
        for group in self.groups:
            own = snapshot if group is self else {key: one for key, one in snapshot.items() if key in group._only}  # type: ignore[operator]
            group._state.clear()
            group._state.update(own)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, a hyperparameter in all groups; NumPy scalars become Python numbers.

        NumPy scalars would change the precision of arrays.
        """
        if self._finished and not name.startswith("_") and not hasattr(self, name):
            known = ", ".join(self.groups[0].hyperparameters())
            raise AttributeError(f"{type(self).__name__} has no hyperparameter {name!r}; it has {known}")
        check = self._checks.get(name)
        object.__setattr__(self, name, _as_python(value if check is None else check(name, value)))
        if not name.startswith("_"):
            for group in self.__dict__.get("_groups", ()):
                setattr(group, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy, with parameters in place of their identities."""
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
            self.known(parameter).state = {slot: _own(value) for slot, value in values.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Optimizer":
        """Return an optimizer for the parameters' final copies in `memo`, or else for the same parameters.

        The module may be copied after the optimizer, so parameters are looked up at first use.
        """
        state = self.__getstate__()
        copied = memo[id(self)] = type(self).__new__(type(self))
        attributes = {name: deepcopy(value, memo) for name, value in state.items() if name not in _LOOKED_UP}
        copied.__dict__.update(attributes, _unbound=(memo, state["_only"], state["_state"]))
        return copied

    def __getattr__(self, name: str) -> Any:
        """Look up the parameters of a copy; only a copy lacks these attributes."""
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
        """Disable compiled updates for subclasses that override `updated`."""
        if "updated" in vars(cls) and "_step_compiled" not in vars(cls):
            cls._step_compiled = Optimizer._step_compiled  # type: ignore[method-assign]
        if {"updated", "formula"} & vars(cls).keys():
            cls.has_formula = "formula" in vars(cls)

    def __call__(self, gradients: Gradients) -> None:
        """Take one step with all parameters; on an error neither parameters nor state change.

        Raises
        ------
        GradientError
            If the gradients were not awaited, or this is not what a backward returned.
        """
        check_gradients("an optimizer", gradients, "opt(await loss.backward())")
        found, only = gradients.found(), self._only
        tracer = dispatch.current_tracer() if dispatch.Plain is None else None
        if len(found) != self._looked_at:  # at the first step, and whenever the set of leaves changes
            self._looked_at = len(found)
            leaves = [leaf if tracer is None else tracer.original(leaf) for leaf, _ in found]
            self._warned = self._warned or warn_of_leaves(self, leaves, only)
        if only is not None:
            if self._groups:
                for group in self._groups:
                    group(gradients)
                return
            found = [pair for pair in found if id(pair[0] if tracer is None else tracer.original(pair[0])) in only]
        if tracer is not None:
            tracer.update(self, found)
            return
        if any(is_on_gpu(parameter.array) for parameter, _ in found):
            if not self._step_elsewhere(found):
                self._step(found)
        elif not self._step_compiled(found):
            self._step(found)
        if watchers:
            announce([parameter for parameter, _ in found])

    def step(self) -> None:
        """Take one step with the gradients in ``.grad`` of the parameters, and clear them.

        Raises
        ------
        GradientError
            If the optimizer was made without parameters.

        Examples
        --------
        >>> import labnet as ln
        >>> weight = ln.asarray([1.0], requires_grad=True)
        >>> optimizer = ln.optim.SGD([weight], lr=0.5)
        >>> loss = (weight * weight).sum()
        >>> optimizer.zero_grad()
        >>> _ = loss.backward()
        >>> optimizer.step()
        >>> weight.tolist()
        [0.0]
        """
        found = accumulated.read(self._known_parameters("step"))
        if found:
            self(Gradients(found))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear ``.grad`` of the parameters; with `set_to_none` false too, since None and zeros add up alike.

        Raises
        ------
        GradientError
            If the optimizer was made without parameters.
        """
        accumulated.clear(self._known_parameters("zero_grad"))

    def _known_parameters(self, method: str) -> list[Tensor]:
        if self._only is None:
            name = type(self).__name__
            raise GradientError(
                f"{name}.{method}: this optimizer was made without parameters: write {name}(model.parameters(), "
                f"lr={self.lr}), or hand it the gradients, opt(loss.backward())"
            )
        return list(self._only.values())

    def step_numbers(self, step: int) -> tuple[float, ...]:
        """Return the numbers of one step for `formula`; steps count from 1."""
        return (self.lr,)

    def formula(self, value: Any, gradient: Any, state: dict[str, Any], numbers: Sequence[Any]) -> Any:
        """Return the value of a parameter after one step, in arithmetic that arrays and tensors share.

        So it runs in NumPy and can be compiled. Arrays that are stored in `state` under names in `slots` are available
        at the next step; they start as zeros.
        """
        raise NotImplementedError

    def updated(self, value: Values, gradient: Values, state: State) -> Values:
        """Return the value of a parameter after one step; `state` is kept until the next step.

        All arithmetic for a float16 parameter is in float32, because squares of gradients underflow float16.
        """
        value, gradient = wider((value, gradient))
        step, arrays = state.get("step", 0) + 1, [slot for slot in self.slots if slot != "step"]
        before = {slot: wider([state[slot]])[0] if slot in state else np.zeros_like(value) for slot in arrays}
        known = dict(before)
        new = self.formula(value, gradient, known, self.step_numbers(step))
        for slot in arrays:
            if known[slot] is not before[slot]:  # NumPy returns scalars for 0-d arrays
                state[slot] = finished(known[slot], value.dtype)
        if "step" in self.slots:
            state["step"] = step
        result: Values = finished(new, value.dtype)
        return result

    def _step(self, found: list[tuple[Tensor, Any]]) -> None:
        """Take a step one parameter at a time."""
        updates = []
        for parameter, gradient in found:
            state, array = dict(self.known(parameter).state), parameter.array
            value = finished(self.updated(array, finished(as_array(gradient)), state), array.dtype)
            updates.append((parameter, value, state))
        for parameter, value, state in updates:
            memory.overwrite(parameter, value)
            parameter.grad = None
            self.known(parameter).state = state

    def _step_elsewhere(self, found: list[tuple[Tensor, Any]]) -> bool:
        """Take a step with all parameters by a kernel generated from the formula; return whether there is one."""
        if not self.has_formula:
            return False
        from labnet.kernels.cuda.kernels import optimizers

        states = [self.known(parameter).state for parameter, _ in found]
        steps = {state.get("step", 0) for state in states}
        values: list[Any] = [parameter.array for parameter, _ in found]
        gradients = [finished(as_array(gradient)) for _, gradient in found]
        if len(steps) != 1 or not optimizers.are_supported(values, gradients):
            return False
        step = steps.pop() + 1
        slots = [slot for slot in self.slots if slot != "step"]
        before = [[state.get(slot) for slot in slots] for state in states]
        done = optimizers.update(self.formula, self.step_numbers(step), values, gradients, slots, before)
        if done is None:
            return False
        for (parameter, _), new, state, own in zip(found, done[0], states, done[1], strict=True):
            memory.overwrite(parameter, new)
            parameter.grad = None
            state.update({slot: array for slot, array in zip(slots, own, strict=True) if array is not None})
            if "step" in self.slots:
                state["step"] = step
        return True

    def _step_compiled(self, found: list[tuple[Tensor, Any]]) -> bool:
        """Take a step with all parameters by a compiled kernel; return whether a suitable one exists."""
        return False

    def _run(
        self,
        kernel: kernels.Kernel,
        found: list[tuple[Tensor, Any]],
        slots: tuple[str, ...],
        numbers: tuple[float, ...],
    ) -> bool:
        """Call a kernel with values, gradients, output memory and states; install the new values.

        The memory of the value before last is reused if the optimizer holds the only reference: see `Known`.
        """
        states, known, values, gradients, news = self._state, [], [], [], []
        for parameter, gradient in found:
            one = states.get(id(parameter)) or self.known(parameter)
            value = parameter.array
            spare, one.spare = one.spare, None
            if spare is None or getrefcount(spare) > memory.ALONE:
                spare = _empty(value.shape, value.dtype)
            known.append(one)
            values.append(value)
            gradients.append(gradient if type(gradient) is _ndarray else np.asarray(gradient))
            news.append(spare)
            for slot in slots:
                if slot not in one.state:
                    one.state[slot] = np.zeros(value.shape, value.dtype)
        spare, compiled = None, kernel.ready(news[0].dtype, sum([array.size for array in news]))
        together = (*values, *gradients, *news, *[one.state[slot] for slot in slots for one in known])
        if compiled is None:
            return False
        if not compiled(together, *numbers):
            for one in known:  # states are overwritten, so it must be these that are in order
                one.state.update({slot: np.asarray(one.state[slot], order="C") for slot in slots})
            in_order = [np.asarray(array, order="C") for array in together[: 3 * len(known)]]
            together = (*in_order, *[one.state[slot] for slot in slots for one in known])
            if not compiled(together, *numbers):
                return False
        for (parameter, _), one, old, new in zip(found, known, values, together[2 * len(news) :], strict=False):
            if parameter.family is None:
                parameter.array = new
                if id(old) == one.made and old.base is None:
                    one.spare = old
                one.made = id(new)
            else:
                memory.overwrite(parameter, new)
                one.made = id(parameter.array) if parameter.array is new else 0
            parameter.node.grad = None  # type: ignore[union-attr]
        return True

    def known(self, parameter: Tensor) -> "Known":
        """Return the record of a parameter, a new one if there is none."""
        key, states = id(parameter), self._state
        known = states.get(key)
        if known is None:
            reference = weakref.ref(parameter, lambda _: states.pop(key, None))
            known = states[key] = Known(reference)
        return known

    def state_dict(self, named_parameters: Named | None = None) -> dict[str, Tensor]:
        """Return the state of the optimizer under persistent names.

        Parameters
        ----------
        named_parameters : mapping, or iterable of (name, tensor), optional
            Such as ``module.named_parameters()``; by default the positions of the optimizer's own parameters.

        Returns
        -------
        dict
            ``"lr"``, with groups of parameters ``"lr.0"`` and so on, and the state of each parameter changed so far,
            such as ``"0.weight.exp_avg"``.

        Raises
        ------
        KeyError
            If a changed parameter has no name.

        Examples
        --------
        >>> import labnet as ln
        >>> layer, optimizer = ln.nn.Linear(2, 1), ln.optim.Adam()
        >>> optimizer(layer(ln.ones((1, 2))).sum().backward())
        >>> sorted(optimizer.state_dict(layer.named_parameters()))[:4]
        ['bias.exp_avg', 'bias.exp_avg_sq', 'bias.step', 'lr']
        """
        names = {id(parameter): name for name, parameter in self._named(named_parameters).items()}
        found = {"lr": wrap(np.asarray(self.lr, "float64"))}
        found |= {f"lr.{place}": wrap(np.asarray(group.lr, "float64")) for place, group in enumerate(self._groups)}
        for key, known in self.snapshot().items():
            if key not in names and known.state:
                shape = getattr(known.parameter(), "shape", ())
                raise KeyError(f"state_dict: a parameter of shape {shape} has state, but no name among {len(names)}")
            found.update({f"{names[key]}.{slot}": wrap(copied(value)) for slot, value in known.state.items()})
        return found

    def _named(self, named_parameters: Named | None) -> dict[str, Tensor]:
        if named_parameters is None:
            return {str(place): one for place, one in enumerate(self._known_parameters("state_dict"))}
        return dict(named_parameters)

    def load_state_dict(self, state: Mapping[str, Tensor], named_parameters: Named | None = None) -> None:
        """Load a state dict from this or another process.

        Parameters
        ----------
        state : mapping
            As returned by `state_dict` of an optimizer of the same class.
        named_parameters : mapping, or iterable of (name, tensor), optional
            The same names for the current parameters.

        Raises
        ------
        KeyError
            If a name is unknown, or ``"lr"`` is missing; nothing is changed then.
        ShapeError
            If a state has another shape than its parameter; nothing is changed then.
        """
        named = self._named(named_parameters)
        rates = {"lr", *(f"lr.{place}" for place in range(len(self._groups)))}
        if not rates <= state.keys():
            raise KeyError(f"load_state_dict: {min(rates - state.keys())!r} is missing among {sorted(state)}")
        loaded: dict[str, State] = {}
        for key, value in state.items():
            name, _, slot = key.rpartition(".")
            if key in rates:
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
        for place, group in enumerate(self.groups):
            group.lr = float(state[f"lr.{place}"]) if self._groups else self.lr
            group._state.clear()
            for name, slots in loaded.items():
                if group is self or group.trains(named[name]):
                    group.known(named[name]).state = slots

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lr={self.lr})"


#: Attributes in which parameters are looked up by identity.
_LOOKED_UP = ("_only", "_state")


def _by_identity(parameters: Iterable[Any] | None) -> dict[int, Tensor] | None:
    """Return tensors, or those of (name, tensor) pairs, by their identities."""
    if parameters is None:
        return None
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    tensors = [one[1] if isinstance(one, tuple) else one for one in given]
    for one in tensors:
        if not isinstance(one, Tensor):
            raise TypeError(
                f"an optimizer takes tensors, such as model.parameters(), or groups, {{'params': tensors}}; got "
                f"{type(one).__name__} {one!r:.40}"
            )
    return {id(one): one for one in tensors}


def _parsed(parameters: Parameters | float | None) -> tuple[list[dict[str, Any]], dict[int, Tensor] | None]:
    """Return the groups among given parameters, and all tensors by their identities."""
    if isinstance(parameters, int | float):
        raise TypeError(f"an optimizer takes parameters, got parameters={parameters}")
    given: Any = parameters if parameters is None or isinstance(parameters, Tensor) else list(parameters)
    if not isinstance(given, list) or not given or not all(isinstance(one, dict) for one in given):
        return [], _by_identity(given)
    groups = [{**one, "params": list((_by_identity(one["params"]) or {}).values())} for one in given]
    every = [one for group in groups for one in group["params"]]
    if len({id(one) for one in every}) < len(every):
        raise ValueError("an optimizer takes each parameter in one group only; one of them is in several")
    return groups, _by_identity(every)


def _are_parameters(given: object) -> bool:
    """Return whether a first argument stands for parameters, not for a learning rate."""
    return given is None or (isinstance(given, Iterable) and not isinstance(given, str) and not hasattr(given, "dtype"))


def _portable(value: Any) -> Any:
    """Return a copy of a state that can be pickled on every device."""
    return wrap(copied(value)) if hasattr(value, "shape") else value


def _own(value: Any) -> Any:
    return value.array if isinstance(value, Tensor) else value


def _as_python(value: Any) -> Any:
    """Convert a NumPy scalar, also in a tuple, to a Python number; return other values unchanged."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if type(value) is tuple:
        return tuple(map(_as_python, value))
    return value


def announce(parameters: Iterable[Tensor]) -> None:
    """Notify all watchers of changed parameters."""
    if watchers:
        changed = frozenset(id(parameter) for parameter in parameters)
        for watcher in tuple(watchers):
            watcher(changed)


def check_gradients(name: str, gradients: object, remotely: str) -> None:
    """Refuse values that are no result of a backward; `remotely` is the advice for remote graphs.

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
