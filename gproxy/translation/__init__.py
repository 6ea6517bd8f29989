"""Translates requests, replies and streams between two protocols, through the hub."""
