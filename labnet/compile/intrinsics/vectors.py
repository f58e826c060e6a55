"""LLVM instructions on vectors of float32, for other intrinsics."""

# mypy: ignore-errors
# llvmlite has no types.

from llvmlite import ir
from numba.core import cgutils

LANE, WORD = ir.IntType(32), ir.IntType(64)
_LOOSE = ("contract", "reassoc")  # allows fused multiply-add


class Vectors:
    """Emits instructions on vectors of a number of lanes."""

    def __init__(self, builder, lanes):
        self.builder, self.lanes = builder, lanes
        self.row = ir.VectorType(ir.FloatType(), lanes)
        self._none = ir.Constant(self.row, ir.Undefined)

    def ahead(self, pointer, places):
        """Return a pointer advanced by `places` elements, a Python integer or a computed one."""
        return self.builder.gep(pointer, [WORD(places) if isinstance(places, int) else places])

    def times(self, number, factor):
        """Return a computed integer times a constant."""
        return self.builder.mul(number, WORD(factor))

    def _at(self, pointer, places, row):
        return self.builder.bitcast(self.ahead(pointer, places), row.as_pointer())

    def read(self, pointer, place):
        """Return one number."""
        return self.builder.load(self.ahead(pointer, place))

    def load(self, pointer, places=0, lanes=None):
        """Load a vector of contiguous elements; `lanes` overrides the number of lanes."""
        row = ir.VectorType(ir.FloatType(), lanes or self.lanes)
        return self.builder.load(self._at(pointer, places, row), align=4)

    def store(self, row, pointer, places=0):
        """Store a vector."""
        self.builder.store(row, self._at(pointer, places, row.type), align=4)

    def picked(self, row, lanes):
        """Return a vector of some lanes of another vector."""
        return self._mixed(row, ir.Constant(row.type, ir.Undefined), lanes)

    def interleaved(self, rows):
        """Interleave rows: the first lanes of all rows, then the second ones, and so on."""
        joined = rows[0]
        for position, row in enumerate(rows[1:], 2):
            width = joined.type.count
            padded = self.picked(row, [*range(self.lanes), *[0] * (width - self.lanes)])
            joined = self._mixed(joined, padded, range(position * self.lanes))
        return self.picked(joined, [j * self.lanes + i for i in range(self.lanes) for j in range(len(rows))])

    def _mixed(self, first, second, lanes):
        chosen = list(lanes)
        return self.builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(LANE, len(chosen)), chosen))

    def greater(self, a, b):
        """Return the elementwise maximum; NaN propagates."""
        kept = self.builder.or_(self.builder.fcmp_ordered(">", a, b), self.builder.fcmp_unordered("uno", a, a))
        return self.builder.select(kept, a, b)

    def spread(self, number):
        """Broadcast a number to all lanes."""
        first = self.builder.insert_element(self._none, number, LANE(0))
        return self.builder.shuffle_vector(
            first, self._none, ir.Constant(ir.VectorType(LANE, self.lanes), [0] * self.lanes)
        )

    def totals(self, rows):
        """Return accumulator variables with these initial vectors."""
        found = [cgutils.alloca_once(self.builder, self.row) for _ in rows]
        for total, row in zip(found, rows, strict=True):
            self.builder.store(row, total)
        return found

    def add(self, total, x, y):
        """Add a product to an accumulator."""
        product = self.builder.fmul(x, y, flags=_LOOSE)
        self.builder.store(self.builder.fadd(product, self.builder.load(total), flags=_LOOSE), total)

    def sum(self, row):
        """Return the sum of all lanes."""
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), self.row])
        add = self.builder.module.declare_intrinsic(f"llvm.vector.reduce.fadd.v{self.lanes}f32", fnty=kind)
        return self.builder.call(add, [ir.Constant(ir.FloatType(), 0.0), row], fastmath=_LOOSE)

    def constant(self, numbers):
        """Return a pointer to constant integers."""
        kind = ir.ArrayType(WORD, len(numbers))
        found = cgutils.global_constant(self.builder.module, "steps", ir.Constant(kind, list(numbers)))
        return self.builder.bitcast(found, WORD.as_pointer())

    def clear(self, pointer, count):
        """Write a number of zeros."""
        with self.loop(count) as place:
            self.builder.store(ir.Constant(ir.FloatType(), 0.0), self.ahead(pointer, place.index))

    def copy(self, source, target, count, step=1):
        """Copy elements that are `step` apart to contiguous memory."""
        if step > 1 or count < self.lanes:
            with self.loop(count) as place:
                number = self.read(source, self.times(place.index, step))
                self.builder.store(number, self.ahead(target, place.index))
            return
        with self.loop(count // self.lanes) as block:
            place = self.times(block.index, self.lanes)
            self.store(self.load(source, place), target, place)
        if count % self.lanes:
            self.store(self.load(source, count - self.lanes), target, count - self.lanes)

    def loop(self, count):
        """Loop a number of times; yield the index."""
        return cgutils.for_range(self.builder, WORD(count), intp=WORD)
