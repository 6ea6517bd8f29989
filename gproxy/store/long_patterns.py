"""Stored patterns beyond the bounds of `gproxy/patterns.py`: they keep working, and are named at the start."""

from collections.abc import Iterator

import peewee as pw

from gproxy import patterns
from gproxy.store import models as m

SHOWN_CHARS = 64


def describe() -> list[str]:
    """The aliases, permissions and rate limits whose pattern is beyond the bounds, each with its size."""
    return [f"{place} {_short(text)!r}: {patterns.problem(text)}" for place, text in _found()]


def _found() -> Iterator[tuple[str, str]]:
    for row in m.ModelAlias.select().where(_is_long(m.ModelAlias.alias)).order_by(m.ModelAlias.id):
        if "*" in row.alias:
            yield f"model_aliases[{row.id}].alias", row.alias
    for table, name in ((m.ModelPermission, "permissions"), (m.RateLimit, "rate_limits")):
        query = table.select(table, m.User).join(m.User).where(_is_long(table.model_pattern)).order_by(table.id)
        for row in query:
            owner = f"user {row.user.name!r}" if row.key_id is None else f"key {row.key_id} of user {row.user.name!r}"
            yield f"{owner}: {name}[{row.id}].model_pattern", row.model_pattern


def _is_long(column: pw.Field) -> pw.Expression:
    stars = pw.fn.LENGTH(column) - pw.fn.LENGTH(pw.fn.REPLACE(column, "*", ""))
    return (pw.fn.LENGTH(column) > patterns.MAX_CHARS) | (stars > patterns.MAX_STARS)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"
