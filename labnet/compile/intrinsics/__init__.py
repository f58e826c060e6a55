"""Functions that generated code calls, compiled by Numba or written in LLVM's instructions.

Generated files import them by name, and the cache hashes their sources. Importing this package alone does not load
Numba.
"""
