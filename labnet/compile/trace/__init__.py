"""Tracing: one run of a function on tensors without elements becomes a program, guards and effects.

Knows tensors, optimizers and the bytecode of the user's functions; does not know how a program is compiled or run.
"""
