"""Servers that run uploaded model files, each in a process of its own."""
