"""The ABI of a step: its arguments, where it finds its arrays, and its status.

Shared by the modules that write the source of a step, that write its entry, and that call it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Status of a step: 0 if it has run; else the test that failed before anything was written.
DONE, OTHER_ARGUMENTS, OTHER_STATE, FIRST_CHECK = 0, 1, 2, 16


@dataclass(frozen=True)
class Layout:
    """The arguments of a step, and where it finds its arrays.

    Attributes
    ----------
    numbers : int
        How many numbers follow the tuple of held objects.
    arrays : int
        How many arrays follow these.
    arguments : sequence of (int, int, tuple)
        Which of the arrays are read: position, described dtype and shape.
    places : mapping of str to (str, int, str)
        The pointers that a step takes after that of the arena, by name: whether the array is in the ``call`` or
        ``held``, its position there, and its dtype.
    arena : int
        Position of the arena in the tuple of held objects, whose first item is the table of words to compare.
    """

    numbers: int
    arrays: int
    arguments: Sequence[tuple[int, int, tuple[int, ...]]]
    places: Mapping[str, tuple[str, int, str]]
    arena: int
