"""The only sockets to vendors."""
