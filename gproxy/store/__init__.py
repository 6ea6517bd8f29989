"""The only SQL. Functions read or change rows and return frozen dataclasses and plain values, never peewee types."""
