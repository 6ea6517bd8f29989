"""Users' keys and sessions. A key itself is never stored, only its digest and a fingerprint.

Functions of an administrator change every key. Those of a user (`…_own_key`) change own keys only, and never undo what
an administrator did.
"""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from gproxy.errors import Forbidden, NotFound
from gproxy.store import accounts
from gproxy.store import models as m
from gproxy.store.audit import track_changes
from gproxy.store.database import Database
from gproxy.store.paging import page
from gproxy.store.snapshot_loader import bump


@dataclass(frozen=True, slots=True)
class Key:
    """`expires_at` in nanoseconds since the epoch, `budget` and `cost_used` in nano-USD.

    `disabled_by`: "user" or "administrator", None if the key is enabled.
    """

    id: int
    user_id: int
    user_name: str
    fingerprint: str
    label: str | None
    enabled: bool
    disabled_by: str | None
    expires_at: int | None
    budget: int | None
    cost_used: int


@dataclass(frozen=True, slots=True)
class User:
    id: int
    name: str
    password: str | None = field(repr=False)  # its hash
    enabled: bool = True
    is_admin: bool = False


def by_name(name: str) -> User | None:
    row = m.User.get_or_none(m.User.name == name)
    return row and User(row.id, row.name, row.password, row.enabled, row.is_admin)


def open_session(database: Database, user: User, digest: str, expires_at: int) -> bool:
    """Stores a session and deletes expired ones. `expires_at` in nanoseconds since the epoch.

    Returns False if the user's password was changed meanwhile, or the user was disabled.
    """
    now = time.time_ns()
    with database.write():
        same = (m.User.id == user.id) & (m.User.password == user.password) & m.User.enabled
        if database.for_update(m.User.select().where(same)).first() is None:
            return False
        m.Session.delete().where(m.Session.expires_at <= now).execute()
        m.Session.insert(user=user.id, digest=digest, expires_at=expires_at, created_at=now).execute()
        bump("sessions")
    return True


def close_session(database: Database, digest: str) -> None:
    with database.write():
        m.Session.delete().where(m.Session.digest == digest).execute()
        bump("sessions")


def keys(user_ids: list[int] | None, filters: dict | None = None) -> list[Key]:
    """The keys of these users; None: of all users. `limit` and `offset` of the filters choose a page."""
    query = m.UserKey.select(m.UserKey, m.User).join(m.User).order_by(m.UserKey.id)
    if user_ids is not None:
        query = query.where(m.UserKey.user.in_(user_ids))
    return [
        Key(
            *(k.id, k.user_id, k.user.name, k.fingerprint, k.label),
            *(k.enabled, k.disabler, k.expires_at, k.budget, k.cost_used),
        )
        for k in page(query, filters or {})
    ]


class KeySettings(NamedTuple):
    """`budget` in nano-USD, `expires_at` in nanoseconds since the epoch; None: no budget, no expiry."""

    label: str | None = None
    budget: int | None = None
    expires_at: int | None = None


def add_keys(database: Database, user_id: int, digests: list[tuple[str, str]], settings: KeySettings) -> list[int]:
    """Stores keys by (digest, fingerprint), all or none. Returns their ids. Raises NotFound."""
    now = time.time_ns()
    with database.write():
        if not m.User.select().where(m.User.id == user_id).exists():
            raise NotFound(f"there is no user {user_id}")
        ids = [
            m.UserKey.create(
                user=user_id,
                api_key_digest=digest,
                fingerprint=fingerprint,
                **settings._asdict(),
                created_at=now,
                updated_at=now,
            ).id
            for digest, fingerprint in digests
        ]
        with track_changes(m.UserKey, ()) as add_ids:
            add_ids(ids)
        bump("users")
        return ids


def add_own_key(database: Database, user_id: int, key: tuple[str, str], label: str | None) -> int:
    """Stores a key (digest, fingerprint) that its user makes, and returns its id. Raises Forbidden, NotFound."""
    with database.write():
        if not m.User.select().where((m.User.id == user_id) & m.User.may_make_keys).exists():
            raise Forbidden("this user may not make keys; ask an administrator for one")
        (key_id,) = add_keys(database, user_id, [key], KeySettings(label))
        return key_id


def switch_own_key(database: Database, user_id: int, key_id: int, enabled: bool) -> None:
    """Enables or disables a key for its user. A key that an administrator disabled stays so.

    Raises Forbidden if it would be enabled, and NotFound.
    """
    with database.write(), track_changes(m.UserKey, [key_id]):
        own = (m.UserKey.id == key_id) & (m.UserKey.user == user_id)
        key = database.for_update(m.UserKey.select().where(own)).first()
        if key is None:
            raise NotFound(f"you have no key {key_id}")
        if key.disabler == m.BY_ADMINISTRATOR:
            if enabled:
                raise Forbidden(f"key {key_id}: an administrator disabled it; only an administrator can enable it")
            return
        disabled_by = None if enabled else m.BY_USER
        changes = {"enabled": enabled, "disabled_by": disabled_by, "updated_at": time.time_ns()}
        m.UserKey.update(**changes).where(m.UserKey.id == key_id).execute()
        bump("users")


def change_key(database: Database, key_id: int, changes: dict) -> None:
    """Sets some of label, enabled, budget, expires_at and cost_used, for an administrator. Raises NotFound."""
    columns = {name: value for name, value in changes.items() if name != "cost_used"}
    if "enabled" in columns:
        columns["disabled_by"] = m.who_disabled(columns["enabled"], m.BY_ADMINISTRATOR)
    with database.write(), track_changes(m.UserKey, [key_id]):
        if not m.UserKey.update(**columns, updated_at=time.time_ns()).where(m.UserKey.id == key_id).execute():
            raise NotFound(f"there is no key {key_id}")
        if "cost_used" in changes:
            accounts.set_key_used(database, key_id, changes["cost_used"])
        bump("users")


def delete_keys(database: Database, key_ids: list[int]) -> None:
    """Deletes these keys, all or none. Raises NotFound."""
    with database.write(), track_changes(m.UserKey, key_ids):
        known = {row.id for row in m.UserKey.select(m.UserKey.id).where(m.UserKey.id.in_(key_ids))}
        if missing := sorted(set(key_ids) - known):
            raise NotFound(f"there is no key {', '.join(map(str, missing))}; nothing was deleted")
        m.UserKey.delete().where(m.UserKey.id.in_(key_ids)).execute()
        bump("users")


def key_exists(digest: str) -> bool:
    return m.UserKey.select().where(m.UserKey.api_key_digest == digest).exists()
