"""A served model: its graphs, backwards, updates and rounds, and how it recovers."""
