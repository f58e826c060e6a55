"""Calls of NumPy's inner loops from kernels, on blocks of memory."""

# mypy: ignore-errors
# Numba finds the types.

from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from labnet.kernels.numpy_loops import symbol

_BYTES, _WORD = ir.IntType(8).as_pointer(), ir.IntType(64)
_FUNCTION = ir.FunctionType(
    ir.VoidType(), [_BYTES.as_pointer(), _WORD.as_pointer(), _WORD.as_pointer(), _BYTES]
).as_pointer()


def ufunc_call(name: str, dtypes: str) -> Any:
    """Return a function for kernels that runs a loop of NumPy on elements that lie side by side.

    It takes the addresses of the operands, inputs before the output, and the number of elements. The output may be an
    input.

    Parameters
    ----------
    name : str
        Of the universal function.
    dtypes : str
        A character per operand, such as ``"ff"`` for float32 to float32.
    """
    count = len(dtypes)
    steps = [np.dtype(one).itemsize for one in dtypes]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *addresses, length = arguments
        module, title = builder.module, symbol(name, dtypes)
        loop = module.globals.get(title) or ir.GlobalVariable(module, ir.LiteralStructType([_FUNCTION, _BYTES]), title)
        places = [
            cgutils.alloca_once(builder, ir.ArrayType(kind, size))
            for kind, size in ((_BYTES, count), (_WORD, 1), (_WORD, count))
        ]
        start = _WORD(0)
        for position, (address, step) in enumerate(zip(addresses, steps, strict=True)):
            builder.store(builder.inttoptr(address, _BYTES), builder.gep(places[0], [start, _WORD(position)]))
            builder.store(_WORD(step), builder.gep(places[2], [start, _WORD(position)]))
        builder.store(length, builder.gep(places[1], [start, start]))
        function = builder.load(cgutils.gep_inbounds(builder, loop, 0, 0))
        data = builder.load(cgutils.gep_inbounds(builder, loop, 0, 1))
        builder.call(function, [*(builder.gep(place, [start, start]) for place in places), data])
        return context.get_dummy_value()

    if count == 2:

        @intrinsic
        def call(context: Any, source: Any, target: Any, length: Any) -> Any:
            return types.none(int64, int64, int64), generate

    else:

        @intrinsic
        def call(context: Any, first: Any, second: Any, target: Any, length: Any) -> Any:
            return types.none(int64, int64, int64, int64), generate

    return call
