"""The command `ledger verify`, run as its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gproxy.store import accounts
from gproxy.store import models as m
from gproxy.store.database import MIGRATIONS, Database
from tests import postgres
from tests.gateway import ROOT
from tests.sample_db import filled, migrated
from tests.store.test_accounts import ANN, call, store


def run(folder: Path, *command: str, **env: str) -> tuple[int, list[str], str]:
    """Returns the exit status, the lines of standard output, and standard error."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GPROXY_", "DATABASE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", str(ROOT / "wsgi.py"), *command],
        cwd=folder,
        env={**inherited, "GPROXY_DATA_DIR": str(folder), "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def verify(folder: Path, **env: str) -> tuple[int, list[str], str]:
    return run(folder, "ledger", "verify", **env)


@pytest.fixture(params=["sqlite", "postgres"])
def dsn(request, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gproxy.db'}"
    return postgres.fresh_database(request.config)


def test_exact_accounts_are_counted(tmp_path: Path, dsn):
    database = filled(tmp_path, dsn)
    store(database, call(1))
    assert verify(tmp_path, GPROXY_DSN=dsn) == (0, ["4 accounts are exact"], "")


def test_each_account_that_differs_is_listed_with_its_remedy(tmp_path: Path, dsn):
    database = filled(tmp_path, dsn)
    store(database, call(1, cost=1_500_000_000), call(2, user=1, cost=1))
    database.run(accounts.set_quota, database, ANN, 2_500_000_000, None)
    database.run(m.Quota.update(cost_used=7).execute)
    database.run(m.UserKey.update(cost_used=7).where(m.UserKey.id == ANN).execute)
    status, lines, errors = verify(tmp_path, GPROXY_DSN=dsn)
    assert (status, errors) == (1, "")
    assert lines == [
        "user 1 (root): the rows add up to 0.000000001 USD, the account has 0.000000007 USD; to take over the rows: "
        'POST /admin/user-quotas/upsert {"user_id": 1, "quota": null, "cost_used": 0.000000001}',
        "user 2 (ann): the rows add up to 1.5 USD, the account has 0.000000007 USD; to take over the rows: "
        'POST /admin/user-quotas/upsert {"user_id": 2, "quota": 2.5, "cost_used": 1.5}',
        "key 2 of user 2: the rows add up to 1.5 USD, the account has 0.000000007 USD; to take over the rows: "
        'POST /admin/user-keys/update {"id": 2, "cost_used": 1.5}',
    ]


def test_a_database_that_does_not_exist_is_not_created(tmp_path: Path):
    status, lines, errors = verify(tmp_path)
    assert (status, lines) == (2, [])
    assert errors.startswith(f"GPROXY_DSN: there is no database {tmp_path / 'gproxy.db'}; start the gateway once")
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_an_older_version_is_not_migrated(tmp_path: Path, pytestconfig):
    dsn = postgres.fresh_database(pytestconfig)
    status, lines, errors = verify(tmp_path, GPROXY_DSN=dsn)
    names = ", ".join(sorted(path.stem for path in MIGRATIONS.glob("[0-9]*.py")))
    assert (status, lines) == (2, [])
    assert f"lacks {names}; start the gateway once" in errors
    assert Database(dsn, tmp_path).run(m.proxy.obj.get_tables) == []


UNUSABLE = [
    ({"GPROXY_DSN": "postgresql://gproxy:hidden@127.0.0.1:9/gproxy"}, "GPROXY_DSN: the database cannot be used: "),
    ({"GPROXY_DSN": "mysql://gproxy:hidden@127.0.0.1/gproxy"}, "GPROXY_DSN: unknown database 'mysql'"),
    ({"GPROXY_CONFIG": "absent.toml"}, "GPROXY_CONFIG: no file 'absent.toml'"),
    ({"GPROXY_DSN": "sqlite:///wsgi.db"}, "GPROXY_DSN: the database cannot be used: DatabaseError: file is not a"),
]


@pytest.mark.parametrize(("env", "message"), UNUSABLE, ids=[message for _, message in UNUSABLE])
def test_an_unusable_database_is_reported_in_one_line(tmp_path: Path, env, message):
    (tmp_path / "wsgi.db").write_text("no database" * 100)
    status, lines, errors = verify(tmp_path, **env)
    assert (status, lines) == (2, [])
    assert errors.startswith(message) and len(errors.splitlines()) == 1 and "hidden" not in errors


def test_the_command_reads_the_same_settings_as_the_server(tmp_path: Path):
    migrated(tmp_path / "elsewhere")
    (tmp_path / "gproxy.toml").write_text('[global]\ndata_dir = "elsewhere"\n')
    assert verify(tmp_path, GPROXY_DATA_DIR="")[:2] == (0, ["0 accounts are exact"])
