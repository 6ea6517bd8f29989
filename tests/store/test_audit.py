"""What is kept of a change: what was and what is, once it is done, and nothing of what was not."""

import json
from pathlib import Path

import pytest

from gproxy.errors import BadRequest
from gproxy.store import audit, entities
from gproxy.store.audit import Actor
from gproxy.store.database import Database
from gproxy.store.sealing import new_seal
from tests.sample_db import SECRET, filled

ACTOR = Actor(1, "root", 2, "192.0.2.1", "req_1", "admin/x")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return filled(tmp_path)


def put(database: Database, entity, *rows: dict, seal=None) -> list[int]:
    return database.run(audit.audited, database, ACTOR, seal, entities.put, entity, rows)


def noted(database: Database, **asked) -> list[dict]:
    return database.run(audit.query, asked)


def test_only_what_changed_is_told(database):
    put(database, entities.PROVIDER, {"id": 1, "label": "New", "name": "one"})
    (row,) = noted(database)
    assert row["changes"] == {"what": "changed", "fields": {"label": [None, "New"]}}
    assert (row["entity"], row["entity_id"], row["user_name"], row["address"]) == (
        "providers",
        "1",
        "root",
        "192.0.2.1",
    )
    put(database, entities.PROVIDER, {"id": 1, "label": "New"})
    assert len(noted(database)) == 1


def test_what_was_taken_back_is_not_told(database):
    with pytest.raises(BadRequest):
        put(database, entities.PROVIDER, {"name": "three", "channel": "openai"}, {"name": "one", "channel": "openai"})
    assert noted(database) == []
    assert [row["name"] for row in database.run(entities.find, entities.PROVIDER, {})] == ["one", "two"]


def test_a_secret_is_a_fingerprint_that_a_seal_does_not_change(database):
    seal, _ = new_seal("a-seal")
    first = {"provider_id": 1, "secret_json": entities.sealed({"api_key": SECRET}, seal)}
    (row_id,) = put(database, entities.CREDENTIAL, first, seal=seal)
    again = {"id": row_id, "secret_json": entities.sealed({"api_key": SECRET}, seal)}
    put(database, entities.CREDENTIAL, again, seal=seal)
    rows = noted(database)
    assert len(rows) == 1  # sealed anew it is the same
    told = rows[0]["changes"]["fields"]["secret"][1]
    assert told.startswith("sha256:")
    assert SECRET not in str(rows)
    assert told == audit.fingerprint(json.dumps({"api_key": SECRET}), None)


def test_questions_by_who_and_what(database):
    for n in range(5):
        put(database, entities.MODEL, {"provider_id": 1, "model_id": f"m-{n}"})
    put(database, entities.USER, {"name": "bob"})
    assert [row["entity"] for row in noted(database, limit=2)] == ["users", "models"]
    assert len(noted(database, entity=["models"])) == 5
    assert noted(database, user_id=[99]) == []
    rows = noted(database, entity=["models"])
    assert [row["id"] for row in noted(database, before_id=rows[1]["id"], entity=["models"])] == [
        row["id"] for row in rows[2:]
    ]


def test_without_an_actor_nothing_is_noted(database):
    database.run(entities.put, database, entities.USER, [{"name": "carl"}])
    assert noted(database) == []
