"""The intermediate representation of a traced function, and the passes over it.

Knows shapes, dtypes and operations; does not know how a trace is made or which backend runs a program.
"""
