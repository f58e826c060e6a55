"""Tile sizes of convolutions and products, shared by rules, generated code and intrinsics.

Does not import Numba, so that rules can. Sums stay in vector registers, so tile sizes follow the processor: 16
registers of 8 floats with AVX2, 32 of 16 with AVX-512.
"""

#: Maximum number of multiplications of a product without BLAS, and columns of it per vector.
SMALL, WIDTH = 4096, 8
#: Maximum number of rows of a register tile; see `tallest`.
TALLEST = 12
#: Rows and columns of a block that is transposed in registers.
SIDE = 8


def part_of_a_window(registers: int) -> int:
    """Return the maximum number of window elements that are processed at a time.

    Their images and filters stay in the nearest cache, of which larger tiles use more.
    """
    return 288 if registers >= 32 else 144


def tallest(wide: int, registers: int) -> int:
    """Return the number of rows of a register tile that is this many times 8 columns wide."""
    return TALLEST if wide == 2 and registers >= 32 else 6


def most_filters(wide: int, registers: int) -> int:
    """Return the number of filters whose sums fit the registers, beside the window vectors and one filter."""
    return max((registers - 1) // wide - 1, 1)


def widest(filters: int, registers: int) -> int:
    """Return the number of vectors of windows per register tile: two or three for many filters, more for few."""
    broad = 3 if registers >= 32 else 2
    return (registers - 1) // (min(filters, most_filters(broad, registers)) + 1)


def evenly(count: int, most: int) -> list[tuple[int, int, int]]:
    """Split a length evenly into parts of at most `most`, as (first, size, count).

    Examples
    --------
    >>> evenly(16, 6)
    [(0, 6, 1), (6, 5, 2)]
    """
    if not count:
        return []
    parts = -(-count // most)
    size, larger = divmod(count, parts)
    found = [(0, size + 1, larger), (larger * (size + 1), size, parts - larger)]
    return [each for each in found if each[2]]
