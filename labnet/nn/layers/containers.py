"""Containers of modules: sequences and lists."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from labnet.nn.layers.activation import ReLU
from labnet.nn.layers.dense import layers
from labnet.nn.modules import Linear, Module
from labnet.ops import relu
from labnet.ops.core import dispatch
from labnet.tensor import Tensor


class Sequential(Module):
    """A sequence of modules and plain functions.

    Examples
    --------
    >>> import labnet as ln
    >>> model = ln.nn.Sequential(ln.nn.Linear(4, 8), ln.nn.relu, ln.nn.Linear(8, 2))
    >>> model(ln.ones((3, 4))).shape
    (3, 2)
    """

    def __init__(self, *layers: Callable[[Any], Any]):
        super().__init__()
        for position, layer in enumerate(layers):
            if not callable(layer):
                raise TypeError(f"Sequential: layer {position} is not callable: {layer!r:.80}")
            if isinstance(layer, Module):
                setattr(self, str(position), layer)
        self._layers = layers

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self.__dict__["_steps"] = None

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self.__dict__["_steps"] = None

    def forward(self, x: Any) -> Any:
        """Pass `x` through every layer."""
        if dispatch.Plain is None and dispatch.current_tracer() is not None:
            for layer in self:
                x = layer(x)
            return x
        steps = self.__dict__["_steps"]
        if steps is None:
            steps = self.__dict__["_steps"] = _steps(list(self))
        for step in steps:
            x = step(x)
        return x

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Callable[[Any], Any]]:
        modules = self._modules
        return (modules.get(str(position), layer) for position, layer in enumerate(self._layers))

    def __getitem__(self, position: int | slice) -> Any:
        """Return a layer, or a Sequential of several, which share their parameters with this one."""
        return Sequential(*list(self)[position]) if isinstance(position, slice) else list(self)[position]

    def _parts(self) -> Iterator[tuple[str, Any]]:
        layers = {str(position): layer for position, layer in enumerate(self)}
        return iter((layers | self._modules).items())

    def __repr__(self) -> str:
        names = [layer if isinstance(layer, Module) else getattr(layer, "__name__", layer) for layer in self]
        lines = [f"  ({i}): " + str(name).replace("\n", "\n  ") for i, name in enumerate(names)]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


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
        (run if linear or run else steps).append(layer)
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

    def append(self, module: Module) -> None:
        """Append a module.

        Raises
        ------
        TypeError
            If it is not a module.
        """
        if not isinstance(module, Module):
            raise TypeError(f"ModuleList: expected a Module at position {len(self)}, got {module!r:.80}")
        setattr(self, str(len(self)), module)

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, position: int | slice) -> Any:
        """Return a module, or a ModuleList of several."""
        found = list(self._modules.values())
        return ModuleList(found[position]) if isinstance(position, slice) else found[position]

    def __iter__(self) -> Iterator[Module]:
        return self.children()
