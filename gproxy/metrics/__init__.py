"""Prometheus metrics: their families, counting calls, the values of all workers, and the text format."""
