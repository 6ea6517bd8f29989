"""Speed: every place that replaces a part of a library on the request path.

Each file has one replacement: what it replaces, why, what it gains (measured), and the library's own way, which serves
when the replacement is switched off. `GPROXY_FASTPATH` names the replacements that are on: `all` (the default), `off`,
or file names of this folder separated by commas. The variable is read once, at import.
"""
