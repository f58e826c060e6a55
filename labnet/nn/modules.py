"""Modules: functions that own parameters."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from labnet import memory
from labnet.errors import DTypeError, GradientError, ShapeError
from labnet.nn import init
from labnet.nn.assignment import belongs_to_state, is_input, looks_like_a_parameter
from labnet.nn.sizes import size
from labnet.nn.summary import Row, summary_html
from labnet.ops import linear
from labnet.optim import Optimizer, accumulated
from labnet.optim.inputs import belongs_to_module, note_inputs, warn
from labnet.settings import Setting
from labnet.tensor import DTYPES, DTypeLike, Tensor, as_dtype

if TYPE_CHECKING:
    from labnet.nn.checkpoint import Checkpoint

T = TypeVar("T")
Seconds = float  # `Module.float` hides the type
#: Number of attribute changes in all modules, by which compiled steps detect them.
changes = [0]
_override: ContextVar[bool | None] = ContextVar("labnet_training", default=None)


#: Mode of `calling_mode` in this context; None outside of it.
current_mode = _override.get


def calling_mode(training: bool) -> Setting:
    """Set training or evaluation mode for all module calls in this context only.

    Other threads and tasks, and `Module.training` afterwards, are not affected.

    Examples
    --------
    >>> import labnet as ln
    >>> layer = ln.nn.Dropout()
    >>> with calling_mode(False):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    return Setting(_override, training)


def _each_once(named: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    seen: set[int] = set()
    for name, found in named:
        if id(found) not in seen:
            seen.add(id(found))
            yield name, found


class _ParameterType(type):
    """Lets `isinstance` recognise parameters, which are tensors."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Tensor) and instance.is_leaf and instance.requires_grad


class Parameter(metaclass=_ParameterType):
    """Make a parameter: a leaf that requires gradients, with the values of a tensor.

    Parameters
    ----------
    data : tensor
    requires_grad : bool
        False for one that is not trained now.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.nn.Parameter(ln.zeros(2))
    >>> weight.requires_grad, isinstance(weight, ln.nn.Parameter)
    (True, True)
    """

    def __new__(cls, data: Any, requires_grad: bool = True) -> Tensor:  # type: ignore[misc]
        """Return a tensor."""
        return Tensor(data.detach() if isinstance(data, Tensor) else data, requires_grad=requires_grad)


class IncompatibleKeys(NamedTuple):
    """The names that a loaded state dict lacks, and those that the module does not have.

    Examples
    --------
    >>> IncompatibleKeys([], [])
    <All keys matched successfully>
    """

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


def _replaced(values: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return values with each tensor that has a history, or is a leaf that requires gradients, replaced."""
    if isinstance(values, tuple | list):
        return type(values)(_replaced(value, function) for value in values)
    return function(values) if isinstance(values, Tensor) and values.requires_grad else values


class _BackwardHooks:
    """Calls the hooks of one forward once the gradients of its outputs, and those of its inputs, are known."""

    def __init__(self, module: "Module", hooks: Mapping[str, Mapping[int, Any]]):
        self.module = module
        self.before = [hook for hook, _ in hooks["gradient before"].values()]
        self.after = [hook for hook, _ in hooks["gradient"].values()]
        self.of_inputs: list[Any] = []
        self.of_outputs: list[Any] = []
        self.pending = 0

    def watch(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return inputs whose gradients are those of this call alone."""
        if not self.after:
            return inputs
        self.of_inputs = [None] * len(inputs)
        watched = list(inputs)
        for place, value in enumerate(inputs):
            if isinstance(value, Tensor) and value.requires_grad:
                watched[place] = value * 1
                watched[place].register_hook(lambda gradient, place=place: self._arrived(place, gradient))
                self.pending += 1
        return tuple(watched)

    def leave(self, output: Any) -> Any:
        """Return outputs whose gradients are those of this call alone."""
        places = itertools.count()

        def watched(value: Tensor) -> Tensor:
            place, copy = next(places), value * 1
            self.of_outputs.append(None)
            copy.register_hook(lambda gradient: self._returned(place, gradient))
            return copy

        return _replaced(output, watched)

    def _returned(self, place: int, gradient: Any) -> Any:
        self.of_outputs[place] = gradient
        for hook in self.before:
            found = hook(self.module, tuple(self.of_outputs))
            if found is not None:
                self.of_outputs[place] = (found if isinstance(found, tuple) else (found,))[place]
        if self.after and not self.pending:  # no input has a gradient
            self._call()
        return self.of_outputs[place]

    def _arrived(self, place: int, gradient: Any) -> Any:
        self.of_inputs[place] = gradient
        self.pending -= 1
        if self.pending:
            return None
        return self._call()[place]

    def _call(self) -> tuple[Any, ...]:
        known = tuple(self.of_inputs)
        for hook in self.after:
            found = hook(self.module, known, tuple(self.of_outputs))
            if found is None:
                continue
            if sum(one is not None for one in known) > 1:
                raise GradientError(
                    "register_full_backward_hook: a hook replaces the gradient of one input only; this module has "
                    f"{len(known)}: use register_hook of a tensor"
                )
            known = found if isinstance(found, tuple) else (found,)
        return known


class _Hooked:
    """The forward of a module with hooks, in place of its method; replaced by a new one when the hooks change."""

    def __init__(self, module: "Module", hooks: Mapping[str, Mapping[int, Any]]):
        self.module = module
        #: (hook, whether it takes named arguments) by the number of the hook, by kind.
        self.hooks = hooks

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        module = self.module
        for hook, with_named in self.hooks["before"].values():
            found = hook(module, inputs, named) if with_named else hook(module, inputs)
            if found is not None and with_named:
                inputs, named = found
            elif found is not None:
                inputs = found if isinstance(found, tuple) else (found,)
        backward = None
        if self.hooks["gradient"] or self.hooks["gradient before"]:
            backward = _BackwardHooks(module, self.hooks)
            inputs = backward.watch(inputs)
        output = type(module).forward(module, *inputs, **named)
        output = output if backward is None else backward.leave(output)
        for hook, with_named in self.hooks["after"].values():
            found = hook(module, inputs, named, output) if with_named else hook(module, inputs, output)
            output = output if found is None else found
        return output


class HookHandle:
    """Removes a hook.

    Examples
    --------
    >>> import labnet as ln
    >>> layer, shapes = ln.nn.Linear(2, 1), []
    >>> with layer.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape)):
    ...     _ = layer(ln.ones((3, 2)))
    >>> _ = layer(ln.ones((4, 2)))
    >>> shapes
    [(3, 1)]
    """

    def __init__(self, module: "Module", when: str, hook: Callable[..., Any], *, with_kwargs: bool):
        self._module, self._when, self._key = module, when, next(_hook_keys)
        self._set({**self._hooks()[when], self._key: (hook, with_kwargs)})

    def _hooks(self) -> dict[str, Any]:
        forward = vars(self._module).get("forward")
        return dict(forward.hooks) if isinstance(forward, _Hooked) else {kind: {} for kind in _HOOKS}

    def _set(self, hooks: dict[int, Any]) -> None:
        every = {**self._hooks(), self._when: hooks}
        if any(every.values()):
            self._module.forward = _Hooked(self._module, every)  # type: ignore[method-assign]
        elif "forward" in vars(self._module):
            del self._module.forward

    def remove(self) -> None:
        """Remove the hook; a second call does nothing."""
        self._set({key: hook for key, hook in self._hooks()[self._when].items() if key != self._key})

    def __enter__(self) -> "HookHandle":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


_hook_keys = itertools.count()
_HOOKS = ("before", "after", "gradient before", "gradient")


def _forget_history(tensor: Tensor) -> None:
    """Turn a computed buffer into a leaf, so that it can be written."""
    if not tensor.is_leaf:
        tensor.node = None


class Module:
    """The base class of everything with parameters.

    Assign tensors that require gradients, or other modules, as attributes; define `forward`. Parameters are leaves that
    require gradients. Buffers are saved with them: tensors of `register_buffer`, and tensors without gradients that are
    assigned from outside or by `__init__`. A tensor that `forward` assigns under another name, such as an activation or
    its input, is a plain attribute.

    Examples
    --------
    >>> import labnet as ln
    >>> class Scale(ln.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = ln.ones(1, requires_grad=True)
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> [name for name, _ in Scale().named_parameters()]
    ['factor']
    """

    def __init__(self) -> None:
        self.__dict__.update(_parameters={}, _buffers={}, _modules={}, _transient=set(), _training=True)

    def __setattr__(self, name: str, value: Any) -> None:
        self._check_made(name)
        changes[0] += 1
        listed = self._list_for(name, value)
        for group in (self._parameters, self._buffers, self._modules):
            if group is not listed:
                group.pop(name, None)
        if listed is not None:
            listed[name] = value
        object.__setattr__(self, name, value)

    def _check_made(self, name: str) -> None:
        if "_modules" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before setting {name!r}")

    def _list_for(self, name: str, value: Any) -> dict[str, Any] | None:
        """Return the registry of an attribute: parameters, buffers or modules; None if it is no state."""
        if isinstance(value, Module):
            return self._modules
        if not isinstance(value, Tensor):
            return self._buffers if value is None and name in self._buffers else None
        known = name in self._buffers
        if value.is_leaf and value.requires_grad:
            if known or not is_input(value, Module):
                belongs_to_module(value)
                return self._parameters
        elif known or (value.is_leaf and (name in self._parameters or belongs_to_state(self, Module))):
            return self._buffers
        elif not value.is_leaf and (name in self._parameters or looks_like_a_parameter(self, Module)):
            warn(
                f"{type(self).__name__}.{name} of shape {value.shape} was computed from a tensor that requires a "
                f"gradient, so it is no parameter and no optimizer changes it: compute its values first, then write "
                f"self.{name} = ln.asarray(values.detach(), requires_grad=True)"
            )
        return None

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a tensor that is saved and moved with the module but not trained.

        A later assignment to the name, also in `forward`, replaces it.

        Parameters
        ----------
        name : str
        tensor : tensor or None
            None for a missing buffer, which is not saved.
        persistent : bool
            Whether it is part of `state_dict`.

        Raises
        ------
        KeyError
            If the name is empty, has a dot in it, or is one of another attribute.
        TypeError
            If it is not a tensor.

        Examples
        --------
        >>> import labnet as ln
        >>> module = ln.nn.Module()
        >>> module.register_buffer("scale", ln.ones(2))
        >>> [name for name, _ in module.named_buffers()], list(module.state_dict())
        (['scale'], ['scale'])
        """
        self._check_name("register_buffer", name, "_buffers")
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer: expected {name!r} to be a tensor or None, got {type(tensor).__name__}")
        changes[0] += 1
        self._buffers[name] = tensor
        (self._transient.discard if persistent else self._transient.add)(name)
        object.__setattr__(self, name, tensor)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy, with computed tensors detached."""
        state: dict[str, Any] = {
            name: value.detach() if isinstance(value, Tensor) and not value.is_leaf else value
            for name, value in self.__dict__.items()
        }
        for group in ("_parameters", "_buffers", "_modules"):
            state[group] = {name: state[name] for name in state[group]}
        return {**state, "_transient": set(state["_transient"])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for parameter in self._parameters.values():
            belongs_to_module(parameter)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        changes[0] += 1
        for group in (self._parameters, self._buffers, self._modules):
            group.pop(name, None)
        self._transient.discard(name)

    _parameters: dict[str, Tensor]
    _buffers: dict[str, Tensor | None]
    _transient: set[str]
    _modules: dict[str, "Module"]
    _training: bool

    @property
    def training(self) -> bool:
        """Whether the module is in training mode; inside `calling_mode`, the mode of that."""
        override = _override.get()
        return self._training if override is None else override

    @training.setter
    def training(self, mode: bool) -> None:
        object.__setattr__(self, "_training", mode)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Compute the output; subclasses define this."""
        raise NotImplementedError(f"{type(self).__name__} has no forward: define forward(self, x)")

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Call `forward`."""
        own = self.__dict__
        own["_called"] = True
        if "_noted" not in own:
            for given in (*inputs, *named.values()) if named else inputs:
                if isinstance(given, Tensor) and given.node is not None:
                    own["_noted"] = note_inputs(given)
        return self.forward(*inputs, **named)

    def register_forward_hook(self, hook: Callable[..., Any], *, with_kwargs: bool = False) -> HookHandle:
        """Call ``hook(module, inputs, output)`` after each forward; what it returns replaces the output.

        Parameters
        ----------
        hook : callable
            Returns None to leave the output as it is.
        with_kwargs : bool
            Call ``hook(module, inputs, named, output)``.

        Returns
        -------
        HookHandle
            Its `remove` ends the calls.
        """
        return HookHandle(self, "after", hook, with_kwargs=with_kwargs)

    def register_forward_pre_hook(self, hook: Callable[..., Any], *, with_kwargs: bool = False) -> HookHandle:
        """Call ``hook(module, inputs)`` before each forward; what it returns replaces the inputs.

        Parameters
        ----------
        hook : callable
            Returns None to leave the inputs as they are, or a tuple.
        with_kwargs : bool
            Call ``hook(module, inputs, named)``, which returns None or ``(inputs, named)``.

        Returns
        -------
        HookHandle
            Its `remove` ends the calls.
        """
        return HookHandle(self, "before", hook, with_kwargs=with_kwargs)

    def register_full_backward_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Call ``hook(module, of_inputs, of_outputs)`` with the gradients of each forward, once all are known.

        Parameters
        ----------
        hook : callable
            Gets two tuples, with None for inputs that need no gradient. A result other than None replaces the gradient
            of the input; only a module with one input allows that.

        Returns
        -------
        HookHandle
            Its `remove` ends the calls.

        Examples
        --------
        >>> import labnet as ln
        >>> layer, seen = ln.nn.Linear(2, 1), []
        >>> _ = layer.register_full_backward_hook(lambda module, of_inputs, of_outputs: seen.append(of_outputs[0]))
        >>> _ = layer(ln.ones((1, 2))).sum().backward()
        >>> seen[0].tolist()
        [[1.0]]
        """
        return HookHandle(self, "gradient", hook, with_kwargs=False)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Call ``hook(module, of_outputs)`` when a gradient reaches an output; a tuple that it returns replaces them.

        Returns
        -------
        HookHandle
            Its `remove` ends the calls.

        Examples
        --------
        >>> import labnet as ln
        >>> layer, seen = ln.nn.Linear(2, 1), []
        >>> _ = layer.register_full_backward_pre_hook(lambda module, of_outputs: seen.append(of_outputs[0]))
        >>> _ = layer(ln.ones((1, 2))).sum().backward()
        >>> seen[0].tolist()
        [[1.0]]
        """
        return HookHandle(self, "gradient before", hook, with_kwargs=False)

    register_backward_hook = register_full_backward_hook

    def children(self) -> Iterator["Module"]:
        """Iterate over the modules directly inside this one."""
        return iter(self._modules.values())

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """Iterate over (name, module) of the modules directly inside this one."""
        return iter(self._modules.items())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """Iterate over (name, module) of this module and all inside it, each once; this one's own name is `prefix`.

        Examples
        --------
        >>> import labnet as ln
        >>> [name for name, _ in ln.nn.Sequential(ln.nn.Linear(1, 1)).named_modules()]
        ['', '0']
        """
        return _each_once(self._named_modules(prefix))

    def _named_modules(self, prefix: str) -> Iterator[tuple[str, "Module"]]:
        yield prefix, self
        for name, module in self._modules.items():
            yield from module._named_modules(f"{prefix}.{name}" if prefix else name)

    def get_submodule(self, target: str) -> "Module":
        """Return the module with a name such as ``encoder.layers.0``; this one for an empty name.

        Raises
        ------
        AttributeError
            If there is none.
        """
        found = self
        for name in filter(None, target.split(".")):
            if name not in found._modules:
                raise AttributeError(f"{type(found).__name__} has no module {name!r}; it has {list(found._modules)}")
            found = found._modules[name]
        return found

    def get_parameter(self, target: str) -> Tensor:
        """Return the parameter with a name such as ``layers.0.weight``.

        Raises
        ------
        AttributeError
            If there is none.
        """
        owner, _, name = target.rpartition(".")
        found = self.get_submodule(owner)._parameters
        if name not in found:
            raise AttributeError(f"no parameter {target!r}; there are {[key for key, _ in self.named_parameters()]}")
        return found[name]

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer with a name such as ``layers.0.running_mean``.

        Raises
        ------
        AttributeError
            If there is none.
        """
        found = dict(self._named("_buffers", ""))
        if target not in found:
            raise AttributeError(f"no buffer {target!r}; there are {list(found)}")
        return found[target]

    def add_module(self, name: str, module: "Module | None") -> None:
        """Add a module under a name, as an attribute of that name does.

        Raises
        ------
        KeyError
            If the name is empty, has a dot in it, or is one of another attribute.
        TypeError
            If it is no module.
        """
        self._check_name("add_module", name, "_modules")
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"add_module: expected {name!r} to be a module, got {type(module).__name__}")
        setattr(self, name, module)

    register_module = add_module

    def register_parameter(self, name: str, parameter: Tensor | None) -> None:
        """Add a parameter under a name; None for one that is missing.

        Raises
        ------
        KeyError
            If the name is empty, has a dot in it, or is one of another attribute.
        TypeError
            If it is no tensor.
        """
        self._check_name("register_parameter", name, "_parameters")
        if parameter is not None and not isinstance(parameter, Tensor):
            raise TypeError(f"register_parameter: expected {name!r} to be a tensor, got {type(parameter).__name__}")
        setattr(self, name, parameter)

    def _check_name(self, method: str, name: str, group: str) -> None:
        self._check_made(name)
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(f"{method}: expected a name without a dot, got {name!r}")
        if name not in getattr(self, group) and hasattr(self, name):
            raise KeyError(f"{method}: {type(self).__name__} has an attribute {name!r} already")

    def apply(self, function: Callable[["Module"], Any]) -> Self:
        """Call a function with every module inside this one, inner ones first, and then with this one; return it.

        Examples
        --------
        >>> import labnet as ln
        >>> kinds = []
        >>> _ = ln.nn.Sequential(ln.nn.Linear(1, 1)).apply(lambda module: kinds.append(type(module).__name__))
        >>> kinds
        ['Linear', 'Sequential']
        """
        for module in self.children():
            module.apply(function)
        function(self)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether the parameters require gradients, and return this module: False freezes it.

        Examples
        --------
        >>> import labnet as ln
        >>> ln.nn.Linear(2, 1).requires_grad_(False)(ln.ones((1, 2))).requires_grad
        False
        """
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        changes[0] += 1
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear ``.grad`` of all parameters."""
        accumulated.clear(self.parameters())

    def modules(self) -> Iterator["Module"]:
        """Iterate over this module and all modules inside it, each once."""
        seen: set[int] = set()
        pending: list[Module] = [self]
        while pending:
            module = pending.pop(0)
            if id(module) not in seen:
                seen.add(id(module))
                yield module
                pending[:0] = module.children()

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, parameter), each parameter once, under its first name.

        Parameters
        ----------
        prefix : str
            Put before each name, with a dot.
        recurse : bool
            Whether the modules inside this one count.
        """
        return _each_once(self._named("_parameters", prefix and f"{prefix}.", recurse=recurse))

    def parameters(self, recurse: bool = True) -> Iterator[Tensor]:
        """Iterate over the parameters, each once; without `recurse` over those of this module alone."""
        return (tensor for _, tensor in self.named_parameters(recurse=recurse))

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, buffer), each buffer once, under its first name, including unsaved ones."""
        return _each_once(self._named("_buffers", ""))

    def buffers(self) -> Iterator[Tensor]:
        """Iterate over the buffers, each once."""
        return (tensor for _, tensor in self.named_buffers())

    def _named(
        self, group: str, prefix: str, *, saved: bool = False, recurse: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in getattr(self, group).items():
            if tensor is not None and not (saved and name in self._transient):
                yield prefix + name, tensor
        for name, module in self._modules.items() if recurse else ():
            yield from module._named(group, f"{prefix}{name}.", saved=saved)

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return all parameters and saved buffers, under all their names.

        Examples
        --------
        >>> import labnet as ln
        >>> list(ln.nn.Linear(2, 1).saved_tensors())
        ['weight', 'bias']
        """
        return {**dict(self._named("_parameters", "")), **dict(self._named("_buffers", "", saved=True))}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the values of all parameters and saved buffers by name, detached.

        Further training does not change these values.
        """
        return {name: tensor.detach() for name, tensor in self.saved_tensors().items()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Write the values of a state dict into the parameters and buffers.

        Parameters
        ----------
        state : mapping
            Tensors or arrays by name.
        strict : bool
            Whether all names have to be there, and no others; else the common ones are written.

        Returns
        -------
        IncompatibleKeys
            The missing and the unknown names.

        Raises
        ------
        KeyError
            If names are missing or unknown; nothing is written then.
        ShapeError
            If a shape differs; nothing is written then.
        """
        own = self.saved_tensors()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if strict and (missing or unknown):
            raise KeyError(
                f"load_state_dict: missing {missing}, unknown {unknown}; expected {sorted(own)}; "
                "strict=False loads the names in common"
            )
        values = {name: Tensor(state[name]) for name in own if name in state}
        for name, value in values.items():
            if value.shape != own[name].shape:
                raise ShapeError(f"load_state_dict: {name} has shape {value.shape}, expected {own[name].shape}")
        for name, value in values.items():
            _forget_history(own[name])
            own[name].assign(value)
        return IncompatibleKeys(missing, unknown)

    def checkpoint(
        self, path: str | os.PathLike[str], every_seconds: Seconds = 30, *, optimizer: Optimizer | None = None
    ) -> "Checkpoint":
        """Load a file if it exists, and from now on keep it up to date with this module.

        The file is written by the first optimizer step at least `every_seconds` after the last save, and at an orderly
        exit of the process. It contains the state dict under its own names.

        Parameters
        ----------
        path : str or path
            A safetensors file, present or not.
        every_seconds : float
            Time between saves; 0 saves after every step.
        optimizer : Optimizer, optional
            Loaded and saved too, so that training continues exactly.

        Returns
        -------
        Checkpoint
            Its `resumed` says whether the file existed, and its `save()` writes at once. It lives as long as the
            module, or until another call of `checkpoint`.

        Raises
        ------
        WireError
            If the file is damaged.
        KeyError, ShapeError
            If the file does not fit the module or optimizer; neither is changed then.

        Examples
        --------
        >>> import tempfile, labnet as ln
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model = ln.nn.Linear(2, 1)
        ...     first = model.checkpoint(folder + "/model.safetensors", every_seconds=0)
        ...     ln.optim.SGD()(model(ln.ones((1, 2))).sum().backward())
        ...     again = ln.nn.Linear(2, 1).checkpoint(folder + "/model.safetensors")
        ...     first.resumed, again.resumed
        (False, True)
        """
        from labnet.nn.checkpoint import Checkpoint  # imports what files need, which would delay a first step

        checkpoint = Checkpoint(self, path, every_seconds=every_seconds, optimizer=optimizer)
        self.__dict__["_checkpoint"] = checkpoint
        return checkpoint

    def train(self, mode: bool = True) -> "Module":
        """Switch this module and all inside it to training, or with False to evaluation."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> "Module":
        """Switch this module and all inside it to evaluation."""
        return self.train(False)

    def check_dtype(self, x: Tensor, weight: Tensor) -> None:
        """Refuse an input whose dtype differs from the weight's.

        Raises
        ------
        DTypeError
            If they differ; the caller must convert.
        """
        if x.dtype != weight.dtype:
            raise DTypeError(
                f"{type(self).__name__}({self._describe()}): expected an input of dtype {weight.dtype}, "
                f"got {x.dtype}; convert it with x.astype({weight.dtype.name!r})"
            )

    def float(self) -> Self:
        """Convert the floating parameters and buffers to float32."""
        return self.to("float32")

    def double(self) -> Self:
        """Convert the floating parameters and buffers to float64."""
        return self.to("float64")

    def half(self) -> Self:
        """Convert the floating parameters and buffers to float16."""
        return self.to("float16")

    def cpu(self) -> Self:
        """Move the parameters and buffers to the CPU."""
        return self.to("cpu")

    def cuda(self) -> Self:
        """Move the parameters and buffers to the GPU."""
        return self.to("cuda")

    def to(self, target: DTypeLike | None = None, *, device: str | None = None, dtype: DTypeLike | None = None) -> Self:
        """Move all parameters and buffers to a device, or convert the floating ones to a dtype; return the module.

        The tensors stay the same objects, so their optimizer can continue; their gradients are dropped.

        Parameters
        ----------
        target : str or dtype, optional
            ``"cpu"``, ``"cuda"``, or a floating dtype.
        device, dtype : optional
            The same by name, also both.

        Raises
        ------
        DeviceError
            If this machine has no such device; nothing is moved then.

        Examples
        --------
        >>> import labnet as ln
        >>> ln.nn.Linear(2, 1).to("float64").weight.dtype
        dtype('float64')
        """
        for each in (target, device, dtype):
            if each is not None:
                self._convert(each)
        return self

    def _convert(self, target: DTypeLike) -> None:
        tensors = list({id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())}.values())
        if not isinstance(target, str) or target in DTYPES:
            if as_dtype(target).kind != "f":
                raise DTypeError(f"to: expected a floating dtype or a device, got {target!r}")
            tensors = [tensor for tensor in tensors if tensor.dtype.kind == "f"]
        arrays = [tensor.detach().to(target).array for tensor in tensors]
        for tensor, array in zip(tensors, arrays, strict=True):
            memory.unlink(tensor)
            _forget_history(tensor)
            tensor.grad = None
            tensor.array = array
        changes[0] += 1

    def __repr__(self) -> str:
        inside = [f"  ({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        head = f"{type(self).__name__}({self._describe()}"
        return head + ("\n" + "\n".join(inside) + "\n)" if inside else ")")

    def _repr_html_(self) -> str:
        return summary_html(type(self).__name__, self.parameters(), self._rows())

    def _rows(self, depth: int = 0) -> Iterator[Row]:
        """Iterate over the inner layers, outer ones first; plain functions are layers too."""
        for name, inner in self._parts():
            indented = "  " * depth + name
            if not isinstance(inner, Module):
                yield indented, getattr(inner, "__name__", type(inner).__name__), "", "–"
                continue
            shapes = ", ".join("×".join(map(str, tensor.shape)) for tensor in inner._parameters.values())
            count = sum(tensor.size for tensor in inner.parameters())
            yield indented, f"{type(inner).__name__}({inner._describe()})", shapes, f"{count:,}" if count else "–"
            yield from inner._rows(depth + 1)

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """Iterate over the layers with their names, for a table."""
        return iter(self._modules.items())

    def extra_repr(self) -> str:
        """Return what the printed form of a module shows in brackets; for subclasses to define."""
        return ""

    def _describe(self) -> str:
        return self.extra_repr()


class Linear(Module):
    """The affine map ``y = x @ weight.T + bias`` of the last dimension.

    Parameters
    ----------
    in_features, out_features : int
        Lengths of the last dimension of input and output.
    bias : bool
        Whether there is a bias.

    Attributes
    ----------
    weight : tensor of shape (out_features, in_features), float32
    bias : tensor of shape (out_features,), float32, or None

    Raises
    ------
    TypeError, ValueError
        If a size is no integer, or negative.
    ShapeError, DTypeError
        When called with another last dimension, or another dtype than the weight's.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Linear(3, 2)(ln.ones((5, 3))).shape
    (5, 2)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        self.in_features = size("Linear", "in_features", in_features, least=0)
        self.out_features = size("Linear", "out_features", out_features, least=0)
        self.weight = init.fan_in_uniform((self.out_features, self.in_features), fan_in=self.in_features)
        self.bias = init.fan_in_uniform((self.out_features,), fan_in=self.in_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor of shape (..., in_features) to (..., out_features)."""
        if not x.ndim or x.shape[-1] != self.in_features:
            raise ShapeError(
                f"Linear({self.in_features}, {self.out_features}): expected an input of shape "
                f"(..., {self.in_features}), got {x.shape}"
            )
        self.check_dtype(x, self.weight)
        return linear(x, self.weight, self.bias)

    def _describe(self) -> str:
        return f"{self.in_features}, {self.out_features}" + (", bias=False" if self.bias is None else "")
