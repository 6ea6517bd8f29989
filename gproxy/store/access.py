"""What users and keys may do and how much of it: permissions, file permissions, rate limits. Deeds and questions."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import peewee as pw

from gproxy.errors import NotFound
from gproxy.store import models as m
from gproxy.store.audit import changing
from gproxy.store.database import Database
from gproxy.store.rows import insert
from gproxy.store.snapshot_loader import bump


@dataclass(frozen=True, slots=True)
class Permission:
    """Of a user, or of one key, which it narrows. `id` 0: not stored yet."""

    id: int
    user_id: int
    key_id: int | None
    provider_id: int | None
    model_pattern: str


@dataclass(frozen=True, slots=True)
class FilePermission:
    id: int
    user_id: int
    provider_id: int


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Of a user, or of one key."""

    id: int
    user_id: int
    key_id: int | None
    model_pattern: str
    rpm: int | None
    rpd: int | None
    total_tokens: int | None
    concurrency: int | None


TABLES = {Permission: m.ModelPermission, FilePermission: m.FilePermission, RateLimit: m.RateLimit}
AMOUNTS = ("rpm", "rpd", "total_tokens", "concurrency")


def rows(kind: type, asked: dict) -> list:
    """The rows of a kind whose columns have one of the asked values; `limit` and `offset` choose a page."""
    table = TABLES[kind]
    columns = [getattr(table, name) for name in kind.__dataclass_fields__]
    query = table.select(*columns).order_by(table.id).limit(asked.get("limit")).offset(asked.get("offset"))
    for name in ("user_id", "key_id", "provider_id"):
        if asked.get(name) is not None:
            query = query.where(getattr(table, name).in_(asked[name]))
    return [kind(*row) for row in query.tuples()]


def put(database: Database, entries: Sequence) -> list[int]:
    """Stores these rows, all or none, and returns their ids. Raises NotFound.

    What stands there for the same user, key, provider and pattern is changed and keeps its id, by which a rate limit
    goes on counting; a row of the given id is then one too many.
    """
    if not entries:
        return []
    permissions = [entry for entry in entries if isinstance(entry, Permission)]
    with database.in_turn(), changing(TABLES[type(entries[0])], _standing(entries)) as also:
        keys = {row.key_id for row in permissions} | _narrowed_by([row.id for row in permissions])
        ids = [_put(entry) for entry in entries]
        also(ids)
        _narrow(keys)
        bump("users")
        return ids


def _standing(entries: Sequence) -> list[int]:
    """The rows that these would change: of their ids, and of their places."""
    found = [entry.id for entry in entries if entry.id]
    for entry in entries:
        table = TABLES[type(entry)]
        found += [row_id for (row_id,) in table.select(table.id).where(*_at(table, _place(entry))).tuples()]
    return found


def _place(entry) -> dict:
    return {name: value for name, value in asdict(entry).items() if name not in (*AMOUNTS, "id")}


def _put(entry) -> int:
    table, values = TABLES[type(entry)], asdict(entry)
    row_id = values.pop("id")
    _must_exist(values)
    now = time.time_ns()
    if "updated_at" in table._meta.fields:
        values["updated_at"] = now
    same = table.select(table.id).where(*_at(table, _place(entry))).scalar()
    if same is not None and same != row_id:
        table.delete().where(table.id == row_id).execute()
        row_id = same
    if row_id and table.update(**values).where(table.id == row_id).execute():
        return row_id
    return insert(table, row_id, values | {"created_at": now})


def _at(table: type[pw.Model], place: dict) -> list[pw.Expression]:
    columns = ((getattr(table, name), value) for name, value in place.items())
    return [column.is_null() if value is None else column == value for column, value in columns]


def _must_exist(values: dict) -> None:
    """Who and what a row names."""
    user_id, key_id, provider_id = values["user_id"], values.get("key_id"), values.get("provider_id")
    if not m.User.select().where(m.User.id == user_id).exists():
        raise NotFound(f"there is no user {user_id}")
    own = m.UserKey.select().where((m.UserKey.id == key_id) & (m.UserKey.user == user_id))
    if key_id is not None and not own.exists():
        raise NotFound(f"user {user_id} has no key {key_id}")
    if provider_id is not None and not m.Provider.select().where(m.Provider.id == provider_id).exists():
        raise NotFound(f"there is no provider {provider_id}")


def delete(database: Database, kind: type, ids: list[int]) -> None:
    """Deletes these rows, all or none. Raises NotFound.

    A key whose last permission is deleted is not narrowed any more.
    """
    table = TABLES[kind]
    with database.in_turn(), changing(table, ids):
        known = {row.id for row in table.select(table.id).where(table.id.in_(ids))}
        if missing := sorted(set(ids) - known):
            raise NotFound(f"there is no row {', '.join(map(str, missing))}; nothing was deleted")
        keys = _narrowed_by(ids) if kind is Permission else set()
        table.delete().where(table.id.in_(ids)).execute()
        _narrow(keys)
        bump("users")


def _narrowed_by(permission_ids: list[int]) -> set[int | None]:
    query = m.ModelPermission.select(m.ModelPermission.key).where(m.ModelPermission.id.in_(permission_ids))
    return {key_id for (key_id,) in query.tuples()}


def _narrow(keys: set[int | None]) -> None:
    """These keys are narrowed if they have permissions; one whose provider is deleted stays so, and may do less."""
    narrowed = m.ModelPermission.select(m.ModelPermission.key).where(m.ModelPermission.key.is_null(False))
    for is_narrowed, which in ((True, m.UserKey.id.in_(narrowed)), (False, m.UserKey.id.not_in(narrowed))):
        m.UserKey.update(narrowed=is_narrowed).where(m.UserKey.id.in_(keys - {None}) & which).execute()


def delete_limits(database: Database, places: Iterable[tuple[int, int | None, str]]) -> None:
    """Deletes the rate limits at these users, keys and patterns, all or none. Raises NotFound."""
    with database.in_turn():
        for user_id, key_id, pattern in places:
            here = _at(m.RateLimit, {"user_id": user_id, "key_id": key_id, "model_pattern": pattern})
            ids = [row_id for (row_id,) in m.RateLimit.select(m.RateLimit.id).where(*here).tuples()]
            with changing(m.RateLimit, ids):
                m.RateLimit.delete().where(*here).execute()
            if not ids:
                whose = f"user {user_id}" if key_id is None else f"key {key_id}"
                raise NotFound(f"{whose} has no rate limit for {pattern!r}; nothing was deleted")
        bump("users")
