"""What a server tells of itself and of others: samples, op statistics, Prometheus, OpenAPI."""
