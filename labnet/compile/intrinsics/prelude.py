"""Names that every generated file imports: types, options, and the decorators of its functions."""

# mypy: ignore-errors
# Numba finds the types.

import math

import numpy as np
from numba import boolean, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64

from labnet.compile.native.abi import Layout
from labnet.compile.native.options import OPTIONS


def njit(*layout, **options):
    """Mark the function of a generated file that `labnet.compile.native.numba_compiler` compiles."""
    return lambda function: (function, Layout(*layout), options)


def part(function):
    """Mark a function of a generated file that continues the previous one, with the same arguments."""
    return function


__all__ = ["OPTIONS", "boolean", "float32", "float64", "int8", "int16", "int32", "int64", "math", "njit", "np", "part"]
__all__ += ["uint8", "uint16", "uint32", "uint64"]
