"""The HTTP side: Flask is imported here and in `app` and `cli` only. A view parses, calls one function, answers."""
