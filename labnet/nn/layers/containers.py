"""Containers: sequences, lists and dictionaries of modules, and lists of parameters."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

from labnet.nn.layers.activation import ReLU
from labnet.nn.layers.dense import layers
from labnet.nn.modules import Linear, Module, Parameter
from labnet.ops import relu
from labnet.ops.core import dispatch
from labnet.tensor import Tensor


class Sequential(Module):
    """A sequence of modules and plain functions.

    Several inputs go to the first layer. A tuple that a layer returns is one input of the next, or its items are the
    inputs if that layer needs several.

    Parameters
    ----------
    *layers : callables
        Modules and functions; or one dict of modules by their names.

    Examples
    --------
    >>> import labnet as ln
    >>> model = ln.nn.Sequential(ln.nn.Linear(4, 8), ln.nn.relu, ln.nn.Linear(8, 2))
    >>> model(ln.ones((3, 4))).shape
    (3, 2)
    """

    def __init__(self, *layers: Callable[..., Any] | Mapping[str, Callable[..., Any]]):
        super().__init__()
        named = layers[0] if len(layers) == 1 and isinstance(layers[0], Mapping) else None
        given: Any = named if named is not None else {str(position): layer for position, layer in enumerate(layers)}
        for name, layer in given.items():
            _check_layer(name, layer)
            if isinstance(layer, Module):
                setattr(self, name, layer)
        self._layers = tuple(given.values())
        self._keys = tuple(given)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self.__dict__["_steps"] = None

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self.__dict__["_steps"] = None

    def forward(self, x: Any, *more: Any) -> Any:
        """Pass `x` through every layer; further inputs go to the first one."""
        if more or (dispatch.Plain is None and dispatch.current_tracer() is not None):
            layers = list(self)
            x = layers.pop(0)(x, *more) if more else x
            for layer in layers:
                x = layer(*x) if type(x) is tuple and _needs_several(layer) else layer(x)
            return x
        steps = self.__dict__["_steps"]
        if steps is None:
            steps = self.__dict__["_steps"] = _steps(list(self))
        for step in steps:
            x = step(x)
        return x

    def append(self, layer: Callable[..., Any]) -> Self:
        """Append a layer, and return this module."""
        return self.extend([layer])

    def extend(self, layers: Iterable[Callable[..., Any]]) -> Self:
        """Append layers, and return this module."""
        for layer in layers:
            _check_layer(str(len(self)), layer)
            self._keys = (*self._keys, str(len(self)))
            self._layers = (*self._layers, layer)
            if isinstance(layer, Module):
                setattr(self, self._keys[-1], layer)
        return self

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Callable[[Any], Any]]:
        modules = self._modules
        return (modules.get(name, layer) for name, layer in zip(self._keys, self._layers, strict=True))

    def __getitem__(self, position: int | slice) -> Any:
        """Return a layer, or a Sequential of several, which share their parameters with this one."""
        return Sequential(*list(self)[position]) if isinstance(position, slice) else list(self)[position]

    def _parts(self) -> Iterator[tuple[str, Any]]:
        layers = dict(zip(self._keys, self, strict=True))
        return iter((layers | self._modules).items())

    def __repr__(self) -> str:
        names = [layer if isinstance(layer, Module) else getattr(layer, "__name__", layer) for layer in self]
        lines = [f"  ({i}): " + str(name).replace("\n", "\n  ") for i, name in zip(self._keys, names, strict=True)]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def _check_layer(name: str, layer: Any) -> None:
    if isinstance(layer, type) and issubclass(layer, Module):
        raise TypeError(f"Sequential: layer {name} is the class {layer.__name__}; write {layer.__name__}()")
    if isinstance(layer, list | tuple):
        raise TypeError(f"Sequential: layer {name} is a {type(layer).__name__} of layers; write Sequential(*layers)")
    if not callable(layer):
        raise TypeError(f"Sequential: layer {name} is not callable: {layer!r:.80}")


def _needs_several(layer: Callable[..., Any]) -> bool:
    """Return whether a layer needs more than one input."""
    function = layer.forward if isinstance(layer, Module) else layer
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function of C without a signature
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in kinds and one.default is one.empty for one in parameters) > 1


class _Spread:
    """A layer that needs several inputs, to which the items of a tuple are passed."""

    def __init__(self, layer: Callable[..., Any]):
        self._layer = layer

    def __call__(self, x: Any) -> Any:
        return self._layer(*x) if type(x) is tuple else self._layer(x)


class _Run:
    """Consecutive linear layers of a `Sequential`, each with or without relu, that run as one step."""

    def __init__(self, layers: list[Callable[[Any], Any]]):
        self._layers = layers
        self._linear: list[Linear] = []
        self._relu = 0
        for layer in layers:
            if isinstance(layer, Linear):
                self._linear.append(layer)
            else:
                self._relu |= 1 << (len(self._linear) - 1)

    def __call__(self, x: Any) -> Any:
        parameters: list[Tensor] = []
        for layer in self._linear:
            bias = layer.bias
            if bias is None or "forward" in layer.__dict__:
                return self._one_by_one(x)
            parameters += (layer.weight, bias)
        out = layers(x, parameters, self._relu) if type(x) is dispatch.Plain else None
        return self._one_by_one(x) if out is None else out

    def _one_by_one(self, x: Any) -> Any:
        for layer in self._layers:
            x = layer(x)
        return x


def _steps(layers: list[Callable[[Any], Any]]) -> list[Callable[[Any], Any]]:
    """Group the layers that can run as one step."""
    steps: list[Callable[[Any], Any]] = []
    run: list[Callable[[Any], Any]] = []
    for layer in [*layers, None]:
        linear = type(layer) is Linear
        if not linear and not (run and isinstance(run[-1], Linear) and (layer is relu or type(layer) is ReLU)):
            steps += [_Run(run)] if len(run) > 1 else run
            run = []
        if layer is None:
            break
        (run if linear or run else steps).append(_Spread(layer) if not linear and _needs_several(layer) else layer)
    return steps


class ModuleList(Module):
    """A list of modules, which their parent calls itself.

    Examples
    --------
    >>> import labnet as ln
    >>> layers = ln.nn.ModuleList([ln.nn.Linear(4, 4) for _ in range(3)])
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> Self:
        """Append a module, and return this list.

        Raises
        ------
        TypeError
            If it is not a module.
        """
        if not isinstance(module, Module):
            raise TypeError(f"ModuleList: expected a Module at position {len(self)}, got {module!r:.80}")
        setattr(self, str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Append modules, and return this list."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, position: int, module: Module) -> None:
        """Insert a module before a position."""
        found = list(self._modules.values())
        found.insert(position, module)
        for place, one in enumerate(found):
            setattr(self, str(place), one)

    def __setitem__(self, position: int, module: Module) -> None:
        setattr(self, str(range(len(self))[position]), module)

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, position: int | slice) -> Any:
        """Return a module, or a ModuleList of several."""
        found = list(self._modules.values())
        return ModuleList(found[position]) if isinstance(position, slice) else found[position]

    def __iter__(self) -> Iterator[Module]:
        return self.children()


class ModuleDict(Module):
    """A dictionary of modules, which their parent calls itself.

    Examples
    --------
    >>> import labnet as ln
    >>> heads = ln.nn.ModuleDict({"class": ln.nn.Linear(4, 3), "value": ln.nn.Linear(4, 1)})
    >>> heads["value"](ln.ones((2, 4))).shape, list(heads)
    ((2, 1), ['class', 'value'])
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()):
        super().__init__()
        self.update(modules)

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace modules."""
        for name, module in OrderedDict(modules).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, module)

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __delitem__(self, name: str) -> None:
        delattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def keys(self) -> Iterable[str]:
        """Return the names."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """Return the modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Return the names with the modules."""
        return self._modules.items()


class ParameterList(Module):
    """A list of parameters.

    Examples
    --------
    >>> import labnet as ln
    >>> scales = ln.nn.ParameterList([ln.ones(2), ln.ones(3)])
    >>> [name for name, _ in scales.named_parameters()], scales[1].shape
    (['0', '1'], (3,))
    """

    def __init__(self, values: Iterable[Tensor] = ()):
        super().__init__()
        for value in values:
            self.append(value)

    def append(self, value: Tensor) -> Self:
        """Append a tensor as a parameter, and return this list."""
        self.register_parameter(str(len(self)), Parameter(value))
        return self

    def __len__(self) -> int:
        return len(self._parameters)

    def __getitem__(self, position: int) -> Tensor:
        return list(self._parameters.values())[position]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._parameters.values())


class ParameterDict(Module):
    """A dictionary of parameters.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ParameterDict({"scale": ln.ones(2)})["scale"].requires_grad
    True
    """

    def __init__(self, values: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] = ()):
        super().__init__()
        for name, value in OrderedDict(values).items():
            self[name] = value

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.register_parameter(name, Parameter(value))

    def __getitem__(self, name: str) -> Tensor:
        return self._parameters[name]

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)
