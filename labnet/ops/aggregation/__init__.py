"""Reductions, scans, statistics and matrix products."""
