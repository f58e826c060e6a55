"""Kernels on whole arrays: reductions, scans, sorting, gathering, products, windows, random numbers, optimizers."""
