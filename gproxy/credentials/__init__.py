"""The credentials of providers: their order, cooldowns and own limits, and access tokens."""
