"""Usage rows and accounts on PostgreSQL, and two machines on one database."""

import asyncio
import time

import psycopg
import pytest

from tests.load import Load, check_usage_rows
from tests.postgres import fresh_database
from tests.vendor import faithful


async def slowly(seen, reader, writer):
    await asyncio.sleep(0.15)
    await faithful(seen, reader, writer)


@pytest.fixture
def dsn(pytestconfig) -> str:
    return fresh_database(pytestconfig)


def allow_connections(dsn: str, allowed: bool) -> None:
    """Lets clients of a database in, or throws them out."""
    server, _, name = dsn.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {'true' if allowed else 'false'}")
        if not allowed:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


def test_two_machines_on_one_database(own_gateway, vendor, dsn):
    one, two = (own_gateway(start=False, GPROXY_DSN=dsn) for _ in range(2))
    one.start(wait=False)
    two.start(wait=False)
    one.wait_until_ready()
    two.wait_until_ready()
    assert "other machines work on this database" in one.log + two.log
    assert len(one.post("/admin/user-keys/query").json) == 6
    made = one.post("/admin/user-keys/generate", {"user_id": 1}).json
    time.sleep(1.0)
    assert two.chat("openai-main/gpt-4.1-mini", key=made["api_key"]).status == 200
    one.post("/admin/user-keys/delete", {"id": made["id"]})
    time.sleep(1.0)
    assert two.chat("openai-main/gpt-4.1-mini", key=made["api_key"]).status == 401
    vendor.scripts["gpt-pg"] = slowly
    loads = [Load(one, "gpt-pg").run(150, meanwhile=lambda: time.sleep(0.4) or one.kill_worker())]
    loads.append(Load(two, "gpt-pg").run(150))
    assert sum(load.statuses[200] for load in loads) > 200
    rows = check_usage_rows(one, vendor, "gpt-pg")
    assert len(two.usages(model="gpt-pg")) == len(rows)


def test_a_postgresql_that_goes_away_and_comes_back(own_gateway, vendor, dsn):
    gateway = own_gateway(GPROXY_DSN=dsn)
    time.sleep(1.0)  # every worker has started
    allow_connections(dsn, False)
    load = Load(gateway, "gpt-pg-away").run(100)
    assert load.statuses == {200: 100}, load.refusals[:1]
    assert gateway.chat("openai-main/gpt-4.1-mini", key="sk-wrong").status == 401
    assert gateway.post("/admin/user-keys/query").status == 503
    assert "Traceback" not in gateway.log
    assert gateway.log.count("usage rows cannot be stored") <= 2, "each worker logs an outage once"
    allow_connections(dsn, True)
    gateway.wait_until_ready()
    check_usage_rows(gateway, vendor, "gpt-pg-away")
