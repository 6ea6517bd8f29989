"""Flask lives here and nowhere else: parse, call one thing, answer."""
