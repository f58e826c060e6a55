"""Tile sizes of convolutions and products, shared by rules, generated code and intrinsics.

Does not import Numba, so that rules can. Sums stay in vector registers, so tile sizes follow the processor: 16
registers of 8 floats with AVX2, 32 of 16 with AVX-512.
"""

#: Multiplications up to which a product is written out, and how many columns of it are computed side by side.
SMALL, WIDTH = 4096, 8
#: Rows of a small product whose sums are kept in registers, at most; see `tallest`.
TALLEST = 12
#: Rows and columns of a matrix that are transposed at a time.
SIDE = 8


def part_of_a_window(registers: int) -> int:
    """Return how many elements of windows are worked on at a time, at most.

    What they reach of images and filters stays in the nearest cache, of which larger tiles use more at a time.
    """
    return 288 if registers >= 32 else 144


def tallest(wide: int, registers: int) -> int:
    """Return the number of rows of a register tile that is this many times 8 columns wide."""
    return TALLEST if wide == 2 and registers >= 32 else 6


def most_filters(wide: int, registers: int) -> int:
    """Return the number of filters whose sums fit the registers, beside these vectors and one of a filter."""
    return max((registers - 1) // wide - 1, 1)


def widest(filters: int, registers: int) -> int:
    """Return the number of vectors of windows whose sums fit the registers for these filters: two or three for many.

    The fewer vectors, the fewer loads for each product; the fewer filters, the fewer parts that their number leaves.
    """
    broad = 3 if registers >= 32 else 2
    return (registers - 1) // (min(filters, most_filters(broad, registers)) + 1)


def evenly(count: int, most: int) -> list[tuple[int, int, int]]:
    """Return parts of at most this size that differ by at most one, as (first, size, how many of it).

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
