"""Models of labnet as models of torch, and back: the same layers with the same parameters.

Layers have one name and the same arguments in both libraries, so a layer is made anew from its attributes. What is
called differently, or follows from the parameters, is in a table.
"""

import inspect
from collections.abc import Callable, Mapping, Set
from typing import Any

import torch

import labnet.nn as own_nn
from labnet import ops
from labnet.interop.torch.arrays import from_host, to_host
from labnet.nn import Module
from labnet.tensor import Tensor, on_host

_MISSING = object()
_CELL = ("input_size", "hidden_size", "bias")
_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_LAYER = (
    *("d_model", "nhead", "dim_feedforward", "dropout", "activation", "layer_norm_eps", "batch_first"),
    *("norm_first", "bias"),
)
#: Arguments of layers whose signature does not name them, or names what is no argument of the other library.
_ARGUMENTS = {
    "RNN": (*_RECURRENT, "nonlinearity"),
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNNCell": (*_CELL, "nonlinearity"),
    "LSTMCell": _CELL,
    "GRUCell": _CELL,
    "Softmax": ("dim",),
    "Softmin": ("dim",),
    "LogSoftmax": ("dim",),
    "PReLU": ("num_parameters",),
    "Identity": (),
    "TransformerEncoderLayer": _LAYER,
    "TransformerDecoderLayer": _LAYER,
}
#: Arguments of torch that do not change results, such as those for PyTorch's own speed.
_WITHOUT_EFFECT = {"device", "dtype", "inplace", "size_average", "reduce", "sparse"}
#: Arguments that make functions of torch compute what those of labnet compute without arguments.
_DEFAULTS: dict[str, dict[str, Any]] = {
    **{name: {"dim": -1} for name in ("softmax", "log_softmax")},
    **{name: {"correction": 0} for name in ("std", "var")},
}
#: Functions that mean something else in torch, or take other arguments.
_DIFFERENT = {"flip", "logsumexp", "median", "nonzero", "sort"}


def to_torch(module: Module) -> torch.nn.Module:
    """Return a model of labnet as one of torch, with copies of its parameters and buffers.

    Parameters
    ----------
    module : labnet.nn.Module
        A layer of labnet, or a container of layers and functions.

    Raises
    ------
    TypeError
        If it contains a class that torch has no layer for, such as one of your own, or a lazy layer before its first
        call; names it.

    Examples
    --------
    >>> import labnet as ln
    >>> to_torch(ln.nn.Sequential(ln.nn.Linear(2, 3), ln.nn.relu, ln.nn.Linear(3, 1)))
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=1, bias=True)
    )
    """
    if not isinstance(module, Module):
        raise TypeError(f"to_torch: expected a module of labnet, got {type(module).__name__} {module!r:.60}")
    made: torch.nn.Module = _ToTorch().made(module)
    floats = {tensor.dtype.name for tensor in module.parameters() if tensor.dtype.kind == "f"}
    for name in floats if len(floats) == 1 else ():
        made = made.to(getattr(torch, name))
    made.load_state_dict(state_dict(module))
    _copy_modes(module.named_modules(), dict(made.named_modules()))
    return made


def from_torch(module: torch.nn.Module) -> Module:
    """Return a model of torch as one of labnet, with copies of its parameters and buffers.

    Parameters
    ----------
    module : torch.nn.Module
        A layer that labnet has too, or a container of such layers.

    Raises
    ------
    TypeError
        If labnet has no such layer, or not with these arguments, or it is a lazy layer before its first call; names it.

    Examples
    --------
    >>> import torch
    >>> from_torch(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()))
    Sequential(
      (0): Linear(2, 3)
      (1): ReLU()
    )
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"from_torch: expected a torch.nn.Module, got {type(module).__name__} {module!r:.60}")
    made: Module = _FromTorch().made(module)
    state = {name: to_host(tensor) for name, tensor in module.state_dict().items()}
    floats = {array.dtype.name for array in state.values() if array.dtype.kind == "f"}
    if len(floats) == 1:
        made.to(floats.pop())
    made.load_state_dict(state)
    _copy_modes(module.named_modules(), dict(made.named_modules()))
    return made


#: Where the functions of each library are, and the first of a name.
_OWN, _TORCH = (ops, own_nn, own_nn.functional), (torch, torch.nn.functional)


def _found(places: tuple[Any, ...], name: str) -> Any:
    return next((found for place in places if (found := getattr(place, name, None)) is not None), None)


class TorchFunction(torch.nn.Module):
    """A function of torch as a module, for the functions in a `Sequential` of labnet."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor) -> Any:
        """Call the function."""
        return _found(_TORCH, self.name)(x, **_DEFAULTS.get(self.name, {}))

    def extra_repr(self) -> str:
        """Return the name."""
        return self.name


class PositionalEncoding(torch.nn.Module):
    """The layer of this name of labnet, which torch has not; adds ``pe`` by position."""

    def __init__(self, pe: torch.Tensor, dropout: torch.nn.Module, *, batch_first: bool):
        super().__init__()
        self.dropout, self.batch_first = dropout, batch_first
        self.register_buffer("pe", pe)

    def forward(self, x: torch.Tensor) -> Any:
        """Map (L, N, E), with `batch_first` (N, L, E), or (L, E) to the same shape."""
        if self.batch_first or x.ndim == 2:
            return self.dropout(x + self.pe[: x.shape[-2], 0])
        return self.dropout(x + self.pe[: x.shape[0]])


class _Conversion:
    """Makes the layers of one library from those of the other."""

    #: Name and advice for errors, and the module of the layers that are made.
    name: str
    remedy: str
    target: Any
    #: Where the functions of both libraries are, and names of functions that differ.
    sources: tuple[Any, ...]
    targets: tuple[Any, ...]
    different: Set[str] = _DIFFERENT

    def made(self, layer: Any) -> Any:
        """Return the layer of the other library."""
        kind = type(layer).__name__
        container = getattr(self, f"_{kind.lower()}", None)
        if container is not None:
            return container(layer)
        if kind.startswith("Lazy") and self.is_layer(layer):
            raise TypeError(
                f"{self.name}: {kind} has no parameters before its first call: call the model on a batch first"
            )
        target = getattr(self.target, kind, None)
        if target is None or not self.is_layer(layer):
            raise TypeError(f"{self.name}: {kind} is no layer of both libraries: {self.remedy}")
        source, accepted = self._signature(type(layer)), self._signature(target)
        arguments = {}
        for name in _ARGUMENTS.get(kind, source):
            value = self._value(layer, name)
            if value is _MISSING or name in _WITHOUT_EFFECT:
                continue
            if kind in _ARGUMENTS or name in accepted:
                arguments[name] = value
            elif value != source[name].default:
                raise TypeError(f"{self.name}: {kind} with {name}={value!r:.40} is not in the other library")
        return target(**arguments)

    @staticmethod
    def _signature(kind: type) -> Mapping[str, inspect.Parameter]:
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        parameters = inspect.signature(kind).parameters
        return {name: parameter for name, parameter in parameters.items() if parameter.kind not in kinds}

    def _value(self, layer: Any, name: str) -> Any:
        """Return the argument that a layer was made with, as the other library takes it."""
        derived = _DERIVED.get((type(layer).__name__, name)) or _DERIVED.get(("", name))
        value = getattr(layer, name, _MISSING) if derived is None else derived(layer)
        if isinstance(value, tuple) and len(value) == 1 and type(layer).__name__.endswith("1d"):
            value = value[0]  # torch's one-dimensional layers have sizes as tuples
        return self.converted(value)

    def is_layer(self, layer: Any) -> bool:
        """Return whether an object is a layer of the library, and no class of a user."""
        raise NotImplementedError

    def converted(self, value: Any) -> Any:
        """Return an argument of the other library."""
        if isinstance(value, Module | torch.nn.Module):
            return self.made(value)
        return self.function(value) if inspect.isroutine(value) else value

    def function(self, value: Any) -> Any:
        """Return the function of the same name in the other library, for a function of one tensor."""
        name = getattr(value, "__name__", "")
        found = _found(self.targets, name)
        if found is None or name in self.different or all(getattr(of, name, None) is not value for of in self.sources):
            raise TypeError(
                f"{self.name}: {name or repr(value)} is no function of both libraries: write a module that calls it"
            )
        return found

    def _transformer(self, layer: Any) -> Any:
        parts = {"custom_encoder": self.made(layer.encoder), "custom_decoder": self.made(layer.decoder)}
        return self.target.Transformer(layer.d_model, layer.nhead, batch_first=layer.batch_first, **parts)

    def _transformerencoder(self, layer: Any) -> Any:
        return self._stack(layer)

    def _transformerdecoder(self, layer: Any) -> Any:
        return self._stack(layer)

    def _stack(self, layer: Any) -> Any:
        norm = None if layer.norm is None else self.made(layer.norm)
        target = getattr(self.target, type(layer).__name__)
        has_nested = "enable_nested_tensor" in inspect.signature(target).parameters
        nested = {"enable_nested_tensor": False} if has_nested else {}
        return target(self.made(layer.layers[0]), len(layer.layers), norm=norm, **nested)

    def _modulelist(self, layer: Any) -> Any:
        return self.target.ModuleList([self.made(part) for part in layer])

    def _moduledict(self, layer: Any) -> Any:
        return self.target.ModuleDict({name: self.made(part) for name, part in layer.items()})


class _ToTorch(_Conversion):
    name, target, sources, targets = "to_torch", torch.nn, _OWN, _TORCH
    remedy = (
        "write the class with torch.nn under the same names, and load the weights by "
        "load_state_dict(ln.interop.torch.state_dict(module))"
    )

    def is_layer(self, layer: Any) -> bool:
        return type(layer).__module__.startswith("labnet.nn.")

    def converted(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return from_host(on_host(value)).clone()
        return super().converted(value)

    def function(self, value: Any) -> Any:
        found = super().function(value)
        return TorchFunction(value.__name__) if value.__name__ in _DEFAULTS else found

    def _sequential(self, layer: Any) -> torch.nn.Module:
        parts = {}
        for name, part in layer._parts():
            parts[name] = self.made(part) if isinstance(part, Module) else self._function_module(part)
        made = torch.nn.Sequential()
        for name, part in parts.items():
            made.add_module(name, part)
        return made

    def _function_module(self, function: Any) -> torch.nn.Module:
        """Return a function in a `Sequential` as a module."""
        self.function(function)
        name = function.__name__
        for kind in (own for own in own_nn.__all__ if own.lower() == name and hasattr(torch.nn, own)):
            made: torch.nn.Module = getattr(torch.nn, kind)(**_DEFAULTS.get(name, {}))
            return made
        return TorchFunction(name)

    def _parameterlist(self, layer: Any) -> torch.nn.Module:
        return torch.nn.ParameterList([torch.nn.Parameter(self.converted(tensor)) for tensor in layer])

    def _parameterdict(self, layer: Any) -> torch.nn.Module:
        return torch.nn.ParameterDict(
            {name: torch.nn.Parameter(self.converted(tensor)) for name, tensor in layer.named_parameters()}
        )

    def _positionalencoding(self, layer: Any) -> torch.nn.Module:
        return PositionalEncoding(self.converted(layer.pe), self.made(layer.dropout), batch_first=layer.batch_first)


class _FromTorch(_Conversion):
    name, target, sources, targets = "from_torch", own_nn, _TORCH, _OWN
    different = _DIFFERENT | _DEFAULTS.keys()
    remedy = (
        "write the class with ln.nn under the same names, and load the weights by load_state_dict; or serve the torch "
        "module as it is"
    )

    def is_layer(self, layer: Any) -> bool:
        return type(layer).__module__.startswith("torch.nn.")

    def converted(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return Tensor(to_host(value).copy())
        return super().converted(value)

    def _sequential(self, layer: Any) -> Module:
        made = own_nn.Sequential()
        for name, part in layer.named_children():
            if name != str(len(made)):
                return own_nn.Sequential({key: self.made(value) for key, value in layer.named_children()})
            made.append(self.made(part))
        return made

    def _torchfunction(self, layer: Any) -> Any:
        return _found(_OWN, layer.name)

    def _parameterlist(self, layer: Any) -> Module:
        return own_nn.ParameterList([own_nn.Parameter(to_host(tensor).copy()) for tensor in layer])

    def _parameterdict(self, layer: Any) -> Module:
        return own_nn.ParameterDict({name: own_nn.Parameter(to_host(t).copy()) for name, t in layer.items()})

    def _positionalencoding(self, layer: Any) -> Module:
        length, _, width = layer.pe.shape
        return own_nn.PositionalEncoding(width, layer.dropout.p, length, batch_first=layer.batch_first)


def state_dict(module: Module) -> dict[str, torch.Tensor]:
    """Return copies of the parameters and buffers of a module of labnet as tensors of torch.

    Examples
    --------
    >>> import labnet as ln
    >>> {name: tuple(tensor.shape) for name, tensor in state_dict(ln.nn.Linear(2, 1)).items()}
    {'weight': (1, 2), 'bias': (1,)}
    """
    return {name: from_host(on_host(tensor)).clone() for name, tensor in module.state_dict().items()}


def _has(name: str) -> Callable[[Any], bool]:
    return lambda layer: getattr(layer, name, None) is not None


def _either(*names: str) -> Callable[[Any], Any]:
    """Return the getter of an attribute that has another name in each library."""
    return lambda layer: next(getattr(layer, name) for name in names if hasattr(layer, name))


def _has_bias(layer: Any) -> Any:
    """Return whether a layer has a bias, from its flag or its parameter; a norm without weights cannot have one."""
    if getattr(layer, "affine", True) is False:
        return _MISSING
    for name in ("bias", "in_proj_bias", "bias_ih", "bias_ih_l0"):
        value = getattr(layer, name, None)
        if value is not None:
            return value if isinstance(value, bool) else True
    return False


#: How arguments follow from other attributes, by the name of the layer, or for all layers.
_DERIVED: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("", "bias"): _has_bias,
    ("", "affine"): _has("weight"),
    ("", "elementwise_affine"): _has("weight"),
    ("", "_weight"): lambda layer: _MISSING,
    ("", "_freeze"): lambda layer: _MISSING,
    **{(f"InstanceNorm{n}d", "num_features"): _either("num_features", "num_channels") for n in (1, 2, 3)},
    ("PairwiseDistance", "p"): _either("p", "norm"),
    ("MultiheadAttention", "add_bias_kv"): _has("bias_k"),
    **{(name, "dim"): _either("axis", "dim") for name in ("Softmax", "Softmin", "LogSoftmax")},
    **{
        (name, argument): derive
        for name in ("TransformerEncoderLayer", "TransformerDecoderLayer")
        for argument, derive in {
            "d_model": lambda layer: layer.linear1.in_features,
            "nhead": lambda layer: layer.self_attn.num_heads,
            "dim_feedforward": lambda layer: layer.linear1.out_features,
            "dropout": lambda layer: layer.dropout.p,
            "layer_norm_eps": lambda layer: layer.norm1.eps,
            "batch_first": lambda layer: layer.self_attn.batch_first,
            "bias": lambda layer: layer.linear1.bias is not None,
        }.items()
    },
}


def _copy_modes(named: Any, others: Mapping[str, Any]) -> None:
    for name, part in named:
        if name in others:
            others[name].training = part.training
