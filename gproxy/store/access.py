"""Permissions, file permissions and rate limits of users and keys."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import peewee as pw

from gproxy.errors import NotFound
from gproxy.store import models as m
from gproxy.store.audit import track_changes
from gproxy.store.database import Database
from gproxy.store.paging import page
from gproxy.store.rows import AnyTable, insert, tuples
from gproxy.store.snapshot_loader import bump


@dataclass(frozen=True, slots=True)
class Permission:
    """A permission of a user; with a `key_id` one that restricts the key. `id` 0: not stored yet."""

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
    """A rate limit of a user, or of one key. `id` 0: not stored yet."""

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


def rows(kind: type, filters: dict) -> list:
    """The rows of a kind whose columns have one of the filters' values; `limit` and `offset` choose a page."""
    table = TABLES[kind]
    columns = [getattr(table, name) for name in kind.__dataclass_fields__]
    query = page(table.select(*columns).order_by(table.id), filters)
    for name in ("user_id", "key_id", "provider_id"):
        if filters.get(name) is not None:
            query = query.where(getattr(table, name).in_(filters[name]))
    return [kind(*row) for row in query.tuples()]


def put(database: Database, entries: Sequence) -> list[int]:
    """Stores these rows, all or none, and returns their ids. Raises NotFound.

    A stored row for the same user, key, provider and pattern is updated and keeps its id, so that a rate limit keeps
    counting. A row with the given `id` is then deleted, since it would be a second one.
    """
    if not entries:
        return []
    permissions = [entry for entry in entries if isinstance(entry, Permission)]
    with database.admin_write(), track_changes(TABLES[type(entries[0])], _affected_ids(entries)) as add_ids:
        keys = {row.key_id for row in permissions} | _keys_of([row.id for row in permissions])
        ids = [_put(entry) for entry in entries]
        add_ids(ids)
        _update_narrowed(keys)
        bump("users")
        return ids


def _affected_ids(entries: Sequence) -> list[int]:
    """The ids of stored rows that these entries would change: by their ids, and by their unique columns."""
    found = [entry.id for entry in entries if entry.id]
    for entry in entries:
        table = TABLES[type(entry)]
        found += [row_id for (row_id,) in table.select(table.id).where(*_matching(table, _unique(entry))).tuples()]
    return found


def _unique(entry) -> dict:
    """The columns that no two rows share, all of them together."""
    return {name: value for name, value in asdict(entry).items() if name not in (*AMOUNTS, "id")}


def _put(entry) -> int:
    table, values = TABLES[type(entry)], asdict(entry)
    row_id = values.pop("id")
    _check_references(values)
    now = time.time_ns()
    if "updated_at" in table._meta.fields:
        values["updated_at"] = now
    same = table.select(table.id).where(*_matching(table, _unique(entry))).scalar()
    if same is not None and same != row_id:
        table.delete().where(table.id == row_id).execute()
        row_id = same
    if row_id and table.update(**values).where(table.id == row_id).execute():
        return row_id
    return insert(table, row_id, values | {"created_at": now})


def _matching(table: AnyTable, values: dict) -> list[pw.Expression]:
    columns = ((getattr(table, name), value) for name, value in values.items())
    return [column.is_null() if value is None else column == value for column, value in columns]


def _check_references(values: dict) -> None:
    """Raises NotFound if the user, key or provider of a row does not exist."""
    user_id, key_id, provider_id = values["user_id"], values.get("key_id"), values.get("provider_id")
    if not m.User.select().where(m.User.id == user_id).exists():
        raise NotFound(f"there is no user {user_id}")
    key = m.UserKey.select().where((m.UserKey.id == key_id) & (m.UserKey.user == user_id))
    if key_id is not None and not key.exists():
        raise NotFound(f"user {user_id} has no key {key_id}")
    if provider_id is not None and not m.Provider.select().where(m.Provider.id == provider_id).exists():
        raise NotFound(f"there is no provider {provider_id}")


def delete(database: Database, kind: type, ids: list[int]) -> None:
    """Deletes these rows, all or none. Raises NotFound.

    A key without permissions of its own is no longer restricted.
    """
    table = TABLES[kind]
    with database.admin_write(), track_changes(table, ids):
        known = {row.id for row in table.select(table.id).where(table.id.in_(ids))}
        if missing := sorted(set(ids) - known):
            raise NotFound(f"there is no row {', '.join(map(str, missing))}; nothing was deleted")
        keys = _keys_of(ids) if kind is Permission else set()
        table.delete().where(table.id.in_(ids)).execute()
        _update_narrowed(keys)
        bump("users")


def _keys_of(permission_ids: list[int]) -> set[int | None]:
    query = m.ModelPermission.select(m.ModelPermission.key).where(m.ModelPermission.id.in_(permission_ids))
    return {key_id for (key_id,) in tuples(query)}


def _update_narrowed(keys: set[int | None]) -> None:
    """Sets `narrowed` of these keys to whether they have permissions.

    Deleting a provider does not call this: its keys stay restricted, to the permissions that remain.
    """
    narrowed = m.ModelPermission.select(m.ModelPermission.key).where(m.ModelPermission.key.is_null(False))
    for is_narrowed, condition in ((True, m.UserKey.id.in_(narrowed)), (False, m.UserKey.id.not_in(narrowed))):
        m.UserKey.update(narrowed=is_narrowed).where(m.UserKey.id.in_(keys - {None}) & condition).execute()


def delete_limits(database: Database, limits: Iterable[tuple[int, int | None, str]]) -> None:
    """Deletes rate limits by their user, key and pattern, all or none. Raises NotFound."""
    with database.admin_write():
        for user_id, key_id, pattern in limits:
            condition = _matching(m.RateLimit, {"user_id": user_id, "key_id": key_id, "model_pattern": pattern})
            ids = [row_id for (row_id,) in tuples(m.RateLimit.select(m.RateLimit.id).where(*condition))]
            with track_changes(m.RateLimit, ids):
                m.RateLimit.delete().where(*condition).execute()
            if not ids:
                owner = f"user {user_id}" if key_id is None else f"key {key_id}"
                raise NotFound(f"{owner} has no rate limit for {pattern!r}; nothing was deleted")
        bump("users")
