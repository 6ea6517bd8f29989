"""Reads a seed document: fills in environment variables, validates, cross-checks, and reports all problems at once.

No effects: the store receives a complete document or nothing.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from marshmallow import ValidationError

from gproxy.channels.kind import API_KEY
from gproxy.config import schemas
from gproxy.config.loading import loaded
from gproxy.errors import StartupError

PROVIDER_SETTINGS = frozenset(
    name for name, field in schemas.ProviderSettings().fields.items() if not isinstance(field, schemas.UnsupportedField)
)
OWN_SETTINGS = frozenset(schemas.OwnSettings().fields) - frozenset(schemas.ProviderSettings().fields)
TABLES = tuple(name for name in schemas.Seed().fields if name != "settings")
UNKNOWN_FIELD = "Unknown field."


def read(
    document: dict,
    file: str,
    environ: Mapping[str, str],
    channels: Mapping,
    reserved: frozenset[str],
) -> dict:
    """Returns the seed as validated plain values. Raises StartupError with all problems, each with place and remedy."""
    problems: list[str] = []
    filled = _with_variables(document, environ, file, problems, ())
    try:
        seed = loaded(schemas.Seed(), filled)
    except ValidationError as fault:
        problems += _problems(fault.messages, file, filled, schemas.Seed())
        # The valid part is still cross-checked, so that one start reports every problem.
        seed = _valid_rows(fault.valid_data)
    problems += _cross_check(seed, filled, file, channels, reserved)
    if problems:
        raise StartupError(list(dict.fromkeys(problems)))
    return seed


def _with_variables(value, environ: Mapping[str, str], file: str, problems: list[str], at: tuple) -> Any:
    """Replaces every `${NAME}` by the stripped variable. A credential's secret keeps the reference."""
    if isinstance(value, dict):
        return {k: _with_variables(v, environ, file, problems, (*at, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_variables(v, environ, file, problems, (*at, i)) for i, v in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    if "credentials" in at and at[-1] in schemas.SECRETS and (reference := schemas.REFERENCE.fullmatch(value)):
        secret = environ.get(reference[1], "").strip()
        if at[-1] == "api_key" and secret and not schemas.HEADER_SAFE.fullmatch(secret):
            problems.append(f"{_place(file, at)}: environment variable {reference[1]} {schemas.UNSENDABLE}")
        return value

    def look_up(match: re.Match) -> str:
        if match[1] not in environ:
            problems.append(
                f"{_place(file, at)}: environment variable {match[1]} is not set; set it or write the value"
            )
            return f"unset-{match[1]}"  # an empty text would cause a second problem
        return environ[match[1]].strip()

    return schemas.REFERENCE.sub(look_up, value)


def _place(file: str, at: tuple) -> str:
    """Returns a place such as `gproxy.toml: providers[1].channel`, counted from 1."""
    text = ""
    for step in at:
        text += f"[{step + 1}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return f"{file}: {text}"


def _problems(messages, file: str, document, schema, at: tuple = ()) -> Iterator[str]:
    """Yields marshmallow's tree of messages as lines with place and remedy."""
    if isinstance(messages, list):
        for message in messages:
            yield f"{_place(file, at)}: {_with_remedy(str(message), at, schema)}"
        return
    for key, inner in messages.items():
        if key == "_schema":
            yield from _problems(inner, file, document, schema, at)
        elif isinstance(inner, list) and UNKNOWN_FIELD in inner:
            yield f"{_place(file, (*at, key))}: unknown {'key' if at else 'table'}{_suggestion(key, schema)}"
        else:
            yield from _problems(inner, file, document, _inner_schema(schema, key), (*at, key))


def _inner_schema(schema, key):
    """Returns the schema of a field's value, for suggestions."""
    field = getattr(schema, "fields", {}).get(key) or next(
        (f for f in getattr(schema, "fields", {}).values() if f.data_key == key), None
    )
    inner = getattr(field, "inner", field)
    return getattr(inner, "schema", schema) if field is not None else schema


def _suggestion(key: str, schema) -> str:
    names = [field.data_key or name for name, field in getattr(schema, "fields", {}).items()]
    close = get_close_matches(str(key), names, 1)
    return f"; did you mean {close[0]!r}?" if close else "; remove it"


def _with_remedy(message: str, at: tuple, schema) -> str:
    return {
        "Missing data for required field.": "missing; add it",
        "Not a valid string.": "expected a text in quotes",
        "Not a valid integer.": "expected a whole number",
        "Not a valid list.": "expected a list; write it as [[…]] or [ … ]",
        "Invalid type.": "expected a table; write it as [[…]] or { … }",
        "Invalid input type.": "expected a table; write it as [[…]] or { … }",
        "Field may not be null.": "must have a value",
    }.get(message, message)


def _valid_rows(valid) -> dict:
    """Returns the entries that can be cross-checked although others are invalid."""
    found: dict[str, Any] = {"settings": {}}
    for table in TABLES:
        found[table] = _rows(valid.get(table) if isinstance(valid, dict) else None)
    return found


def _rows(rows) -> list[dict]:
    """Returns the list with an empty table in place of everything that is not a table."""
    return [row if isinstance(row, dict) else {} for row in rows or ()]


def _cross_check(seed: dict, written: dict, file: str, channels: Mapping, reserved: frozenset[str]) -> Iterator[str]:
    """Yields the problems that only the whole document shows: duplicates and unknown names."""
    yield from _duplicates(seed["providers"], "providers", lambda row: row.get("name"), file, "name")
    yield from _duplicates(seed["users"], "users", lambda row: row.get("name"), file, "name")
    yield from _duplicates(seed["model_aliases"], "model_aliases", lambda row: row.get("alias"), file, "alias")
    for i, alias in enumerate(seed["model_aliases"]):
        yield from _duplicates(
            _rows(alias.get("targets")), f"model_aliases[{i + 1}].targets", _model_key, file, "model"
        )
    yield from _duplicates(seed["models"], "models", _model_key, file, "model_id")
    yield from _duplicates(seed["permissions"], "permissions", _permission_key, file, "model_pattern")
    yield from _duplicates(seed["rate_limits"], "rate_limits", _limit_key, file, "model_pattern")
    yield from _duplicates(seed["quotas"], "quotas", lambda row: row.get("user_name"), file, "user_name")
    yield from _duplicates(seed["file_permissions"], "file_permissions", _file_key, file, "provider_name")
    seen: dict[str | None, str] = {}
    for place, key in _keys(seed):
        yield from _duplicates(
            _rows(key.get("permissions")), f"{place}.permissions", _permission_key, file, "model_pattern"
        )
        yield from _duplicates(_rows(key.get("rate_limits")), f"{place}.rate_limits", _limit_key, file, "model_pattern")
        value = key.get("api_key") or key.get("api_key_digest")
        if value is not None and value in seen:
            yield f"{file}: {place}: the same key as {seen[value]}; a key belongs to one user"
        seen.setdefault(value, place)
    for i, provider in enumerate(seed["providers"]):
        yield from provider_problems(provider, f"{file}: providers[{i + 1}]", channels, reserved)
    yield from _unknown_names(seed, written, file)


def _keys(seed: dict) -> Iterator[tuple[str, dict]]:
    """Yields every user's key with its place."""
    for u, user in enumerate(seed["users"]):
        for k, key in enumerate(_rows(user.get("keys"))):
            yield f"users[{u + 1}].keys[{k + 1}]", key


def _model_key(row: dict):
    return (row.get("provider_name"), row["model_id"]) if row.get("model_id") else None


def _permission_key(row: dict):
    if not row.get("model_pattern"):
        return None
    return (row.get("user_name"), row.get("provider_name"), row["model_pattern"])


def _limit_key(row: dict):
    return (row.get("user_name"), row["model_pattern"]) if row.get("model_pattern") else None


def _file_key(row: dict):
    return (row.get("user_name"), row["provider_name"]) if row.get("provider_name") else None


def _duplicates(rows: list[dict], table: str, key: Callable, file: str, field: str) -> Iterator[str]:
    first: dict = {}
    for i, row in enumerate(rows):
        if (value := key(row)) is None:
            continue
        if value in first:
            yield f"{file}: {table}[{i + 1}].{field}: a duplicate of {table}[{first[value] + 1}]; remove one"
        first.setdefault(value, i)


def provider_problems(provider: dict, place: str, channels: Mapping, reserved: frozenset[str]) -> Iterator[str]:
    """Yields a provider's problems that concern more than one field, each with place and remedy."""
    name, channel = provider.get("name"), provider.get("channel")
    settings = provider.get("settings") or {}
    if name in reserved:
        yield f"{place}.name: {name!r} is a path of gproxy's own; choose another"
    if channel is None:
        return
    if channel not in channels:
        close = get_close_matches(channel, channels, 1)
        known = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(channels))}"
        yield f"{place}.channel: unknown channel {channel!r}; {known}"
        return
    kind = channels[channel]
    if kind.base_url is None and not settings.get("base_url"):
        yield f"{place}.settings.base_url: missing; a {channel} provider needs the address of its host"
    if (protocol := settings.get("protocol")) is not None and protocol not in kind.protocol_lanes:
        known = ", ".join(kind.protocol_lanes) or "none: the channel determines the protocol"
        yield f"{place}.settings.protocol: unknown protocol {protocol!r}; known: {known}"
    for i, credential in enumerate(_rows(provider.get("credentials"))):
        is_key = "api_key" in credential
        if (
            not kind.responder
            and is_key != (kind.credential_type == API_KEY)
            and (is_key or "private_key" in credential)
        ):
            what = (
                "an api_key" if kind.credential_type == API_KEY else f"a service account: {', '.join(schemas.ACCOUNT)}"
            )
            yield f"{place}.credentials[{i + 1}]: a {channel} provider takes {what}"


def _unknown_names(seed: dict, written: dict, file: str) -> Iterator[str]:
    # From the document as it was written: an invalid name is reported at its own place only, not where it is used.
    providers, users = _names(written.get("providers")), _names(written.get("users"))

    def check(place: str, value: str | None, known: set, what: str) -> Iterator[str]:
        if value is not None and value not in known:
            close = get_close_matches(value, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"add a {what} of that name"
            yield f"{file}: {place}: unknown {what} {value!r}; {hint}"

    for i, row in enumerate(seed["models"]):
        yield from check(f"models[{i + 1}].provider_name", row.get("provider_name"), providers, "provider")
    for i, row in enumerate(seed["model_aliases"]):
        for t, target in enumerate(_rows(row.get("targets"))):
            at = f"model_aliases[{i + 1}].targets[{t + 1}].provider"
            yield from check(at, target.get("provider_name"), providers, "provider")
        yield from check(f"model_aliases[{i + 1}].provider_name", row.get("provider_name"), providers, "provider")
    for table in ("permissions", "rate_limits", "quotas", "file_permissions"):
        for i, row in enumerate(seed[table]):
            yield from check(f"{table}[{i + 1}].user_name", row.get("user_name"), users, "user")
            yield from check(f"{table}[{i + 1}].provider_name", row.get("provider_name"), providers, "provider")
    for place, key in _keys(seed):
        for i, row in enumerate(_rows(key.get("permissions"))):
            at = f"{place}.permissions[{i + 1}].provider_name"
            yield from check(at, row.get("provider_name"), providers, "provider")


def _names(rows) -> set[str]:
    names = [row.get("name") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return {name for name in names if isinstance(name, str)}


def targets(alias: dict) -> list[dict]:
    """Returns an alias's targets, whether they were written as `targets` or as one provider and model."""
    if rows := alias.get("targets"):
        return [row for row in rows if isinstance(row, dict) and row.get("provider_name")]
    if alias.get("provider_name") is None:
        return []
    return [{"provider_name": alias["provider_name"], "model_id": alias.get("model_id")}]


def secret(credential: dict) -> dict[str, str]:
    """Returns the secret fields of a credential: its key, or its service account."""
    if "api_key" in credential:
        return {"api_key": credential["api_key"]}
    return {name: credential[name] for name in schemas.SECRETS if credential.get(name) is not None}


def settings_json(settings: Mapping, is_own: bool = False) -> str:
    """Returns the stored form of the provider settings in [global] or, with `is_own`, of a provider's own settings."""
    known = PROVIDER_SETTINGS | OWN_SETTINGS if is_own else PROVIDER_SETTINGS
    stored = {name: settings[name] for name in sorted(settings) if name in known}
    return json.dumps({name: value for name, value in stored.items() if value is not None})
