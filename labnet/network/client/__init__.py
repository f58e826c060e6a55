"""The client side: sessions, retries, remote models and their gradients."""
