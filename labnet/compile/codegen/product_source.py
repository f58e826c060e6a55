"""Source of matrix products: small ones as tiles and loops, others as calls of BLAS."""

from collections.abc import Sequence
from dataclasses import dataclass

from labnet.compile.intrinsics.tiling import SMALL, WIDTH, evenly, tallest
from labnet.compile.ir.values import Value, leading
from labnet.kernels.machine_code.processor import registers

#: BLAS's constants for a row-major matrix, and for a transposed one.
_PLAIN, _TRANSPOSED = 111, 112


@dataclass(frozen=True)
class Factor:
    """A factor of a matrix product in generated code.

    Attributes
    ----------
    rows, columns : int
    pointer : str
        Source of the pointer to its first element.
    is_transposed : bool
        Whether it is stored by columns.
    step : int
        The leading dimension: elements from one stored row to the next.
    """

    rows: int
    columns: int
    pointer: str
    is_transposed: bool
    step: int

    @classmethod
    def of(cls, value: Value, pointer: str) -> "Factor":
        """Return the factor for the matrices of a value."""
        found = leading(value)
        if found is None:
            raise RuntimeError(f"matmul: {value!r} lies in memory neither by rows nor by columns")
        rows, columns = value.shape[-2:]
        return cls(rows, columns, pointer, *found)

    @property
    def down(self) -> int:
        """Elements in memory from one row to the next."""
        return 1 if self.is_transposed else self.step

    @property
    def right(self) -> int:
        """Elements in memory from one column to the next."""
        return self.step if self.is_transposed else 1

    @property
    def transposed(self) -> "Factor":
        """The transpose in the same memory."""
        return Factor(self.columns, self.rows, self.pointer, not self.is_transposed, self.step)

    def blas(self) -> tuple[int, str, int]:
        """Return the arguments of BLAS for the matrix: kind, pointer and leading dimension.

        Raises
        ------
        RuntimeError
            If the leading dimension is illegal: BLAS would print to the terminal and compute nothing.
        """
        least = max(self.rows if self.is_transposed else self.columns, 1)
        if self.step < least:
            raise RuntimeError(f"matmul: a leading dimension of at least {least} was expected, got {self.step}")
        return _TRANSPOSED if self.is_transposed else _PLAIN, self.pointer, self.step


def product_source(number: int, bits: int, left: Factor, right: Factor, out: str) -> list[str]:
    """Return the statements that compute ``out = left @ right``, where `out` is C-contiguous.

    Parameters
    ----------
    number : int
        Makes the names of this product unique.
    bits : int
        Bits of an element.
    """
    if (
        right.columns == 1 and left.is_transposed and not right.is_transposed
    ):  # sums of contiguous rows: the result as one row
        left, right = right.transposed, left.transposed
    if left.rows * right.columns * left.columns <= SMALL and not right.is_transposed:
        return _small(number, bits, left, right, out)
    (kind, a, down_a), (other, b, down_b) = left.blas(), right.blas()
    sizes = f"{left.rows}, {right.columns}, {left.columns}"
    return [f"_product{bits}({kind}, {other}, {sizes}, {a}, {down_a}, {b}, {down_b}, {out})"]


def _small(number: int, bits: int, left: Factor, right: Factor, out: str) -> list[str]:
    columns = right.columns
    whole = columns - columns % WIDTH if bits == 32 else 0
    return _tiles(left, right, out, whole) + (_loops(number, left, right, out, whole) if whole < columns else [])


def _tiles(left: Factor, right: Factor, out: str, columns: int) -> list[str]:
    """Return calls of tiles for the first `columns`, which are whole vectors."""
    lines = []
    steps = (left.columns, left.down, left.right, right.step, right.columns)
    broad = columns // (2 * WIDTH)
    for start, wide, panels in ((0, 2, broad), (broad * 2 * WIDTH, 1, columns % (2 * WIDTH) // WIDTH)):
        for first, tall, times in evenly(left.rows, tallest(wide, registers()[0])) if panels else ():
            given = [
                moved(left.pointer, first * left.down),
                moved(right.pointer, start),
                moved(out, first * right.columns + start),
            ]
            lines.append(f"_tiles{tall}x{wide}({', '.join([*given, *map(str, (times, panels, *steps))])})")
    return lines


def _loops(number: int, left: Factor, right: Factor, out: str, first: int) -> list[str]:
    """Return loops for the columns from `first` on, with `WIDTH` sums at a time in registers."""
    a, b, c = (f"{name}{number}" for name in ("left", "right", "out"))
    lines = [f"{name} = {pointer}" for name, pointer in zip((a, b, c), (left.pointer, right.pointer, out), strict=True)]
    lines.append(f"for i in range({left.rows}):")
    for start in range(first, right.columns, WIDTH):
        lines += ["    " + line for line in _sums(left, right, (a, b, c), start)]
    return lines


def _sums(left: Factor, right: Factor, names: Sequence[str], start: int) -> list[str]:
    """Return statements for up to `WIDTH` elements of row ``i``, from column `start` on."""
    a, b, c = names
    block = range(start, min(start + WIDTH, right.columns))
    lines = [f"x = {a}[i * {left.down}]", *[f"s{j - start} = x * {b}[{j}]" for j in block]]
    if left.columns > 1:
        lines += [f"for k in range(1, {left.columns}):", f"    x = {a}[i * {left.down} + k * {left.right}]"]
        products = [f"_times(x, {b}[k * {right.step} + {j}])" for j in block]
        lines += [
            f"    s{j - start} = _added(s{j - start}, {product})" for j, product in zip(block, products, strict=True)
        ]
    return lines + [f"{c}[i * {right.columns} + {j}] = s{j - start}" for j in block]


def moved(pointer: str, places: int) -> str:
    """Return the source of a pointer advanced by a number of elements."""
    return f"_ahead({pointer}, {places})" if places else pointer
