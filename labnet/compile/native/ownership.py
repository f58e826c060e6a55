"""Reference counts, and words of memory, as proofs of who owns an object.

A compiled step writes into arrays in place, and reads them by address. Three facts make that safe; each is proved here,
and only here. All of them need the global interpreter lock, without which `labnet.compile.native.frames` refuses to
trace: no other thread can change a count between the look at it and what follows.

**A count of references names all owners.** `references` is the number of references to an object besides the variable
of the caller. What the call itself adds is measured on an object that is known to have no owner, so that a Python
version that counts otherwise changes both numbers alike. If an owner is known to be one of them and the number is one,
there is no other owner.

**Equal words mean equal objects.** `ownership_words` returns addresses in memory with the words that are there now. A
step holds a reference to each tensor, so the addresses in tensors stay valid; and to each array, so no other object can
take the address of an array that its tensor has given up. An equal address in the slot of a tensor therefore is the
very same array.

**Equal counts mean no new owner.** For an array that is written, one of the words is its reference count. It is
recorded after `labnet.memory.prepare_write` has made sure that nothing but the tensor refers to the array, and after
the step has taken its own reference: so exactly two references are counted, and both last as long as the other words
are equal. A third one, such as that of a view, of a graph or of `numpy()`, changes the word. Tensors with views are
checked anew at each call instead, since their references come and go.
"""

from sys import getrefcount
from typing import Any

from labnet.compile.native.object_layout import slots, word
from labnet.tensor import Tensor

_own = 0


def references(found: Any) -> int:
    """Return the number of references to an object, besides that of the one local variable that the caller passes.

    Examples
    --------
    >>> def count():
    ...     found = object()
    ...     owner = [found]
    ...     return references(found)
    >>> count()
    1
    """
    return getrefcount(found) - _own


def _references_of_the_call() -> int:
    """Measure what a variable and the call of `references` add to a count."""
    found = object()
    return references(found)


_own = _references_of_the_call()


def owns_alone(tensor: Any) -> bool:
    """Return whether nothing but a tensor refers to its array."""
    array = tensor.array
    return references(array) <= 1


def ownership_words(tensor: Tensor, *, is_written: bool, is_stepped: bool) -> list[tuple[int, int]]:
    """Return (address, word at this address) for each word that proves that a tensor has its array and node.

    Parameters
    ----------
    tensor : Tensor
    is_written : bool
        Whether the step writes into its array, so that the number of references matters.
    is_stepped : bool
        Whether an optimizer updates it, so that its ``grad`` has to stay None.
    """
    to_array, to_node, to_gradient = slots()
    array, node = word(id(tensor) + to_array), word(id(tensor) + to_node)
    words = [(id(tensor) + to_array, array), (id(tensor) + to_node, node)]
    if is_written:
        words.append((array, word(array)))  # the count is the first word of an object
    if is_stepped:
        words.append((node + to_gradient, id(None)))
    return words


def constant_word() -> tuple[int, int]:
    """Return the address of a word that never changes, and the word: the class of None."""
    return id(None) + 8, word(id(None) + 8)
