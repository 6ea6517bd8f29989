"""The audit log: who changed which rows, when and from where.

It is written in the transaction of the change. Secrets appear as fingerprints.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeVar

from gproxy.store import models as m
from gproxy.store import proxy_passwords
from gproxy.store.database import Database
from gproxy.store.paging import page, within_times
from gproxy.store.rows import AnyTable
from gproxy.store.sealing import Seal

_Result = TypeVar("_Result")
MAX_TEXT = 4_096  # characters of one value; a longer text is cut
ADDED, CHANGED, DELETED, REVEALED = "added", "changed", "deleted", "revealed"
IGNORED_COLUMNS = {"id", "created_at", "updated_at", "api_key_digest", "seal_json"}


@dataclass(frozen=True, slots=True)
class Actor:
    """The administrator and the call that change something."""

    user_id: int | None
    user_name: str
    key_id: int | None
    address: str | None
    request_id: str | None
    action: str


@dataclass(slots=True)
class _Collector:
    """The changes of one function: (entity, id, change). `seal` opens secrets, so that a key has one fingerprint."""

    seal: Seal | None
    changes: list[tuple[str, str, dict]] = field(default_factory=list)


_collector: ContextVar[_Collector | None] = ContextVar("collector", default=None)


def run_audited(
    database: Database, actor: Actor, seal: Seal | None, function: Callable[..., _Result], *args
) -> _Result:
    """Runs a function in one transaction with the log of its changes, and returns its result.

    The function declares the rows that it changes with `track_changes`, or logs them with `log_change`.
    """
    collector = _Collector(seal)
    token = _collector.set(collector)
    try:
        with database.write():
            result = function(database, *args)
            _insert(actor, collector.changes)
        return result
    finally:
        _collector.reset(token)


def _insert(actor: Actor, changes: list[tuple[str, str, dict]]) -> None:
    now = time.time_ns()
    for entity, entity_id, change in changes:
        m.Audit.insert(
            at=now,
            user_id=actor.user_id,
            user_name=actor.user_name,
            key_id=actor.key_id,
            address=actor.address,
            request_id=actor.request_id,
            action=actor.action,
            entity=entity,
            entity_id=entity_id,
            changes=json.dumps(change, default=str),
        ).execute()


@contextmanager
def track_changes(table: AnyTable, ids: Collection[int]) -> Iterator[Callable[[Collection[int]], None]]:
    """Logs how the block changes or deletes these rows. Yields a function that takes the ids of rows it adds."""
    collector, tracked = _collector.get(), list(ids)
    if collector is None:
        yield lambda more: None
        return
    before = _rows(table, tracked, collector.seal)
    yield tracked.extend
    after = _rows(table, tracked, collector.seal)
    for row_id in dict.fromkeys(tracked):
        log_change(table._meta.table_name, row_id, before.get(row_id), after.get(row_id))


def log_change(entity: str, row_id: object, before: dict | None, after: dict | None) -> None:
    """Logs a row before and after a change. Logs nothing if the row is the same, or outside `run_audited`."""
    if (collector := _collector.get()) is None or before == after:
        return
    old, new = before or {}, after or {}
    changed = {name: [old.get(name), new.get(name)] for name in {**old, **new} if old.get(name) != new.get(name)}
    what = ADDED if before is None else DELETED if after is None else CHANGED
    collector.changes.append((entity, str(row_id), {"what": what, "fields": changed}))


def log_reveal(database: Database, actor: Actor, ids: Collection[int]) -> None:
    """Logs that the secrets of these credentials were sent to the administrator."""
    with database.write():
        _insert(actor, [("credentials", str(row_id), {"what": REVEALED, "fields": {}}) for row_id in ids])


def _rows(table: AnyTable, ids: list[int], seal: Seal | None) -> dict[int, dict]:
    key = table._meta.primary_key
    return {row[key.column_name]: _logged(row, seal) for row in table.select().where(key.in_(ids)).dicts()}


def _logged(row: dict, seal: Seal | None) -> dict:
    """The columns of a row as they are logged."""
    found = {}
    for name, value in row.items():
        if name == "secret_json":
            found["secret"] = fingerprint(value, seal)
        elif name == "password":
            found["password"] = _digest(value) if value else None
        elif name == "settings_json":
            found[name] = proxy_passwords.hide_in(value, _digest)[:MAX_TEXT]
        elif name not in IGNORED_COLUMNS:
            found[name] = value[:MAX_TEXT] if isinstance(value, str) else value
    return found


def fingerprint(secret_json: str, seal: Seal | None) -> str:
    """A short hash of a stored secret, the same whether it is sealed or not."""
    try:
        return _digest(seal.open(secret_json) if seal else secret_json)
    except ValueError:
        return "sealed with another key"


def _digest(text: str) -> str:
    return f"sha256:{sha256(text.encode()).hexdigest()[:12]}"


def query(filters: dict) -> list[dict]:
    """Rows of the audit log, the newest first."""
    found = m.Audit.select().order_by(m.Audit.at.desc(), m.Audit.id.desc())
    for name in ("user_id", "entity", "entity_id", "action"):
        if filters.get(name) is not None:
            found = found.where(getattr(m.Audit, name).in_(filters[name]))
    found = within_times(m.Audit, found, filters)
    if filters.get("before_id") is not None:
        found = found.where(m.Audit.id < filters["before_id"])
    return [{**row, "changes": json.loads(row["changes"])} for row in page(found, filters).dicts()]
