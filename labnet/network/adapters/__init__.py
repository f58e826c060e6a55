"""Adapters that serve compiled models and models on a GPU like any other model."""
