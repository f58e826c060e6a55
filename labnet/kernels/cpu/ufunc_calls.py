"""Calls of NumPy's inner loops from kernels, on blocks of memory."""

# mypy: ignore-errors
# Numba finds the types.

from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from labnet.kernels.numpy_loops import link, symbol

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
    link([symbol(name, dtypes)])  # Numba loads the functions inside of a kernel into this process too

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *addresses, length = arguments
        call_loop(builder, name, dtypes, [builder.inttoptr(one, _BYTES) for one in addresses], length)
        return context.get_dummy_value()

    if len(dtypes) == 2:

        @intrinsic
        def call(context: Any, source: Any, target: Any, length: Any) -> Any:
            return types.none(int64, int64, int64), generate

    else:

        @intrinsic
        def call(context: Any, first: Any, second: Any, target: Any, length: Any) -> Any:
            return types.none(int64, int64, int64, int64), generate

    return call


def call_loop(builder: Any, name: str, dtypes: str, places: list[Any], length: Any) -> None:
    """Emit the call of a loop of NumPy, given pointers to the operands; see `ufunc_call`."""
    module, title, start = builder.module, symbol(name, dtypes), _WORD(0)
    loop = module.globals.get(title) or ir.GlobalVariable(module, ir.LiteralStructType([_FUNCTION, _BYTES]), title)
    pointers, count, steps = [
        cgutils.alloca_once(builder, ir.ArrayType(kind, size))
        for kind, size in ((_BYTES, len(dtypes)), (_WORD, 1), (_WORD, len(dtypes)))
    ]
    for position, (place, dtype) in enumerate(zip(places, dtypes, strict=True)):
        builder.store(builder.bitcast(place, _BYTES), builder.gep(pointers, [start, _WORD(position)]))
        builder.store(_WORD(np.dtype(dtype).itemsize), builder.gep(steps, [start, _WORD(position)]))
    builder.store(length, builder.gep(count, [start, start]))
    function, data = [builder.load(cgutils.gep_inbounds(builder, loop, 0, field)) for field in (0, 1)]
    builder.call(function, [*(builder.gep(place, [start, start]) for place in (pointers, count, steps)), data])
