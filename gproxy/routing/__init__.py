"""Routing: from the model name that a client sent to an ordered list of targets."""
