"""NumPy's protocols for arrays of the GPU: universal functions, the other functions, and indexing."""
