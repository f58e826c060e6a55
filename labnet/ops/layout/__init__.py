"""Shapes of tensors, and joining."""
