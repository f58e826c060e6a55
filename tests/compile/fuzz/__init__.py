"""Random programs, compiled and compared with eager ones: ``python -m tests.compile.fuzz --programs 2000``.

`graphs` draws what a function computes, `captures` what it finds in its surroundings and how that changes between
calls, `training` what it does with gradients, `drawing` puts them together. `judge` runs a program eagerly and
compiled, `reduction` makes one that fails smaller, `workers` does all that in processes of their own.
"""
