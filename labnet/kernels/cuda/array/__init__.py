"""Arrays in the memory of a GPU: layout, pending expressions, and memory that is shared with other libraries."""
