"""The only SQL. Functions are questions and deeds; what leaves the room are frozen dataclasses and plain values."""
