"""The only package that depends on the insides of CPython, NumPy, Numba and LLVM.

It reads frames, object layouts and reference counts, compiles generated source to machine code, and loads it. It does
not know what a trace or a program is.
"""
