"""Who changed what, when and from where: written in the transaction of the change, secrets as fingerprints."""

import json
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256

import peewee as pw

from gproxy.store import models as m
from gproxy.store.database import Database
from gproxy.store.paging import within_times
from gproxy.store.sealing import Seal

MAX_ROWS = 1_000
MAX_TEXT = 4_096  # of one value; a longer one stands there by its beginning
ADDED, CHANGED, DELETED, REVEALED = "added", "changed", "deleted", "revealed"
PASSWORD = re.compile(r'(://[^/\s":]*:)([^/\s"]+)@')  # in a URL, as of a proxy
DULL = {"id", "created_at", "updated_at", "api_key_digest", "seal_json"}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for a change, by which call."""

    user_id: int | None
    user_name: str
    key_id: int | None
    address: str | None
    request_id: str | None
    action: str


@dataclass(slots=True)
class _Scribe:
    """Collects what one deed does. `seal` opens secrets, so that one key has one fingerprint."""

    seal: Seal | None
    notes: list[tuple[str, str, dict]] = field(default_factory=list)


_scribe: ContextVar[_Scribe | None] = ContextVar("scribe", default=None)


def audited(database: Database, actor: Actor, seal: Seal | None, function: Callable, *args):
    """The deed's result; what it did to rows that it declares by `changing` is kept with it, all or nothing."""
    scribe = _Scribe(seal)
    token = _scribe.set(scribe)
    try:
        with database.write():
            result = function(database, *args)
            _write(actor, scribe.notes)
        return result
    finally:
        _scribe.reset(token)


def _write(actor: Actor, notes: list[tuple[str, str, dict]]) -> None:
    now = time.time_ns()
    for entity, entity_id, changes in notes:
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
            changes=json.dumps(changes, default=str),
        ).execute()


@contextmanager
def changing(table: type[pw.Model], ids: Collection[int]) -> Iterator[Callable[[Collection[int]], None]]:
    """Around what changes or deletes these rows; to what is given, the ids of new ones are told."""
    scribe, seen = _scribe.get(), list(ids)
    if scribe is None:
        yield lambda more: None
        return
    before = _rows(table, seen, scribe.seal)
    yield seen.extend
    after = _rows(table, seen, scribe.seal)
    for row_id in dict.fromkeys(seen):
        note(table._meta.table_name, row_id, before.get(row_id), after.get(row_id))


def note(entity: str, row_id: object, before: dict | None, after: dict | None) -> None:
    """One row as it was and as it is. Nothing is noted of one that stayed the same."""
    if (scribe := _scribe.get()) is None or before == after:
        return
    old, new = before or {}, after or {}
    changed = {name: [old.get(name), new.get(name)] for name in {**old, **new} if old.get(name) != new.get(name)}
    what = ADDED if before is None else DELETED if after is None else CHANGED
    scribe.notes.append((entity, str(row_id), {"what": what, "fields": changed}))


def revealed(database: Database, actor: Actor, ids: Collection[int]) -> None:
    """Secrets of these credentials were shown."""
    with database.write():
        _write(actor, [("credentials", str(row_id), {"what": REVEALED, "fields": {}}) for row_id in ids])


def _rows(table: type[pw.Model], ids: list[int], seal: Seal | None) -> dict[int, dict]:
    key = table._meta.primary_key
    return {row[key.column_name]: _shown(row, seal) for row in table.select().where(key.in_(ids)).dicts()}


def _shown(row: dict, seal: Seal | None) -> dict:
    found = {}
    for name, value in row.items():
        if name == "secret_json":
            found["secret"] = fingerprint(value, seal)
        elif name == "password":
            found["password"] = _digest(value) if value else None
        elif name == "settings_json":
            found[name] = PASSWORD.sub(lambda match: f"{match[1]}{_digest(match[2])}@", value)[:MAX_TEXT]
        elif name not in DULL:
            found[name] = value[:MAX_TEXT] if isinstance(value, str) else value
    return found


def fingerprint(secret_json: str, seal: Seal | None) -> str:
    """Tells one stored secret from another, sealed or not, and nothing of it."""
    try:
        return _digest(seal.open(secret_json) if seal else secret_json)
    except ValueError:
        return "sealed with another key"


def _digest(text: str) -> str:
    return f"sha256:{sha256(text.encode()).hexdigest()[:12]}"


def query(asked: dict) -> list[dict]:
    """The newest rows first."""
    found = m.Audit.select().order_by(m.Audit.at.desc(), m.Audit.id.desc())
    for name in ("user_id", "entity", "entity_id", "action"):
        if asked.get(name) is not None:
            found = found.where(getattr(m.Audit, name).in_(asked[name]))
    found = within_times(m.Audit, found, asked)
    if asked.get("before_id") is not None:
        found = found.where(m.Audit.id < asked["before_id"])
    limit = asked.get("limit")
    found = found.limit(MAX_ROWS if limit is None else min(limit, MAX_ROWS)).offset(asked.get("offset") or 0)
    return [{**row, "changes": json.loads(row["changes"])} for row in found.dicts()]
