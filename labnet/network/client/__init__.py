"""What calls servers: sessions, retries, remote models and their gradients."""
