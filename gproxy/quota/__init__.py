"""Reservations in rate limits, quotas and budgets, and the refusals when they have no room."""
