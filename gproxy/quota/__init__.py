"""Reservations in rate limits, quotas and budgets, and the errors raised when they have no room."""
