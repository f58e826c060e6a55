"""The physical floor of a compiled step: what its products and its memory traffic take at the rates of this machine.

Products count with their multiplications and additions at the rate of a large product of NumPy's BLAS; memory with
every argument, parameter, state and result once, at the rate of a copy of that many bytes. Both can overlap, so the
floor is the greater of the two. The rates are measured in the same rounds as the step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from labnet.compile.ir.cost import flops
from labnet.compile.ir.values import Program

#: Side of the product that stands for the rate of BLAS: large enough to reach it, small enough to stay in the cache.
SIDE = 384
#: Kinds of values that are work for BLAS.
PRODUCTS = ("matmul", "call")


@dataclass(frozen=True)
class Work:
    """What a step cannot do without: floating-point operations of products, and bytes in and out."""

    flops: int
    nbytes: int

    @classmethod
    def of(cls, program: Program) -> "Work":
        """Count the work of a program."""
        values = program.values()
        sources = [value for value in values if value.kind == "source"]
        moved = sum(value.nbytes for value in sources) + sum(store.value.nbytes for store in program.stores)
        return cls(sum(flops(value) for value in values if value.kind in PRODUCTS), moved)

    def tasks(self) -> dict[str, Callable[[], object]]:
        """Return what measures the rates of this machine for such work, by name."""
        a = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype("float32")
        out, source = np.empty_like(a), np.zeros(max(self.nbytes // 8, 64), np.float32)
        target = np.empty_like(source)
        return {"product": lambda: np.matmul(a, a, out=out), "copy": lambda: np.copyto(target, source)}

    def seconds(self, times: dict[str, float]) -> float:
        """Return the floor, given how long the tasks took."""
        rate = 2 * SIDE**3 / times["product"]
        bandwidth = max(self.nbytes // 8, 64) * 8 / times["copy"]
        return max(self.flops / rate, self.nbytes / bandwidth)
