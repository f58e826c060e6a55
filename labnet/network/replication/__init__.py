"""Several servers of one model: a primary, and replicas that follow its weights."""
