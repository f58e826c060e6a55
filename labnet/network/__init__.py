"""Serving and calling models over HTTP."""
