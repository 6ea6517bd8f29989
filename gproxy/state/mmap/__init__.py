"""Shared state of one machine: a crash-safe table in a file that its workers map into memory."""
