"""Patterns beyond the bounds: each is named once, with its place, its owner and the bound."""

from pathlib import Path

import pytest

from gproxy.store import long_patterns
from gproxy.store.seeding import NewAlias, NewLimit, NewTarget
from tests import postgres
from tests.sample_db import filled

STARS, CHARS = "*-" * 120, "a*" + "b" * 300


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_stored_patterns_beyond_the_bounds_are_named(kind, tmp_path: Path, request):
    dsn = None if kind == "sqlite" else postgres.fresh_database(request.config)
    targets = (NewTarget("one", "m"),)
    database = filled(
        tmp_path,
        dsn,
        aliases=tuple(NewAlias(name, True, targets) for name in ("gpt-*", "x" * 300, STARS)),
        permissions=(("ann", None, "*"), ("ann", None, CHARS), ("ann", "one", "*" * 16)),
        limits=(("ann", NewLimit(STARS, 5, None, None, None)), ("ann", NewLimit("*" + "b" * 255, 5, None, None, None))),
    )
    assert database.run(long_patterns.describe) == [
        f"model_aliases[3].alias {STARS[:64] + '…'!r}: "
        "a pattern has at most 16 stars (`*`), this one has 120; use fewer",
        f"user 'ann': permissions[2].model_pattern {CHARS[:64] + '…'!r}: "
        "a pattern has at most 256 characters, this one has 302; shorten it",
        f"user 'ann': rate_limits[1].model_pattern {STARS[:64] + '…'!r}: "
        "a pattern has at most 16 stars (`*`), this one has 120; use fewer",
    ]
