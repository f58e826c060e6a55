"""Modules: functions that own parameters."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from labnet import memory
from labnet.errors import DTypeError, ShapeError
from labnet.nn import init
from labnet.nn.assignment import belongs_to_state, is_input, looks_like_a_parameter
from labnet.nn.sizes import size
from labnet.nn.summary import Row, summary_html
from labnet.ops import linear
from labnet.optim import Optimizer
from labnet.optim.inputs import belongs_to_module, note_inputs, warn
from labnet.settings import Setting
from labnet.tensor import DTYPES, DTypeLike, Tensor, as_dtype

if TYPE_CHECKING:
    from labnet.nn.checkpoint import Checkpoint

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


def _each_once(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    seen: set[int] = set()
    for name, tensor in named:
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


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
        self._check_made(name)
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(f"register_buffer: expected a name without a dot, got {name!r}")
        if name not in self._buffers and hasattr(self, name):
            raise KeyError(f"register_buffer: {type(self).__name__} has an attribute {name!r} already")
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

    def children(self) -> Iterator["Module"]:
        """Iterate over the modules directly inside this one."""
        return iter(self._modules.values())

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

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, parameter), each parameter once, under its first name."""
        return _each_once(self._named("_parameters", ""))

    def parameters(self) -> Iterator[Tensor]:
        """Iterate over the parameters, each once."""
        return (tensor for _, tensor in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, buffer), each buffer once, under its first name, including unsaved ones."""
        return _each_once(self._named("_buffers", ""))

    def buffers(self) -> Iterator[Tensor]:
        """Iterate over the buffers, each once."""
        return (tensor for _, tensor in self.named_buffers())

    def _named(self, group: str, prefix: str, *, saved: bool = False) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in getattr(self, group).items():
            if tensor is not None and not (saved and name in self._transient):
                yield prefix + name, tensor
        for name, module in self._modules.items():
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

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Write the values of a state dict into the parameters and buffers.

        Raises
        ------
        KeyError
            If names are missing or unknown; nothing is written then.
        ShapeError
            If a shape differs; nothing is written then.
        """
        own = self.saved_tensors()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise KeyError(f"load_state_dict: missing {missing}, unknown {unknown}; expected {sorted(own)}")
        values = {name: Tensor(state[name]) for name in own}
        for name, value in values.items():
            if value.shape != own[name].shape:
                raise ShapeError(f"load_state_dict: {name} has shape {value.shape}, expected {own[name].shape}")
        for name, value in values.items():
            _forget_history(own[name])
            own[name].assign(value)

    def checkpoint(
        self, path: str | os.PathLike[str], every_seconds: float = 30, *, optimizer: Optimizer | None = None
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

    def to(self, target: DTypeLike) -> "Module":
        """Move all parameters and buffers to a device, or convert the floating ones to a dtype; return the module.

        The tensors stay the same objects, so their optimizer can continue; their gradients are dropped.

        Parameters
        ----------
        target : str or dtype
            ``"cpu"``, ``"cuda"``, or a floating dtype.

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
        return self

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

    def _describe(self) -> str:
        return ""


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
