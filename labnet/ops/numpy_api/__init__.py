"""NumPy's functions on tensors, in terms of ops."""
