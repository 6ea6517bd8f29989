"""Authentication and permissions: API keys, sessions, passwords, rights, capacity. Contains no HTTP."""
