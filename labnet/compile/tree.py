"""Tuples, lists and dicts of anything, taken apart and put together again."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_BRACKETS: dict[type, str] = {tuple: "({})", list: "[{}]", dict: "{{{}}}"}


@dataclass(frozen=True)
class Structure:
    """How leaves hang together.

    Attributes
    ----------
    kind : type or None
        tuple, list or dict; None for a leaf.
    keys : tuple
        Keys of a dict.
    parts : tuple of Structure
    """

    kind: type | None = None
    keys: tuple[Any, ...] = ()
    parts: tuple["Structure", ...] = ()

    def build(self, leaves: Iterable[Any]) -> Any:
        """Put leaves together.

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
        parts = [part._build(leaves) for part in self.parts]
        return dict(zip(self.keys, parts, strict=True)) if self.kind is dict else self.kind(parts)

    def all_keys(self) -> list[Any]:
        """Return the keys of all dicts, those of a dict before those of its parts."""
        return [*self.keys, *itertools.chain.from_iterable(part.all_keys() for part in self.parts)]

    def written(self, leaves: Iterator[str], keys: str) -> str:
        """Return the source of what `build` makes of leaves, in which `keys` is the name of what `all_keys` returns.

        Examples
        --------
        >>> _, structure = flatten({"a": 1, "b": (2, [3])})
        >>> structure.written(iter(["x", "y", "z"]), "keys")
        '{keys[0]: x, keys[1]: (y, [z, ], ), }'
        """
        return self._written(leaves, (f"{keys}[{position}]" for position in itertools.count()))

    def _written(self, leaves: Iterator[str], keys: Iterator[str]) -> str:
        if self.kind is None:
            return next(leaves)
        before = [f"{next(keys)}: " for _ in self.keys] or [""] * len(self.parts)
        inside = "".join(f"{key}{part._written(leaves, keys)}, " for key, part in zip(before, self.parts, strict=True))
        return _BRACKETS[self.kind].format(inside)


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """Take tuples, lists and dicts apart."""
    if type(tree) not in (tuple, list, dict):
        return [tree], Structure()
    keys = tuple(tree) if type(tree) is dict else ()
    leaves: list[Any] = []
    parts = []
    for part in tree.values() if type(tree) is dict else tree:
        found, structure = flatten(part)
        leaves += found
        parts.append(structure)
    return leaves, Structure(type(tree), keys, tuple(parts))
