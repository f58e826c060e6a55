"""Flattening of nested tuples, lists, dicts, named tuples, data classes and slices into leaves and a structure."""

import dataclasses
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_BRACKETS: dict[type, str] = {tuple: "({})", list: "[{}]", dict: "{{{}}}"}
_MAPPINGS = (dict, OrderedDict)


@dataclass(frozen=True)
class Structure:
    """The structure of a tree of leaves.

    Attributes
    ----------
    kind : type or None
        tuple, list, dict or another class that is taken apart; None for a leaf.
    keys : tuple
        Keys of a dict; names of the attributes of a data class.
    parts : tuple of Structure
    kinds : tuple of type
        Of the keys, by which 1 is told from 1.0.
    """

    kind: type | None = None
    keys: tuple[Any, ...] = ()
    parts: tuple["Structure", ...] = ()
    kinds: tuple[type, ...] = ()

    def build(self, leaves: Iterable[Any]) -> Any:
        """Return the tree with these leaves.

        Examples
        --------
        >>> leaves, structure = flatten({"a": 1, "b": (2, [3])})
        >>> leaves, structure.build(leaves)
        ([1, 2, 3], {'a': 1, 'b': (2, [3])})
        """
        return self._build(iter(leaves))

    def _build(self, leaves: Iterator[Any]) -> Any:
        if self.kind is None:
            return next(leaves)
        return self.make([part._build(leaves) for part in self.parts])

    def make(self, parts: Iterable[Any]) -> Any:
        """Return an object of this kind with these parts."""
        kind = self.kind
        assert kind is not None, "leaves have no parts"
        if kind in _MAPPINGS:
            return kind(zip(self.keys, parts, strict=True))
        if kind is slice or hasattr(kind, "_fields"):
            return kind(*parts)
        if kind in _BRACKETS:
            return kind(parts)
        made: Any = object.__new__(kind)
        for name, part in zip(self.keys, parts, strict=True):
            object.__setattr__(made, name, part)
        return made

    def constants(self) -> list[Any]:
        """Return the constants that the source of `written` refers to, outer ones first."""
        own = [*self.keys] if self.kind is dict else [] if self.kind in (None, *_BRACKETS) else [self.make]
        return [*own, *itertools.chain.from_iterable(part.constants() for part in self.parts)]

    def written(self, leaves: Iterator[str], constants: str) -> str:
        """Return an expression for the result of `build`, in which `constants` names the list of `constants`.

        Examples
        --------
        >>> _, structure = flatten({"a": 1, "b": (2, [3])})
        >>> structure.written(iter(["x", "y", "z"]), "known")
        '{known[0]: x, known[1]: (y, [z, ], ), }'
        """
        return self._written(leaves, (f"{constants}[{position}]" for position in itertools.count()))

    def _written(self, leaves: Iterator[str], constants: Iterator[str]) -> str:
        if self.kind is None:
            return next(leaves)
        if self.kind not in _BRACKETS:
            make = next(constants)
            return f"{make}([{', '.join(part._written(leaves, constants) for part in self.parts)}])"
        before = [f"{next(constants)}: " for _ in self.keys] or [""] * len(self.parts)
        pairs = zip(before, self.parts, strict=True)
        return _BRACKETS[self.kind].format("".join(f"{key}{part._written(leaves, constants)}, " for key, part in pairs))


def _parts_of(tree: Any) -> tuple[tuple[Any, ...], list[Any]] | None:
    """Return the keys and parts of a container; None for a leaf."""
    kind = type(tree)
    if kind in _MAPPINGS:
        return tuple(tree), list(tree.values())
    if kind in (tuple, list) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        return (), list(tree)
    if kind is slice:
        return (), [tree.start, tree.stop, tree.step]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = tuple(getattr(tree, "__dict__", None) or [field.name for field in dataclasses.fields(tree)])
        return names, [getattr(tree, name) for name in names]
    return None


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """Flatten tuples, lists, dicts, named tuples, data classes and slices into leaves and a structure.

    Examples
    --------
    >>> flatten(slice(1, None))[0]
    [1, None, None]
    """
    found = _parts_of(tree)
    if found is None:
        return [tree], Structure()
    keys, values = found
    leaves: list[Any] = []
    parts = []
    for part in values:
        inner, structure = flatten(part)
        leaves += inner
        parts.append(structure)
    return leaves, Structure(type(tree), keys, tuple(parts), tuple(map(type, keys)))
