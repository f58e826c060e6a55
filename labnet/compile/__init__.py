"""Compiled steps: a function of tensors becomes one function of machine code.

`trace` records a run of the function, gradients and updates included, as a program of `ir`, whose passes simplify and
fuse it and plan its memory. `codegen` writes Python source, which calls `intrinsics` and which `native` compiles.
`backends` runs the result on the CPU or a GPU, and `dispatcher` chooses the compiled version that fits a call.
"""

from labnet.compile.dispatcher import Jitted, jit

__all__ = ["Jitted", "jit"]
