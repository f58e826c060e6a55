"""How a step is called: what it is given, how that lies in memory, and what it returns.

Shared by what writes the source of a step, what writes its entry, and what calls it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

#: What a step returns: 0 if it is done, else what did not fit, before anything was written.
DONE, OTHER_ARGUMENTS, OTHER_STATE, FIRST_CHECK = 0, 1, 2, 16
#: Bytes of a tuple before what it holds, and places of what is looked at in an array.
ITEMS, HEAD = tuple.__basicsize__, object.__basicsize__
DATA, NDIM, SHAPE, DTYPE, FLAGS = HEAD, HEAD + 8, HEAD + 16, HEAD + 40, HEAD + 48
#: Flags of an array that lies in rows at an address that suits its dtype.
READ = 0x101


@dataclass(frozen=True)
class Layout:
    """What a call brings, and where a step finds it.

    Attributes
    ----------
    numbers : int
        How many numbers follow the tuple of what is held.
    arrays : int
        How many arrays follow these.
    arguments : sequence of (int, int, tuple)
        Which of the arrays are read: position, described dtype and shape.
    places : sequence of (str, int, str)
        The pointers that a step takes after that of the arena: whether the array is in the ``call`` or ``held``, its
        position there, and its dtype.
    arena : int
        Position of the arena in what is held. The first position there has the table of words to look at.
    """

    numbers: int
    arrays: int
    arguments: Sequence[tuple[int, int, tuple[int, ...]]]
    places: Sequence[tuple[str, int, str]]
    arena: int
