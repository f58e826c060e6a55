"""Replication: a primary owns the weights of a model, and replicas follow them."""
