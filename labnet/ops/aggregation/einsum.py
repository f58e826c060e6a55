"""Einstein's summation convention, as a chain of matrix products."""

import math
from collections import Counter
from typing import Any

from labnet.errors import ShapeError
from labnet.ops.aggregation.linalg import matmul
from labnet.ops.aggregation.reduction import sum
from labnet.ops.core.declaration import Sample
from labnet.ops.core.registry import FLOATS, composed
from labnet.ops.layout.shape import permute_dims, reshape
from labnet.ops.selection.diagonals import diagonal
from labnet.tensor import Tensor

#: A tensor with a letter for each of its dimensions.
Term = tuple[Tensor, str]


def _parsed(subscripts: str, tensors: list[Tensor]) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result, with capital Greek ones for an ellipsis."""
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(tensors):
        raise ShapeError(f"einsum: {subscripts!r} names {len(terms)} operands, got {len(tensors)}")
    spread = max(
        (x.ndim - len(t.replace("...", "")) for t, x in zip(terms, tensors, strict=True) if "..." in t), default=0
    )
    rest = "".join(chr(0x391 + i) for i in range(spread))
    terms = [
        t.replace("...", rest[len(rest) - (x.ndim - len(t) + 3) :] if x.ndim > len(t) - 3 else "")
        for t, x in zip(terms, tensors, strict=True)
    ]
    for term, x in zip(terms, tensors, strict=True):
        if len(term) != x.ndim or not all(c.isalpha() for c in term):
            raise ShapeError(f"einsum: the subscripts {term!r} of {subscripts!r} do not fit shape {x.shape}")
    if arrow:
        return terms, right.replace("...", rest)
    once = Counter("".join(terms))
    return terms, rest + "".join(sorted(c for c, n in once.items() if n == 1 and c not in rest))


def _distinct(x: Tensor, letters: str) -> Term:
    """Replace two dimensions of one letter by their diagonal."""
    for letter in letters:
        if letters.count(letter) > 1:
            first = letters.index(letter)
            second = letters.index(letter, first + 1)
            rest = letters[:first] + letters[first + 1 : second] + letters[second + 1 :]
            return _distinct(diagonal(x, 0, first, second), rest + letter)
    return x, letters


def _without(term: Term, needed: set[str]) -> Term:
    """Sum over the dimensions that are not needed."""
    x, letters = term
    gone = tuple(i for i, letter in enumerate(letters) if letter not in needed)
    return (sum(x, axis=gone, dtype=x.dtype), "".join(c for c in letters if c in needed)) if gone else term


def _ordered(term: Term, letters: str) -> Tensor:
    """Return a tensor with its dimensions in an order."""
    x, own = term
    return x if own == letters else permute_dims(x, tuple(own.index(c) for c in letters))


def _product(one: Term, other: Term, needed: set[str], sizes: dict[str, int]) -> Term:
    """Multiply two tensors, and sum over the letters that both have and nothing else needs."""
    needed = needed | (set(one[1]) ^ set(other[1]))
    both = [c for c in one[1] if c in other[1]]
    batch, inner = ("".join(c for c in both if (c in needed) == kept) for kept in (True, False))
    left, right = ("".join(c for c in term[1] if c not in both) for term in (one, other))

    def matrices(term: Term, letters: str, rows: str, columns: str) -> Tensor:
        x = _ordered(term, letters)
        lengths = dict(zip(letters, x.shape, strict=True))
        return reshape(
            x, tuple(lengths[c] for c in batch) + tuple(math.prod(lengths[c] for c in part) for part in (rows, columns))
        )

    found = matmul(
        matrices(one, batch + left + inner, left, inner), matrices(other, batch + inner + right, inner, right)
    )
    letters = batch + left + right
    return reshape(found, tuple(sizes[c] for c in letters)), letters


def _sizes(terms: list[Term], subscripts: str) -> dict[str, int]:
    """Return the length of each letter."""
    sizes: dict[str, int] = {}
    for x, letters in terms:
        for letter, length in zip(letters, x.shape, strict=True):
            known = sizes.setdefault(letter, length)
            if known != length and 1 not in (known, length):
                raise ShapeError(f"einsum: {letter!r} of {subscripts!r} has lengths {known} and {length}")
            sizes[letter] = max(known, length)
    return sizes


def _stretched(term: Term, sizes: dict[str, int]) -> Term:
    """Drop dimensions of length one that other operands have longer, since these broadcast."""
    x, letters = term
    longer = [c for c, n in zip(letters, x.shape, strict=True) if n != sizes[c]]
    kept = "".join(c for c in letters if c not in longer)
    return (reshape(x, tuple(sizes[c] for c in kept)), kept) if longer else term


@composed(
    samples=(
        Sample(((2, 3), (3, 4)), {"subscripts": "ij,jk->ik"}),
        Sample(((3, 3),), {"subscripts": "ii->i"}),
        Sample(((3, 3),), {"subscripts": "ii"}),
        Sample(((2, 3),), {"subscripts": "ij->ji"}),
        Sample(((2, 3, 4), (2, 4, 5)), {"subscripts": "bij,bjk->bik"}),
        Sample(((2, 3, 4), (2, 5, 4), (5,)), {"subscripts": "bik,bjk,j->bi"}),
        Sample(((2, 3, 4), (4, 2)), {"subscripts": "...k,kl->...l"}),
        Sample(((2,), (3,)), {"subscripts": "i,j->ji"}),
        Sample(((2, 3), (2, 3)), {"subscripts": "ij,ij->"}),
    ),
    gradients=(True, True, True),
    variadic=True,
    dtypes=("int64", *FLOATS),
)
def einsum(*operands: Any, subscripts: str = "") -> Tensor:
    """Return sums of products of tensors, ``einsum("ij,jk->ik", x, y)``, by Einstein's summation convention.

    Operands are combined from left to right, two at a time, each pair as one matrix product.

    Parameters
    ----------
    subscripts : str
        The first argument: letters for the dimensions of each operand, and after ``->`` those of the result; ``...``
        for any others.
    *operands : tensors

    Raises
    ------
    ShapeError
        If the subscripts do not fit the shapes.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.einsum("ij,j->i", ln.asarray([[1.0, 2.0], [3.0, 4.0]]), ln.asarray([1.0, 1.0])).tolist()
    [3.0, 7.0]
    """
    given: list[Any] = list(operands)
    text: str = subscripts or given.pop(0)
    if len(given) == 1 and isinstance(given[0], list | tuple):
        given = list(given[0])
    tensors = [x if isinstance(x, Tensor) else Tensor(x) for x in given]
    letters, result = _parsed(text, tensors)
    terms = [_distinct(x, own) for x, own in zip(tensors, letters, strict=True)]
    sizes = _sizes(terms, text)
    if missing := set(result) - sizes.keys():
        raise ShapeError(f"einsum: {sorted(missing)} of the result of {text!r} are in no operand")
    terms = [_stretched(term, sizes) for term in terms]
    current = terms.pop(0)
    while terms:
        needed = set(result).union(*(own for _, own in terms[1:]))
        shared = needed | set(terms[0][1])
        current = _product(_without(current, shared), _without(terms.pop(0), needed | set(current[1])), needed, sizes)
    return _ordered(_without(current, set(result)), result)
