"""Request logs: recording of requests and attempts, redaction of secrets, and the spool on disk."""
