"""Administrative calls on PostgreSQL, where several write at once and texts hold no NUL."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from gproxy.errors import BadRequest
from gproxy.store import entities
from tests import postgres, sample_db
from tests.gateway import Gateway, seed


@pytest.fixture
def database(tmp_path, request):
    return sample_db.filled(tmp_path, postgres.fresh_database(request.config))


def test_two_administrators_that_demote_each_other_at_once_are_not_both_demoted(database):
    row = {"is_admin": True}
    ids = [database.run(entities.put, database, entities.USER, [{"name": f"boss-{n}", **row}])[0] for n in range(2)]
    others = [r["id"] for r in database.run(entities.find, entities.USER, {}) if r["is_admin"] and r["id"] not in ids]
    if others:
        database.run(entities.delete, database, entities.USER, others)
    start = threading.Barrier(2)
    real = entities.require_administrator

    def slow(*args):
        real(*args)
        with suppress(threading.BrokenBarrierError):
            start.wait(1)

    entities.require_administrator = slow
    try:

        def demote(user_id):
            with suppress(BadRequest):
                database.run(entities.put, database, entities.USER, [{"id": user_id, "is_admin": False}])

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(demote, ids))
    finally:
        entities.require_administrator = real
    left = [r for r in database.run(entities.find, entities.USER, {}) if r["is_admin"] and r["enabled"]]
    assert left


def test_of_two_rows_added_at_once_with_one_name_one_is_refused(database, monkeypatch):
    start = threading.Barrier(2)
    real = entities._check_unique

    def slow(*args):
        real(*args)
        with suppress(threading.BrokenBarrierError):
            start.wait(1)

    monkeypatch.setattr(entities, "_check_unique", slow)

    def take(_) -> str:
        try:
            database.run(entities.put, database, entities.PROVIDER, [{"name": "twin", "channel": "demo"}])
        except BadRequest as fault:
            return fault.message
        return "taken"

    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(take, range(2)))
    assert "taken" in results and any("twin" in message for message in results), results


def test_the_greatest_id_leaves_room_for_the_next_row(database):
    with pytest.raises(BadRequest, match="at most"):
        database.run(entities.put, database, entities.USER, [{"id": 2**31 - 1, "name": "last"}])
    database.run(entities.put, database, entities.USER, [{"id": 2**30, "name": "far"}, {"name": "next"}])


@pytest.fixture(scope="module")
def g(vendor, tmp_path_factory, request):
    dsn = postgres.fresh_database(request.config)
    found = Gateway(tmp_path_factory.mktemp("review"), seed(vendor.url), 2, GPROXY_DSN=dsn).start()
    yield found
    found.stop()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/login", {"username": "a\0", "password": "x"}),
        ("/admin/users/query", {"name": "a\0"}),
        ("/admin/users/delete", {"name": "a\0"}),
        ("/admin/providers/query", {"name": {"in": ["a\0"]}}),
        ("/admin/credentials/query", {"provider_name": "a\0"}),
        ("/admin/credentials/upsert", {"provider_name": "a\0", "credential": "k"}),
        ("/admin/credentials/upsert", {"provider_name": "demo", "credential": "k", "name": "a\0"}),
        ("/admin/aliases/upsert", {"alias": "a", "targets": [{"provider": "demo", "model": "a\0"}]}),
        ("/admin/usages/query", {"model": "a\0"}),
        ("/admin/audit/query", {"entity": "a\0"}),
        ("/admin/config/import-toml", {"toml": '[[users]]\nname = "a\\u0000"\n'}),
        ("/admin/config/import-toml", {"toml": '[[providers]]\nname="n"\nchannel="demo"\nlabel="a\\u0000"\n'}),
    ],
)
def test_nul_is_no_fault_of_the_database(g, path, body):
    assert g.post(path, body).status in (400, 401, 404, 200)
