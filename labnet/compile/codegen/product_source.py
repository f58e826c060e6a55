"""Source of products of matrices: small ones as tiles and loops, the others as calls of BLAS with legal arguments."""

from collections.abc import Sequence
from dataclasses import dataclass

from labnet.compile.intrinsics.tiling import SMALL, WIDTH, evenly, tallest
from labnet.compile.ir.values import Value, leading
from labnet.compile.native.processor import registers

#: BLAS's constants for a row-major matrix, and for a transposed one.
_PLAIN, _TURNED = 111, 112


@dataclass(frozen=True)
class Factor:
    """A matrix that generated code multiplies.

    Attributes
    ----------
    rows, columns : int
    pointer : str
        Source of the pointer to its first element.
    turned : bool
        Whether it lies transposed in memory.
    step : int
        Its leading dimension: elements from one row in memory to the next.
    """

    rows: int
    columns: int
    pointer: str
    turned: bool
    step: int

    @classmethod
    def of(cls, value: Value, pointer: str) -> "Factor":
        """Return the matrices that a value holds."""
        found = leading(value)
        if found is None:
            raise RuntimeError(f"matmul: {value!r} lies in memory neither by rows nor by columns")
        rows, columns = value.shape[-2:]
        return cls(rows, columns, pointer, *found)

    @property
    def down(self) -> int:
        """Elements in memory from one row to the next."""
        return 1 if self.turned else self.step

    @property
    def right(self) -> int:
        """Elements in memory from one column to the next."""
        return self.step if self.turned else 1

    @property
    def transposed(self) -> "Factor":
        """The transpose, where the matrix lies."""
        return Factor(self.columns, self.rows, self.pointer, not self.turned, self.step)

    def blas(self) -> tuple[int, str, int]:
        """Return the arguments of BLAS for the matrix: kind, pointer and leading dimension.

        Raises
        ------
        RuntimeError
            If BLAS would refuse the leading dimension: it prints to the terminal, and computes nothing.
        """
        least = max(self.rows if self.turned else self.columns, 1)
        if self.step < least:
            raise RuntimeError(f"matmul: a leading dimension of at least {least} was expected, got {self.step}")
        return _TURNED if self.turned else _PLAIN, self.pointer, self.step


def product_source(number: int, bits: int, left: Factor, right: Factor, out: str) -> list[str]:
    """Return the statements that compute ``out = left @ right``, where `out` is C-contiguous.

    Parameters
    ----------
    number : int
        Tells the names of this product from those of others.
    bits : int
        Of one element.
    """
    if right.columns == 1 and left.turned and not right.turned:  # sums of contiguous rows: the result as one row
        left, right = right.transposed, left.transposed
    if left.rows * right.columns * left.columns <= SMALL and not right.turned:
        return _small(number, bits, left, right, out)
    (kind, a, down_a), (other, b, down_b) = left.blas(), right.blas()
    sizes = f"{left.rows}, {right.columns}, {left.columns}"
    return [f"_product{bits}({kind}, {other}, {sizes}, {a}, {down_a}, {b}, {down_b}, {out})"]


def _small(number: int, bits: int, left: Factor, right: Factor, out: str) -> list[str]:
    columns = right.columns
    whole = columns - columns % WIDTH if bits == 32 else 0
    return _tiles(left, right, out, whole) + (_loops(number, left, right, out, whole) if whole < columns else [])


def _tiles(left: Factor, right: Factor, out: str, columns: int) -> list[str]:
    """Return the first columns, which are whole vectors, as calls of tiles that leave nothing out."""
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
    """Return the columns from `first` on as loops: some sums at a time stay in registers."""
    a, b, c = (f"{name}{number}" for name in ("left", "right", "out"))
    lines = [f"{name} = {pointer}" for name, pointer in zip((a, b, c), (left.pointer, right.pointer, out), strict=True)]
    lines.append(f"for i in range({left.rows}):")
    for start in range(first, right.columns, WIDTH):
        lines += ["    " + line for line in _sums(left, right, (a, b, c), start)]
    return lines


def _sums(left: Factor, right: Factor, names: Sequence[str], start: int) -> list[str]:
    """Return what computes up to `WIDTH` elements of row ``i`` side by side, from column `start` on."""
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
    """Return a pointer to an element further on, as source."""
    return f"_ahead({pointer}, {places})" if places else pointer
