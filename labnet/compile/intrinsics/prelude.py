"""Names that every generated file imports: types, options, and the decorators of its functions."""

# mypy: ignore-errors
# Numba finds the types.

import math

import numpy as np
from numba import boolean, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64

from labnet.compile.native.abi import Layout


def function(*types):
    """Mark a function of a generated file, with the types of its parameters: dtypes of pointers, or ``number``."""
    return lambda body: (body, types)


def step(*layout):
    """Mark the list of calls of a generated file, which `labnet.compile.native.numba_compiler` reads."""
    return lambda _: Layout(*layout)


__all__ = ["boolean", "float32", "float64", "function", "int8", "int16", "int32", "int64", "math", "np", "step"]
__all__ += ["uint8", "uint16", "uint32", "uint64"]
