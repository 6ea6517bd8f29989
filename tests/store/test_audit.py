"""The audit log: values before and after each committed change, and no entry for one that was rolled back."""

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
    return database.run(audit.run_audited, database, ACTOR, seal, entities.put, entity, rows)


def logged(database: Database, **filters) -> list[dict]:
    return database.run(audit.query, filters)


def test_only_changed_columns_are_logged(database):
    put(database, entities.PROVIDER, {"id": 1, "label": "New", "name": "one"})
    (row,) = logged(database)
    assert row["changes"] == {"what": "changed", "fields": {"label": [None, "New"]}}
    assert (row["entity"], row["entity_id"], row["user_name"], row["address"]) == (
        "providers",
        "1",
        "root",
        "192.0.2.1",
    )
    put(database, entities.PROVIDER, {"id": 1, "label": "New"})
    assert len(logged(database)) == 1


def test_entries_are_listed_in_pages(database):
    for label in "abc":
        put(database, entities.PROVIDER, {"id": 1, "label": label})
    labels = [row["changes"]["fields"]["label"][1] for row in logged(database, limit=2, offset=1)]
    assert labels == ["b", "a"]


def test_a_change_that_is_rolled_back_is_not_logged(database):
    with pytest.raises(BadRequest):
        put(database, entities.PROVIDER, {"name": "three", "channel": "openai"}, {"name": "one", "channel": "openai"})
    assert logged(database) == []
    assert [row["name"] for row in database.run(entities.find, entities.PROVIDER, {})] == ["one", "two"]


def test_a_secret_is_logged_as_a_fingerprint_that_sealing_does_not_change(database):
    seal, _ = new_seal("a-seal")
    first = {"provider_id": 1, "secret_json": entities.seal_secret({"api_key": SECRET}, seal)}
    (row_id,) = put(database, entities.CREDENTIAL, first, seal=seal)
    again = {"id": row_id, "secret_json": entities.seal_secret({"api_key": SECRET}, seal)}
    put(database, entities.CREDENTIAL, again, seal=seal)
    rows = logged(database)
    assert len(rows) == 1  # sealed again it has the same fingerprint
    logged_secret = rows[0]["changes"]["fields"]["secret"][1]
    assert logged_secret.startswith("sha256:")
    assert SECRET not in str(rows)
    assert logged_secret == audit.fingerprint(json.dumps({"api_key": SECRET}), None)


def test_the_log_is_filtered_by_entity_user_and_id(database):
    for n in range(5):
        put(database, entities.MODEL, {"provider_id": 1, "model_id": f"m-{n}"})
    put(database, entities.USER, {"name": "bob"})
    assert [row["entity"] for row in logged(database, limit=2)] == ["users", "models"]
    assert len(logged(database, entity=["models"])) == 5
    assert logged(database, user_id=[99]) == []
    rows = logged(database, entity=["models"])
    assert [row["id"] for row in logged(database, before_id=rows[1]["id"], entity=["models"])] == [
        row["id"] for row in rows[2:]
    ]


def test_without_an_actor_nothing_is_logged(database):
    database.run(entities.put, database, entities.USER, [{"name": "carl"}])
    assert logged(database) == []


@pytest.mark.parametrize("password", ["first-password", 'quoted"pass word', "with@sign"])
def test_a_password_of_a_proxy_is_logged_as_a_fingerprint(database, password):
    settings = {"proxy": f"http://u:{password}@proxy:3128", "drain_s": 5}
    put(database, entities.PROVIDER, {"id": 1, "settings_json": json.dumps(settings)})
    (row,) = logged(database)
    found = json.loads(row["changes"]["fields"]["settings_json"][1])
    assert found["proxy"].startswith("http://u:sha256:") and found["proxy"].endswith("@proxy:3128")
    assert found["drain_s"] == 5
    assert not any(word in json.dumps(row) for word in password.replace('"', " ").replace("@", " ").split())
