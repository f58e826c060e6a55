"""Compiled steps: a function of tensors becomes one machine-code function.

`trace` writes down what the function does, gradients and updates included; `simplify` removes what is not needed,
`fuse` puts elementwise work into common loops, `plan` gives every intermediate value its place in one arena,
`emit` writes Python that Numba compiles, and `jitted` decides whether a compiled step fits a call.
"""

from labnet.compile.dispatcher import Jitted, jit

__all__ = ["Jitted", "jit"]
