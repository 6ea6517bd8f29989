"""Imports a configuration over the stored one, in one transaction. Rows are identified by their names."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from gproxy.errors import BadRequest
from gproxy.store import models as m
from gproxy.store import proxy_passwords
from gproxy.store.accounts import remove_quota, set_quota
from gproxy.store.audit import log_change, track_changes
from gproxy.store.database import Database
from gproxy.store.entities import require_administrator, targets
from gproxy.store.rows import AnyTable, tuples
from gproxy.store.sealing import Seal
from gproxy.store.seeding import Content, NewCredential, NewProvider, open_account
from gproxy.store.snapshot_loader import TABLES, bump

ADDED, CHANGED, DELETED = "added", "changed", "deleted"
KEY_VARIABLE_PREFIX = "GPROXY_KEY_"
SECRET_COLUMNS = ("secret_json", "password", "api_key_digest")


@dataclass(frozen=True, slots=True)
class Change:
    """A row that an import adds, changes or deletes.

    `fields`: value before and after, by column; a secret is replaced by "…".
    """

    what: str
    entity: str
    name: str
    fields: Mapping[str, tuple] = field(default_factory=dict)


class _DryRun(Exception):
    """Raised to roll a dry run back."""


def apply_import(database: Database, wanted: Content, seal: Seal | None, prunes: bool, is_dry: bool) -> list[Change]:
    """Makes the stored configuration what is wanted, and returns the changes. With `is_dry` it changes nothing.

    With `prunes` it deletes the rows that `wanted` does not have. Raises BadRequest.
    """
    changes: list[Change] = []
    try:
        with database.admin_write():
            _Import(database, seal, prunes, changes).run(wanted)
            if is_dry:
                raise _DryRun
    except _DryRun:
        return changes
    return changes


def key_variable(provider: str, number: int) -> str:
    """The variable that an exported file names in place of the secret of a provider's credential, counted from 1."""
    name = "".join(c if c.isalnum() and c.isascii() else "_" for c in provider).upper()
    return f"{KEY_VARIABLE_PREFIX}{name}_{number}"


@dataclass(slots=True)
class _Import:
    """One import: each method merges one kind of rows and appends to `changes`."""

    database: Database
    seal: Seal | None
    prunes: bool
    changes: list[Change]
    now: int = field(default_factory=time.time_ns)

    def run(self, wanted: Content) -> None:
        self._settings(wanted)
        providers = self._merge(m.Provider, ("name",), self._providers(wanted), ("channel",))
        for provider in wanted.providers:
            self._credentials(providers[provider.name,], provider, wanted.unset)
        provider_ids = {name: row_id for (name,), row_id in providers.items()}
        models = {(provider_ids[one.provider], one.model_id): _row(one, "provider") for one in wanted.models}
        self._merge(m.Model, ("provider_id", "model_id"), models)
        self._aliases(wanted, provider_ids)
        self._users(wanted, provider_ids)
        require_administrator()
        if self.changes:
            bump(*TABLES)

    def _providers(self, wanted: Content) -> dict[tuple, dict]:
        before = {row.name: row.settings_json for row in m.Provider.select()}
        found = {}
        for one in wanted.providers:
            settings = proxy_passwords.restore(one.settings_json, before.get(one.name))
            found[one.name,] = _row(one, "credentials") | {"settings_json": settings}
        return found

    def _settings(self, wanted: Content) -> None:
        if wanted.enable_usage is None:
            return
        row = m.GlobalSettings.get()
        values = {
            "enable_usage": wanted.enable_usage,
            "provider_defaults_json": wanted.provider_defaults_json,
            **wanted.switches,
        }
        self._change(m.GlobalSettings, row, values, "settings")

    def _merge(
        self,
        table: AnyTable,
        columns: tuple[str, ...],
        wanted: Mapping[tuple, dict],
        fixed: tuple[str, ...] = (),
    ) -> dict[tuple, int]:
        """Adds, changes and prunes rows by these columns; returns the ids by them.

        A row whose `fixed` columns differ is deleted and added again.
        """
        rows = {tuple(getattr(row, name) for name in columns): row for row in table.select()}
        obsolete = [key for key in rows if key not in wanted] if self.prunes else []
        obsolete += [
            key for key in wanted if key in rows and any(getattr(rows[key], n) != wanted[key][n] for n in fixed)
        ]
        for key in obsolete:
            self._delete(table, rows.pop(key), key)
        ids = {key: row.id for key, row in rows.items()}
        for key, values in wanted.items():
            if key in rows:
                self._change(table, rows[key], values, _row_name(key))
            else:
                ids[key] = self._add(table, dict(zip(columns, key, strict=True)) | values, _row_name(key))
        return ids

    def _add(self, table: AnyTable, values: dict, name: str) -> int:
        stamps = {n: self.now for n in ("created_at", "updated_at") if n in table._meta.fields}
        with track_changes(table, ()) as add_ids:
            row_id = table.insert(**values, **stamps).execute()
            add_ids([row_id])
        self.changes.append(Change(ADDED, table._meta.table_name, name))
        return row_id

    def _change(self, table: AnyTable, row: AnyTable, values: dict, name: str) -> None:
        differing = {n: (getattr(row, n), value) for n, value in values.items() if getattr(row, n) != value}
        if not differing:
            return
        with track_changes(table, [row.id]):
            changed = {n: value for n, (_, value) in differing.items()}
            stamp = {"updated_at": self.now} if "updated_at" in table._meta.fields else {}
            table.update(**changed, **stamp).where(table.id == row.id).execute()
        fields = {n: ("…", "…") if n in SECRET_COLUMNS else pair for n, pair in differing.items()}
        if "settings_json" in fields:
            before, after = fields["settings_json"]
            fields["settings_json"] = proxy_passwords.hide_in(before), proxy_passwords.hide_in(after)
        self.changes.append(Change(CHANGED, table._meta.table_name, name, fields))

    def _delete(self, table: AnyTable, row: AnyTable, key: tuple) -> None:
        with track_changes(table, [row.id]):
            table.delete().where(table.id == row.id).execute()
        self.changes.append(Change(DELETED, table._meta.table_name, _row_name(key)))

    def _credentials(self, provider_id: int, provider: NewProvider, unset: frozenset[str]) -> None:
        """Identifies a credential by its secret, or by its number if the file has a `key_variable` for the secret."""
        rows = list(m.Credential.select().where(m.Credential.provider == provider_id).order_by(m.Credential.id))
        remaining = {row.id: self._secret(row) for row in rows}
        by_variable = {f'"${{{key_variable(provider.name, number)}}}"': row for number, row in enumerate(rows, 1)}
        for number, wanted in enumerate(provider.credentials, 1):
            same = next((row for row in rows if remaining.get(row.id) == wanted.secret_json), None)
            if same is None:
                named = (r for name, r in by_variable.items() if r.id in remaining and name in wanted.secret_json)
                same = next(named, None)
            name = f"{provider.name} {number}"
            if same is None:
                prefix = KEY_VARIABLE_PREFIX
                if lost := [v for v in unset if v.startswith(prefix) and f'"${{{v}}}"' in wanted.secret_json]:
                    place = f"credential {number} of provider {provider.name!r}"
                    raise BadRequest(
                        f"{place}: {lost[0]} refers to a key that is not stored; set that variable or write the key"
                    )
                secret = self.seal.close(wanted.secret_json) if self.seal else wanted.secret_json
                row = asdict(wanted) | {"secret_json": secret, "provider_id": provider_id, "kind": provider.channel}
                self._add(m.Credential, row, name)
            else:
                del remaining[same.id]
                self._change(m.Credential, same, _without_secret(wanted), name)
        if self.prunes:
            for row in rows:
                if row.id in remaining:
                    self._delete(m.Credential, row, (provider.name, row.id))

    def _secret(self, row: m.Credential) -> str:
        return self.seal.open(row.secret_json) if self.seal else row.secret_json

    def _aliases(self, wanted: Content, providers: Mapping[str, int]) -> None:
        ids = self._merge(m.ModelAlias, ("alias",), {(one.alias,): _row(one, "targets") for one in wanted.aliases})
        for alias in wanted.aliases:
            alias_id = ids[alias.alias,]
            new = [(providers[one.provider], one.model_id, one.tier, one.weight) for one in alias.targets]
            table = m.AliasTarget
            query = table.select(table.provider, table.model_id, table.tier, table.weight)
            old = list(query.where(table.alias == alias_id).order_by(table.id).tuples())
            if old == new:
                continue
            before = targets([alias_id]).get(alias_id)
            table.delete().where(table.alias == alias_id).execute()
            for provider_id, model_id, tier, weight in new:
                row = {"provider": provider_id, "model_id": model_id, "tier": tier, "weight": weight}
                table.insert(alias=alias_id, **row).execute()
            after = targets([alias_id]).get(alias_id)
            log_change(
                "model_alias_targets",
                alias_id,
                {"targets": before} if before else None,
                {"targets": after} if after else None,
            )
            if old:
                counts = {"targets": (len(old), len(new))}
                self.changes.append(Change(CHANGED, "model_alias_targets", alias.alias, counts))

    def _users(self, wanted: Content, providers: Mapping[str, int]) -> None:
        rows = {}
        for user in wanted.users:
            rows[user.name,] = {"enabled": user.enabled, "is_admin": user.is_admin}
            if user.password_hash is not None:
                rows[user.name,]["password"] = user.password_hash
            if user.may_make_keys is not None:
                rows[user.name,]["may_make_keys"] = user.may_make_keys
        before = {row.id: _login_state(row) for row in m.User.select()}
        users = {name: row_id for (name,), row_id in self._merge(m.User, ("name",), rows).items()}
        for row in m.User.select():
            if before.get(row.id, _login_state(row)) != _login_state(row):
                m.Session.delete().where(m.Session.user == row).execute()
        keys = self._merge(m.UserKey, ("api_key_digest",), self._keys(wanted, users), ("user_id",))
        permissions, limits = {}, {}
        for name, provider, pattern in wanted.permissions:
            permissions[users[name], None, provider and providers[provider], pattern] = {}
        for name, limit in wanted.limits:
            limits[users[name], None, limit.model_pattern] = _amounts(limit)
        for user in wanted.users:
            for key in user.keys:
                owner = users[user.name], keys[key.digest,]
                for provider, pattern in key.permissions:
                    permissions[*owner, provider and providers[provider], pattern] = {}
                for limit in key.limits:
                    limits[*owner, limit.model_pattern] = _amounts(limit)
        self._merge(m.ModelPermission, ("user_id", "key_id", "provider_id", "model_pattern"), permissions)
        self._merge(m.RateLimit, ("user_id", "key_id", "model_pattern"), limits)
        files = {(users[name], providers[provider]): {} for name, provider in wanted.file_permissions}
        self._merge(m.FilePermission, ("user_id", "provider_id"), files)
        self._quotas(wanted, users)

    def _keys(self, wanted: Content, users: Mapping[str, int]) -> dict[tuple, dict]:
        """Keys by digest. Without pruning a restricted key stays restricted: it keeps the permissions it has."""
        narrowed = m.UserKey.select(m.UserKey.api_key_digest).where(m.UserKey.narrowed)
        restricted = set() if self.prunes else {digest for (digest,) in tuples(narrowed)}
        return {
            (key.digest,): {
                "user_id": users[user.name],
                "fingerprint": key.fingerprint,
                "label": key.label,
                "enabled": key.enabled,
                "disabled_by": key.disabler,
                "expires_at": key.expires_at,
                "budget": key.budget,
                "narrowed": key.is_narrowed or key.digest in restricted,
            }
            for user in wanted.users
            for key in user.keys
        }

    def _quotas(self, wanted: Content, users: Mapping[str, int]) -> None:
        """Caps and periods. `cost_used` is imported only for users who have no account yet."""
        capped = {users[name]: quota for name, quota in wanted.quotas}
        for name, user_id in users.items():
            row, quota = m.Quota.get_or_none(m.Quota.user == user_id), capped.get(user_id)
            if row is None and quota is not None:
                with track_changes(m.Quota, ()) as add_ids:
                    add_ids([open_account(user_id, quota, self.now)])
                self.changes.append(Change(ADDED, "user_quotas", name))
            elif row is not None and quota is not None and (row.quota, row.period) != (quota.quota, quota.period):
                set_quota(self.database, user_id, quota.quota, None, quota.period)
                fields = {"quota": (row.quota, quota.quota), "period": (row.period, quota.period)}
                self.changes.append(Change(CHANGED, "user_quotas", name, fields))
            elif quota is None and row is not None and row.quota is not None and self.prunes:
                remove_quota(self.database, user_id)
                self.changes.append(Change(DELETED, "user_quotas", name))


def _row(one, *without: str) -> dict:
    """The fields of a new row by name, except those in `without`."""
    return {name: value for name, value in asdict(one).items() if name not in without}


def _without_secret(credential: NewCredential) -> dict:
    return _row(credential, "secret_json")


def _amounts(limit) -> dict:
    return _row(limit, "model_pattern")


def _login_state(user: m.User) -> tuple:
    """The columns whose change ends a user's sessions."""
    return user.password, user.enabled, user.is_admin


def _row_name(key: tuple) -> str:
    """The identifying values of a row as text, each cut to 64 characters."""
    return " ".join(str(part)[:64] if part is not None else "*" for part in key)
