"""Reading rows that an operator writes; the journeys and `tests/web` change them."""

from pathlib import Path

import pytest

from gproxy.store import entities
from gproxy.store.database import Database
from gproxy.store.seeding import NewCredential, secret_json
from tests import postgres
from tests.sample_db import filled, provider


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path: Path) -> Database:
    dsn = None if request.param == "sqlite" else postgres.fresh_database(request.config)
    credentials = [NewCredential(secret_json(api_key=f"sk-{n}"), enabled=n > 0) for n in range(3)]
    return filled(tmp_path, dsn, providers=(provider("one", *credentials), provider("two")))


def test_credentials_are_counted_by_provider(database):
    assert database.run(entities.credential_counts, [1, 2]) == {1: 3}
    assert database.run(entities.credential_counts, [2]) == {}
    assert database.run(entities.credential_counts, []) == {}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["one", "two"]),
        ({"limit": 1, "offset": 0}, ["one"]),
        ({"limit": 5, "offset": 1}, ["two"]),
        ({"limit": None, "offset": 1}, ["two"]),
        ({"name": ["two"], "limit": 1, "offset": 0}, ["two"]),
    ],
)
def test_rows_are_found_by_values_and_in_pages(database, filters, found):
    assert [row["name"] for row in database.run(entities.find, entities.PROVIDER, filters)] == found
