"""Prometheus metrics: their families, where calls are counted, and their text."""
