"""A configuration laid over the one that stands: rows are known by their names, and all is changed or nothing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import peewee as pw

from gproxy.errors import BadRequest
from gproxy.store import models as m
from gproxy.store import proxy_passwords
from gproxy.store.accounts import remove_quota, set_quota
from gproxy.store.audit import changing, note
from gproxy.store.database import Database
from gproxy.store.entities import keep_an_administrator, targets
from gproxy.store.sealing import Seal
from gproxy.store.seeding import Content, NewCredential, NewProvider, open_account
from gproxy.store.snapshot_loader import TABLES, bump

ADDED, CHANGED, DELETED = "added", "changed", "deleted"
KEPT = "GPROXY_KEY_"
HIDDEN = ("secret_json", "password", "api_key_digest")


@dataclass(frozen=True, slots=True)
class Change:
    """`fields`: what it was and what it is, by column; of a secret only that it is another."""

    what: str
    entity: str
    name: str
    fields: Mapping[str, tuple] = field(default_factory=dict)


class _DryRun(Exception):
    """Takes back what was done to see what it does."""


def apply_import(database: Database, wanted: Content, seal: Seal | None, prunes: bool, is_dry: bool) -> list[Change]:
    """Makes the configuration what is wanted, and tells what that changes. With `prunes` what it lacks is deleted.

    Raises BadRequest.
    """
    found: list[Change] = []
    try:
        with database.in_turn():
            _Laying(database, seal, prunes, found).apply_import(wanted)
            if is_dry:
                raise _DryRun
    except _DryRun:
        return found
    return found


def kept(provider: str, number: int) -> str:
    """What stands for a secret that is not told: a reference to a variable, by the provider and the place there."""
    name = "".join(c if c.isalnum() and c.isascii() else "_" for c in provider).upper()
    return f"{KEPT}{name}_{number}"


@dataclass(slots=True)
class _Laying:
    database: Database
    seal: Seal | None
    prunes: bool
    found: list[Change]
    now: int = field(default_factory=time.time_ns)

    def apply_import(self, wanted: Content) -> None:
        self._settings(wanted)
        providers = self._merge(m.Provider, ("name",), self._providers(wanted), ("channel",))
        for provider in wanted.providers:
            self._credentials(providers[provider.name,], provider, wanted.unset)
        of_provider = {name: row_id for (name,), row_id in providers.items()}
        models = {(of_provider[one.provider], one.model_id): _row(one, "provider") for one in wanted.models}
        self._merge(m.Model, ("provider_id", "model_id"), models)
        self._aliases(wanted, of_provider)
        self._users(wanted, of_provider)
        keep_an_administrator()
        if self.found:
            bump(*TABLES)

    def _providers(self, wanted: Content) -> dict[tuple, dict]:
        before = {row.name: row.settings_json for row in m.Provider.select()}
        found = {}
        for one in wanted.providers:
            settings = proxy_passwords.restored(one.settings_json, before.get(one.name))
            found[one.name,] = _row(one, "credentials") | {"settings_json": settings}
        return found

    def _settings(self, wanted: Content) -> None:
        if wanted.enable_usage is None:
            return
        row = m.GlobalSettings.get()
        told = {
            "enable_usage": wanted.enable_usage,
            "provider_defaults_json": wanted.provider_defaults_json,
            **wanted.switches,
        }
        self._change(m.GlobalSettings, row, told, "settings")

    def _merge(
        self,
        table: type[pw.Model],
        columns: tuple[str, ...],
        wanted: Mapping[tuple, dict],
        fixed: tuple[str, ...] = (),
        among: Callable[[pw.Model], bool] = lambda row: True,
    ) -> dict[tuple, int]:
        """Ids by what rows are known by. A row whose `fixed` columns differ is another one in its place."""
        rows = {tuple(getattr(row, name) for name in columns): row for row in table.select() if among(row)}
        gone = [key for key in rows if key not in wanted] if self.prunes else []
        gone += [key for key in wanted if key in rows and any(getattr(rows[key], n) != wanted[key][n] for n in fixed)]
        for key in gone:
            self._delete(table, rows.pop(key), key)
        ids = {key: row.id for key, row in rows.items()}
        for key, values in wanted.items():
            if key in rows:
                self._change(table, rows[key], values, _named(key))
            else:
                ids[key] = self._add(table, dict(zip(columns, key, strict=True)) | values, _named(key))
        return ids

    def _add(self, table: type[pw.Model], values: dict, name: str) -> int:
        stamps = {n: self.now for n in ("created_at", "updated_at") if n in table._meta.fields}
        with changing(table, ()) as also:
            row_id = table.insert(**values, **stamps).execute()
            also([row_id])
        self.found.append(Change(ADDED, table._meta.table_name, name))
        return row_id

    def _change(self, table: type[pw.Model], row: pw.Model, values: dict, name: str) -> None:
        differing = {n: (getattr(row, n), value) for n, value in values.items() if getattr(row, n) != value}
        if not differing:
            return
        with changing(table, [row.id]):
            changes = {n: value for n, (_, value) in differing.items()}
            stamp = {"updated_at": self.now} if "updated_at" in table._meta.fields else {}
            table.update(**changes, **stamp).where(table.id == row.id).execute()
        shown = {n: ("…", "…") if n in HIDDEN else pair for n, pair in differing.items()}
        self.found.append(Change(CHANGED, table._meta.table_name, name, shown))

    def _delete(self, table: type[pw.Model], row: pw.Model, key: tuple) -> None:
        with changing(table, [row.id]):
            table.delete().where(table.id == row.id).execute()
        self.found.append(Change(DELETED, table._meta.table_name, _named(key)))

    def _credentials(self, provider_id: int, provider: NewProvider, unset: frozenset[str]) -> None:
        """A credential is known by its secret; one whose secret is not told, by the place that its reference names."""
        rows = list(m.Credential.select().where(m.Credential.provider == provider_id).order_by(m.Credential.id))
        left = {row.id: self._opened(row) for row in rows}
        own = {f'"${{{kept(provider.name, number)}}}"': row for number, row in enumerate(rows, 1)}
        for number, wanted in enumerate(provider.credentials, 1):
            same = next((row for row in rows if left.get(row.id) == wanted.secret_json), None)
            if same is None:
                meant = (row for name, row in own.items() if row.id in left and name in wanted.secret_json)
                same = next(meant, None)
            name = f"{provider.name} {number}"
            if same is None:
                if lost := [v for v in unset if v.startswith(KEPT) and f'"${{{v}}}"' in wanted.secret_json]:
                    told = f"credential {number} of provider {provider.name!r}: {lost[0]} stands for a key"
                    raise BadRequest(f"{told} that is not there; set that variable or write the key")
                secret = self.seal.close(wanted.secret_json) if self.seal else wanted.secret_json
                row = asdict(wanted) | {"secret_json": secret, "provider_id": provider_id, "kind": provider.channel}
                self._add(m.Credential, row, name)
            else:
                del left[same.id]
                self._change(m.Credential, same, _beside(wanted), name)
        if self.prunes:
            for row in rows:
                if row.id in left:
                    self._delete(m.Credential, row, (provider.name, row.id))

    def _opened(self, row: m.Credential) -> str:
        return self.seal.open(row.secret_json) if self.seal else row.secret_json

    def _aliases(self, wanted: Content, providers: Mapping[str, int]) -> None:
        ids = self._merge(m.ModelAlias, ("alias",), {(one.alias,): _row(one, "targets") for one in wanted.aliases})
        for alias in wanted.aliases:
            alias_id = ids[alias.alias,]
            told = [(providers[one.provider], one.model_id, one.tier, one.weight) for one in alias.targets]
            table = m.AliasTarget
            mine = table.select(table.provider, table.model_id, table.tier, table.weight).where(table.alias == alias_id)
            if (before := list(mine.order_by(table.id).tuples())) == told:
                continue
            led = targets([alias_id]).get(alias_id)
            table.delete().where(table.alias == alias_id).execute()
            for provider_id, model_id, tier, weight in told:
                row = {"provider": provider_id, "model_id": model_id, "tier": tier, "weight": weight}
                table.insert(alias=alias_id, **row).execute()
            leads = targets([alias_id]).get(alias_id)
            note("model_alias_targets", alias_id, led and {"targets": led}, leads and {"targets": leads})
            if before:
                shown = {"targets": (len(before), len(told))}
                self.found.append(Change(CHANGED, "model_alias_targets", alias.alias, shown))

    def _users(self, wanted: Content, providers: Mapping[str, int]) -> None:
        rows = {}
        for user in wanted.users:
            rows[user.name,] = {"enabled": user.enabled, "is_admin": user.is_admin}
            if user.password_hash is not None:
                rows[user.name,]["password"] = user.password_hash
        before = {row.id: _standing(row) for row in m.User.select()}
        users = {name: row_id for (name,), row_id in self._merge(m.User, ("name",), rows).items()}
        for row in m.User.select():
            if before.get(row.id, _standing(row)) != _standing(row):  # as by any other change: log in again
                m.Session.delete().where(m.Session.user == row).execute()
        keys = self._merge(m.UserKey, ("api_key_digest",), self._keys(wanted, users), ("user_id",))
        permissions, limits = {}, {}
        for name, provider, pattern in wanted.permissions:
            permissions[users[name], None, provider and providers[provider], pattern] = {}
        for name, limit in wanted.limits:
            limits[users[name], None, limit.model_pattern] = _amounts(limit)
        for user in wanted.users:
            for key in user.keys:
                place = users[user.name], keys[key.digest,]
                for provider, pattern in key.permissions:
                    permissions[*place, provider and providers[provider], pattern] = {}
                for limit in key.limits:
                    limits[*place, limit.model_pattern] = _amounts(limit)
        self._merge(m.ModelPermission, ("user_id", "key_id", "provider_id", "model_pattern"), permissions)
        self._merge(m.RateLimit, ("user_id", "key_id", "model_pattern"), limits)
        files = {(users[name], providers[provider]): {} for name, provider in wanted.file_permissions}
        self._merge(m.FilePermission, ("user_id", "provider_id"), files)
        self._quotas(wanted, users)

    def _keys(self, wanted: Content, users: Mapping[str, int]) -> dict[tuple, dict]:
        """A key that is narrowed stays so with the permissions that the file does not name, unless they go as well."""
        narrowed = m.UserKey.select(m.UserKey.api_key_digest).where(m.UserKey.narrowed)
        standing = set() if self.prunes else {digest for (digest,) in narrowed.tuples()}
        return {
            (key.digest,): {
                "user_id": users[user.name],
                "fingerprint": key.fingerprint,
                "label": key.label,
                "enabled": key.enabled,
                "expires_at": key.expires_at,
                "budget": key.budget,
                "narrowed": key.is_narrowed or key.digest in standing,
            }
            for user in wanted.users
            for key in user.keys
        }

    def _quotas(self, wanted: Content, users: Mapping[str, int]) -> None:
        """Caps and periods. What was used is taken over where nothing is known of it."""
        capped = {users[name]: quota for name, quota in wanted.quotas}
        for name, user_id in users.items():
            row, quota = m.Quota.get_or_none(m.Quota.user == user_id), capped.get(user_id)
            if row is None and quota is not None:
                with changing(m.Quota, ()) as also:
                    also([open_account(user_id, quota, self.now)])
                self.found.append(Change(ADDED, "user_quotas", name))
            elif quota is not None and (row.quota, row.period) != (quota.quota, quota.period):
                set_quota(self.database, user_id, quota.quota, None, quota.period)
                shown = {"quota": (row.quota, quota.quota), "period": (row.period, quota.period)}
                self.found.append(Change(CHANGED, "user_quotas", name, shown))
            elif quota is None and row is not None and row.quota is not None and self.prunes:
                remove_quota(self.database, user_id)
                self.found.append(Change(DELETED, "user_quotas", name))


def _row(one, *without: str) -> dict:
    return {name: value for name, value in asdict(one).items() if name not in without}


def _beside(credential: NewCredential) -> dict:
    return _row(credential, "secret_json")


def _amounts(limit) -> dict:
    return _row(limit, "model_pattern")


def _standing(user: m.User) -> tuple:
    """What ends a user's sessions when it changes."""
    return user.password, user.enabled, user.is_admin


def _named(key: tuple) -> str:
    """What a row is known by, in words; a key by its beginning alone."""
    return " ".join(str(part)[:64] if part is not None else "*" for part in key)
