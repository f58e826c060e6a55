"""Monitoring of servers: samplers, op statistics, Prometheus, OpenAPI."""
