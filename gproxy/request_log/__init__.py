"""Logged requests: what is recorded, how it is redacted, and the spool on disk."""
