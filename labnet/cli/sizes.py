"""Formatting of sizes."""


def size(nbytes: int) -> str:
    """Format a number of bytes with a unit.

    Examples
    --------
    >>> size(1234), size(12_345_678)
    ('1.2 kB', '12.3 MB')
    """
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:.1f} kB"
