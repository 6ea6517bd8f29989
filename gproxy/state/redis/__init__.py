"""Several machines: the same state in Redis, and what takes its place while Redis is away."""
