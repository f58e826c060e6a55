"""Layers: modules with a forward pass."""
