"""NumPy's functions on tensors: what they are in ops, and what becomes of those that are no ops."""
