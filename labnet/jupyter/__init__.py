"""Magics, panel and progress: what a person sees in a notebook."""
