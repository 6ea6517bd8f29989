"""The credentials of providers: their order, their cooldowns, their own limits, and access tokens."""
