"""Source code for the groups of a program: one Python function per step, for Numba to compile.

Knows programs, memory plans and the names of the intrinsics; does not import these, and does not compile anything.
"""
