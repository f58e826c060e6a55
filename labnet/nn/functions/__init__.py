"""Functions for models, by family; `labnet.nn.functional` collects them."""
