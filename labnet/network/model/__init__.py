"""A served model: its graphs, backwards, updates, accumulation rounds and recovery."""
