"""Shared state of several machines in Redis, with a circuit breaker that falls back to the state of the machine."""
