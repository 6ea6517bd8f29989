"""One call between two protocols: its request and its reply through the hub."""
