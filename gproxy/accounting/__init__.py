"""Prices and costs of calls, the usage journal on disk, and its way into the database."""
