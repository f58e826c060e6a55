"""Reading, writing and ordering of elements."""
