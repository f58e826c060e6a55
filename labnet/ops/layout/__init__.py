"""Shapes of tensors, and joining of tensors."""
