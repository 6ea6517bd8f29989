"""Databases for tests: migrated only, or filled with two providers, two users, models and aliases."""

import json
from pathlib import Path

from gproxy.admission.keys import digest, fingerprint
from gproxy.store import seeding
from gproxy.store.database import Database
from gproxy.store.seeding import (
    Content,
    NewAlias,
    NewCredential,
    NewKey,
    NewModel,
    NewProvider,
    NewTarget,
    NewUser,
    secret_json,
)

SECRET = "sk-upstream-7f3a9b2c4d"


def migrated(folder: Path, dsn: str | None = None) -> Database:
    """A migrated database without rows, SQLite unless a DSN is given."""
    database = Database(dsn or f"sqlite:///{folder / 'gproxy.db'}", folder)
    with database.start_lock():
        database.migrate()
    return database


def filled(folder: Path, dsn: str | None = None, **changes) -> Database:
    """A database with `content(**changes)`, SQLite unless a DSN is given."""
    database = migrated(folder, dsn)
    database.run(seeding.fill, database, content(**changes))
    return database


def key(text: str, **fields) -> NewKey:
    return NewKey(digest(text), fingerprint(digest(text)), **fields)


def provider(name: str, *credentials: NewCredential, enabled: bool = True, **settings) -> NewProvider:
    return NewProvider(name, "openai", None, enabled, json.dumps(settings), credentials)


def content(**changes) -> Content:
    """Two providers, two users, a model, an alias and permissions; `changes` replaces any field."""
    return Content(
        **{
            "enable_usage": True,
            "provider_defaults_json": "{}",
            "providers": (provider("one", NewCredential(secret_json(api_key=SECRET))), provider("two")),
            "models": (NewModel("one", "m", "Model M", True, '{"price_each_call": "0.1"}'),),
            "aliases": (NewAlias("chat", True, (NewTarget("one", "m"),)),),
            "users": (
                NewUser("root", None, True, True, (key("sk-root"),)),
                NewUser("ann", None, True, False, (key("sk-ann"),)),
            ),
            "permissions": (("root", None, "*"), ("ann", "one", "m*")),
            **changes,
        }
    )
