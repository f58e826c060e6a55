"""Modules that hold others: one after the other, or in a list."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from labnet.nn.modules import Module


class Sequential(Module):
    """Modules and plain functions, one after the other.

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

    def forward(self, x: Any) -> Any:
        """Hand `x` through every layer."""
        for layer in self:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Callable[[Any], Any]]:
        modules = self._modules
        return (modules.get(str(position), layer) for position, layer in enumerate(self._layers))

    def __getitem__(self, position: int) -> Callable[[Any], Any]:
        return list(self)[position]

    def __repr__(self) -> str:
        names = [layer if isinstance(layer, Module) else getattr(layer, "__name__", layer) for layer in self]
        lines = [f"  ({i}): " + str(name).replace("\n", "\n  ") for i, name in enumerate(names)]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


class ModuleList(Module):
    """Modules in a list, for a parent that calls them itself.

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
        """Add a module at the end.

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

    def __getitem__(self, position: int) -> Module:
        return list(self._modules.values())[position]

    def __iter__(self) -> Iterator[Module]:
        return self.children()
