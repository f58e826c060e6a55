"""What answers requests: a port, its routes, who may call them, and each request once."""
