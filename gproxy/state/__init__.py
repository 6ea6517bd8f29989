"""The state that the workers of a machine, or of several machines, share."""
