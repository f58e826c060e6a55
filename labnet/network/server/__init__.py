"""The server side: ports, routes, authorization and idempotency."""
