"""The content of a new database at the first start: seed, vendors' keys from the environment, administrator."""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gproxy.accounting import prices
from gproxy.admission.keys import digest, fingerprint
from gproxy.admission.passwords import hash_password
from gproxy.channels.kind import Kind
from gproxy.config import seed as documents
from gproxy.config.keys import new_key
from gproxy.config.schemas import REFERENCE, Switches
from gproxy.errors import StartupError
from gproxy.settings import VENDOR_KEYS, Settings
from gproxy.store import seeding


@dataclass(frozen=True, slots=True)
class GeneratedAdmin:
    """The values of a generated administrator, displayed once at the first start. None: the value was given."""

    user: str
    password: str | None
    api_key: str | None

    def text(self) -> str:
        return (
            "gproxy made an administrator; this is shown once:\n"
            f"  user      {self.user}\n"
            f"  password  {self.password or '(as given in GPROXY_ADMIN_PASSWORD or the seed)'}\n"
            f"  API key   {self.api_key or '(as given in GPROXY_ADMIN_API_KEY)'}"
        )


def content(
    settings: Settings, kinds: Mapping[str, Kind], reserved: frozenset[str]
) -> tuple[seeding.Content, GeneratedAdmin | None]:
    """Returns the content that a first start stores, and the generated administrator. Raises StartupError."""
    file = settings.seed_path.name if settings.seed_path else "seed"
    found = read({"global": {}, **settings.seed}, file, settings.environ, kinds, reserved)
    found = replace(found, providers=(*found.providers, *_vendors(settings, found)))
    return with_admin(found, settings)


def read(
    document: dict, file: str, environ: Mapping[str, str], kinds: Mapping[str, Kind], reserved: frozenset[str]
) -> seeding.Content:
    """Reads a document in the seed's format. Raises StartupError with all problems found."""
    seed = documents.read(document, file, environ, kinds, reserved)
    _refuse_shared_keys(seed["users"], file)
    has_settings = "global" in document
    return seeding.Content(
        enable_usage=seed["settings"].get("enable_usage", True) if has_settings else None,
        provider_defaults_json=documents.settings_json(seed["settings"]) if has_settings else None,
        providers=tuple(map(_provider, seed["providers"])),
        models=tuple(map(_model, seed["models"])),
        aliases=tuple(map(_alias, seed["model_aliases"])),
        users=tuple(map(_user, seed["users"])),
        permissions=tuple((p["user_name"], p["provider_name"], p["model_pattern"]) for p in seed["permissions"]),
        limits=tuple((row["user_name"], _limit(row)) for row in seed["rate_limits"]),
        quotas=tuple((row["user_name"], _quota(row)) for row in seed["quotas"]),
        file_permissions=tuple((row["user_name"], row["provider_name"]) for row in seed["file_permissions"]),
        switches={name: seed["settings"][name] for name in Switches().fields if name in seed["settings"]},
        unset=frozenset(name for name in _references(seed) if not environ.get(name, "").strip()),
    )


def _references(seed: dict) -> Iterator[str]:
    """The environment variables that credentials refer to."""
    for provider in seed["providers"]:
        for credential in provider["credentials"]:
            found = map(REFERENCE.fullmatch, documents.secret(credential).values())
            yield from (match[1] for match in found if match)


def _provider(row: dict) -> seeding.NewProvider:
    credentials = tuple(
        seeding.NewCredential(
            seeding.secret_json(**documents.secret(c)), c["name"], c["enabled"], c["weight"], c["rpm"], c["concurrency"]
        )
        for c in row["credentials"]
    )
    settings = documents.settings_json(row["settings"], is_own=True)
    return seeding.NewProvider(
        row["name"], row["channel"], row["label"], row["enabled"], settings, credentials, row["routing"]
    )


def _vendors(settings: Settings, found: seeding.Content) -> list[seeding.NewProvider]:
    """A provider for each vendor's key in the environment. The key is stored as a reference to its variable."""
    taken = {provider.name for provider in found.providers}
    return [
        seeding.NewProvider(
            f"{channel}-main",
            channel,
            None,
            True,
            "{}",
            (seeding.NewCredential(seeding.secret_json(api_key=f"${{{variable}}}")),),
        )
        for variable, channel in VENDOR_KEYS.items()
        if settings.environ.get(variable, "").strip() and f"{channel}-main" not in taken
    ]


def _model(row: dict) -> seeding.NewModel:
    return seeding.NewModel(
        row["provider_name"], row["model_id"], row["display_name"], row["enabled"], prices.document(row)
    )


def _alias(row: dict) -> seeding.NewAlias:
    targets = tuple(
        seeding.NewTarget(one["provider_name"], one["model_id"], one.get("tier", 0), one.get("weight", 1))
        for one in documents.targets(row)
    )
    return seeding.NewAlias(row["alias"], row["enabled"], targets, prices.document(row))


def _user(row: dict) -> seeding.NewUser:
    keys = tuple(map(_key, row["keys"]))
    return seeding.NewUser(
        row["name"],
        hash_password(row["password"]),
        row["enabled"],
        row["is_admin"],
        keys,
        row.get("may_make_keys"),
    )


def _key(row: dict) -> seeding.NewKey:
    key_digest = row.get("api_key_digest") or digest(row["api_key"])
    return seeding.NewKey(
        key_digest,
        fingerprint(key_digest),
        row["label"],
        row["enabled"],
        row["expires_at"],
        row.get("budget"),
        tuple((p["provider_name"], p["model_pattern"]) for p in row.get("permissions", ())),
        tuple(map(_limit, row["rate_limits"])),
        "permissions" in row,
        row["disabled_by"],
    )


def _limit(row: dict) -> seeding.NewLimit:
    return seeding.NewLimit(row["model_pattern"], row["rpm"], row["rpd"], row["total_tokens"], row["concurrency"])


def _quota(row: dict) -> seeding.NewQuota:
    return seeding.NewQuota(row["quota"], row["cost_used"], row["period"])


def _refuse_shared_keys(users: list[dict], file: str) -> None:
    """Raises StartupError if two users have the same key, also if one of them has only its digest."""
    first: dict[str, str] = {}
    problems = []
    for u, user in enumerate(users):
        for k, row in enumerate(user["keys"]):
            place = f"users[{u + 1}].keys[{k + 1}]"
            if (other := first.setdefault(_key(row).digest, place)) != place:
                problems.append(f"{file}: {place}: the same key as {other}; a key belongs to one user")
    if problems:
        raise StartupError(problems)


def with_admin(found: seeding.Content, settings: Settings) -> tuple[seeding.Content, GeneratedAdmin | None]:
    """Adds the administrator of the environment, or a generated one if no user is an administrator with a usable key.

    Raises StartupError if the administrator's key belongs to another user.
    """
    is_requested = settings.admin_api_key is not None or settings.admin_password is not None
    has_admin = any(u.is_admin and u.enabled and any(k.enabled for k in u.keys) for u in found.users)
    if has_admin and not is_requested:
        return found, None
    name = settings.admin_user
    key = settings.admin_api_key or new_key()
    password = settings.admin_password or secrets.token_urlsafe(16)
    key_digest = digest(key)
    admin = next((user for user in found.users if user.name == name), None)
    others = tuple(user for user in found.users if user is not admin)
    owner = next((u.name for u in found.users for k in u.keys if k.digest == key_digest), None)
    if owner not in (None, name):
        raise StartupError(
            [f"GPROXY_ADMIN_API_KEY: it is user {owner!r}'s key in the seed; choose another for {name!r}"]
        )
    own_keys = admin.keys if admin else ()
    keys = tuple(replace(k, enabled=True, disabled_by=None) if k.digest == key_digest else k for k in own_keys)
    if owner is None:
        keys += (seeding.NewKey(key_digest, fingerprint(key_digest)),)
    password_hash = admin.password_hash if admin and admin.password_hash and settings.admin_password is None else None
    may_make_keys = admin.may_make_keys if admin else None
    new_admin = seeding.NewUser(name, password_hash or hash_password(password), True, True, keys, may_make_keys)
    grant = (name, None, "*")
    permissions = found.permissions if grant in found.permissions else (*found.permissions, grant)
    generated = GeneratedAdmin(
        name,
        password if settings.admin_password is None and password_hash is None else None,
        key if settings.admin_api_key is None else None,
    )
    return replace(found, users=(*others, new_admin), permissions=permissions), generated
