"""Source of generated kernels: expressions of elementwise operations, and the loops that compute them."""
