"""Machine code of the CPU: its cache on the disk, its loader, and the child process that compiles.

Nothing here imports Numba, so a process that finds its code on the disk starts quickly and stays small.
"""
