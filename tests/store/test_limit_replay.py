"""What a rate limit has counted, read from the usage rows."""

from pathlib import Path

import pytest

from gproxy.accounting.journal_reader import SettledCall
from gproxy.store import models as m
from gproxy.store import usages
from gproxy.store.database import Database
from gproxy.store.limit_replay import HOUR_NS, MINUTE_NS, replay_limit
from tests import postgres
from tests.sample_db import filled

NOW = 500_000 * HOUR_NS + 1_800_000_000_000
KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


def filled_database(kind: str, folder: Path, config: pytest.Config) -> Database:
    dsn = f"sqlite:///{folder / 'gproxy.db'}" if kind == "sqlite" else postgres.fresh_database(config)
    return filled(folder, dsn)


def store(database: Database, *calls: tuple) -> None:
    """Stores calls of (id, time, user, key, model, tokens)."""
    rows = [{name: None for name in usages.COLUMNS} for _ in calls]
    for row, (trace_id, at, user, key, model, tokens) in zip(rows, calls, strict=True):
        counts = dict.fromkeys((name for name in row if name.endswith(("tokens", "5min", "1h"))), 0)
        row |= counts | {"trace_id": trace_id, "at": at, "user_id": user, "user_key_id": key, "model": model}
        row |= {
            "downstream_trace_id": None,
            "request_id": "r",
            "operation": "o",
            "protocol": "p",
            "outcome": "complete",
            "losses": "[]",
            "tries": "[]",
        }
        row |= {"cost": 0, "priced": True, "estimated": False, "attempts": 1, "tries": "[]"}
        row |= dict(zip(("input_tokens", "output_tokens", "cache_read_input_tokens"), tokens, strict=True))
    database.run(usages.insert, database, [SettledCall(row, "segment", n) for n, row in enumerate(rows, 1)])


def limit(database: Database, created_at: int = 0, key: int | None = None) -> int:
    stamps = {"created_at": created_at, "updated_at": created_at}
    return database.run(lambda: m.RateLimit.create(user=1, key=key, model_pattern="gpt-*", rpm=1, **stamps).id)


@KINDS
def test_rows_are_counted_by_hour_and_model_and_the_last_minute_is_listed(kind, tmp_path, pytestconfig):
    database = filled_database(kind, tmp_path, pytestconfig)
    number = limit(database)
    store(
        database,
        (1, NOW - 2 * HOUR_NS, 1, 1, "gpt-4", (1, 2, 4)),
        (2, NOW - 2 * HOUR_NS + 5, 1, 1, "gpt-4", (10, 20, 40)),
        (3, NOW - MINUTE_NS, 1, 2, "gpt-5", (100, 0, 0)),
        (4, NOW - 5, 1, 1, "claude", (0, 7, 0)),
        (5, NOW - 9, 1, 1, "gpt-4", (0, 8, 0)),
        (6, NOW - 5, 2, 3, "gpt-4", (99, 99, 99)),  # of another user
        (7, NOW - 30 * HOUR_NS, 1, 1, "gpt-4", (99, 99, 99)),  # long ago
    )
    found = database.run(replay_limit, number, NOW - 25 * HOUR_NS, NOW, [1, 5, 77])
    assert (found.user_id, found.key_id, found.since) == (1, None, NOW - 25 * HOUR_NS)
    assert sorted(found.hours) == [
        (499_998, "gpt-4", 2, 77),
        (500_000, "claude", 1, 7),
        (500_000, "gpt-4", 1, 8),
        (500_000, "gpt-5", 1, 100),
    ]
    assert found.recent == ((NOW - 9, "gpt-4"), (NOW - 5, "claude"))
    assert found.stored == {1, 5}
    assert (found.applies_to("gpt-9"), found.applies_to("claude")) == (True, False)


@KINDS
def test_a_limit_counts_since_it_was_created_and_a_keys_limit_only_its_key(kind, tmp_path, pytestconfig):
    database = filled_database(kind, tmp_path, pytestconfig)
    key = database.run(lambda: m.UserKey.select().where(m.UserKey.user == 1).order_by(m.UserKey.id).first().id)
    store(
        database,
        (1, NOW - 30, 1, key, "gpt-4", (1, 0, 0)),
        (2, NOW - 10, 1, key, "gpt-4", (2, 0, 0)),
        (3, NOW - 9, 1, key + 1000, "gpt-4", (4, 0, 0)),
    )
    found = database.run(replay_limit, limit(database, NOW - 20, key), 0, NOW, [])
    assert (found.key_id, found.since) == (key, NOW - 20)
    assert found.hours == ((500_000, "gpt-4", 1, 2),)
    assert database.run(replay_limit, 999, 0, NOW, []) is None


def test_a_limit_does_not_apply_to_models_of_a_more_specific_one(tmp_path, pytestconfig):
    database = filled_database("sqlite", tmp_path, pytestconfig)
    number = limit(database)
    stamps = {"created_at": 0, "updated_at": 0}
    exact = database.run(lambda: m.RateLimit.create(user=1, model_pattern="gpt-4", rpm=1, **stamps).id)
    wide, narrow = (database.run(replay_limit, one, 0, NOW, []) for one in (number, exact))
    assert (wide.applies_to("gpt-4"), wide.applies_to("gpt-5")) == (False, True)
    assert (narrow.applies_to("gpt-4"), narrow.applies_to("gpt-5")) == (True, False)
