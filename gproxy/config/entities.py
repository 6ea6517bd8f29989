"""Admin API documents about providers, credentials, models, aliases, users and the gateway as a whole.

A row without an `id`, or with 0, is new. In a change, fields that are missing keep their values.
"""

import json
import re
from decimal import Decimal
from typing import Any, cast

import orjson
from marshmallow import Schema, ValidationError, fields, missing, pre_load, validates_schema
from marshmallow.validate import Length, Range

from gproxy.config import schemas
from gproxy.config.access import MAX_ID, row_id
from gproxy.config.filters import MAX_LOG_ROWS, FieldDocument, Id, Page, PageLimit, ValueFilter
from gproxy.config.keys import MAX_AT_ONCE
from gproxy.config.loading import loaded
from gproxy.config.routing import Routing
from gproxy.config.schemas import Count, Switch, Text, Weight, given, without_nul
from gproxy.config.seed import secret, settings_json

MAX_PASSWORD = 1024
AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,18})?")
# Fields of the model that price documents of other gateways repeat. They are ignored.
MODEL_FIELDS = ("model_id", "display_name", "provider_name", "enabled")


class Login(Schema):
    username = fields.String(required=True, validate=Length(max=1024))
    password = fields.String(required=True, validate=Length(max=MAX_PASSWORD))


class Document(fields.Field):
    """An object, or its JSON text as consoles of other gateways send it. Loads by the schema `inner`."""

    def __init__(self, inner: Schema, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def _deserialize(self, value, attr, data, **kwargs):
        return self.inner.load(as_object(value))


def as_object(value) -> dict:
    """Returns an object or its JSON text as a dict, with Decimal for fractions. Empty text is an empty dict.

    Raises ValidationError on everything else.
    """
    try:
        text = value if isinstance(value, str) else json.dumps(value)
        if text.strip():
            orjson.loads(text)  # refuses invalid Unicode such as a lone surrogate, which no response could contain
        found = json.loads(text, parse_float=Decimal) if text.strip() else {}
    except (ValueError, RecursionError):
        raise ValidationError("not readable JSON") from None
    if not isinstance(found, dict):
        raise ValidationError("expected an object")
    return found


class Prices(Document):
    def __init__(self):
        super().__init__(schemas.Priced(), allow_none=True)

    def _deserialize(self, value, attr, data, **kwargs):
        found = {name: rate for name, rate in as_object(value).items() if name not in MODEL_FIELDS and rate is not None}
        return self.inner.load(_map_leaves(found, _number))


def prices_json(stored: str | None) -> str | None:
    """Returns a stored price document, with those amounts as numbers that a float can hold exactly."""
    return stored and json.dumps(_map_leaves(json.loads(stored, parse_float=Decimal), _float))


def _map_leaves(value, function):
    if isinstance(value, dict):
        return {name: _map_leaves(inner, function) for name, inner in value.items()}
    if isinstance(value, list):
        return [_map_leaves(inner, function) for inner in value]
    return function(value)


def _number(value):
    """Converts an amount that was written as text, since a JSON number cannot hold every amount."""
    return Decimal(value) if isinstance(value, str) and AMOUNT.fullmatch(value) else value


def _float(value):
    amount = _number(value)
    if not isinstance(amount, Decimal):
        return value
    return float(amount) if Decimal(repr(float(amount))) == amount else str(amount)


class Settings(Document):
    """A provider's settings. Loads to the stored form."""

    def __init__(self):
        super().__init__(schemas.OwnSettings(), allow_none=True)

    def _deserialize(self, value, attr, data, **kwargs):
        settings = cast("dict[str, Any]", super()._deserialize(value, attr, data, **kwargs))
        return settings_json(settings, is_own=True)


class Routes(Routing):
    """Routing that may also be text: a preset's name, or a JSON document. Empty: the channel's own table."""

    def __init__(self):
        super().__init__()
        self.load_default = missing

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, str) and (not value.strip() or value.lstrip().startswith("{")):
            value = as_object(value)
        return super()._deserialize(value, attr, data, **kwargs)


class ProviderQuery(Page):
    id = ValueFilter(Id())
    name = ValueFilter(fields.String())
    channel = ValueFilter(fields.String())


class Provider(Schema):
    id = row_id(load_default=0)
    name = Text(schemas.PATH_SEGMENT)
    channel = Text()
    label = fields.String(allow_none=True, validate=[Length(max=1024), without_nul])
    enabled = Switch(is_optional=True)
    settings_json = Settings()
    routing_json = Routes()

    @pre_load
    def _accept_seed_names(self, data, **kwargs):
        """Accepts the seed's names `settings` and `routing` for `settings_json` and `routing_json`."""
        if not isinstance(data, dict):
            return data
        names = {"settings": "settings_json", "routing": "routing_json"}
        return {names.get(name, name) if names.get(name) not in data else name: v for name, v in data.items()}


class Channel(Schema):
    channel = Text(required=True)


class CredentialQuery(Page):
    id = ValueFilter(Id())
    provider_name = ValueFilter(fields.String())
    provider_id = ValueFilter(Id())
    reveal = Switch(default=False)


class Secret(fields.Field):
    """A key as text, or the fields of a key or service account as in the seed. Loads to the secret fields."""

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, str) and not value.lstrip().startswith("{"):
            value = {"api_key": value}
        return secret(loaded(schemas.Secret(), as_object(value)))


class Credential(Schema):
    """A credential of the provider with this name or id. `credential` may contain the other fields, as in the seed."""

    id = row_id(load_default=0)
    provider_name = fields.String()
    provider_id = Id()
    credential = Secret()
    name = Text(allow_none=True)
    enabled = Switch(is_optional=True)
    weight = Weight()
    rpm = Count(is_optional=True)
    concurrency = Count(is_optional=True)

    @pre_load
    def _lift_options(self, data, **kwargs):
        inner = data.get("credential") if isinstance(data, dict) else None
        if not isinstance(inner, dict):
            return data
        options = {name: value for name, value in inner.items() if name in CREDENTIAL_OPTIONS}
        secrets = {name: value for name, value in inner.items() if name not in CREDENTIAL_OPTIONS}
        return {**options, **data, "credential": secrets}

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check(self, data, original, **kwargs):
        if not given(original, "provider_name", "provider_id") and not data.get("id"):
            raise ValidationError("missing; a new credential needs provider_name or provider_id", "provider_name")


CREDENTIAL_OPTIONS = ("name", "enabled", "weight", "rpm", "concurrency")


class ModelQuery(Page):
    id = ValueFilter(Id())
    provider_id = ValueFilter(Id())
    model_id = ValueFilter(fields.String())
    enabled = ValueFilter(fields.Boolean())


class Model(Schema):
    id = row_id(load_default=0)
    provider_id = Id()
    provider_name = fields.String()
    model_id = Text(without_nul)
    display_name = fields.String(allow_none=True, validate=[Length(max=1024), without_nul])
    enabled = Switch(is_optional=True)
    pricing_json = Prices()


class AliasQuery(Page):
    id = ValueFilter(Id())
    alias = ValueFilter(fields.String())
    enabled = ValueFilter(fields.Boolean())


class Alias(Schema):
    """An alias. A single target may be written as `provider_name` and `model_id`."""

    id = row_id(load_default=0)
    alias = Text(without_nul, schemas.bounded_alias)
    enabled = Switch(is_optional=True)
    targets = fields.List(
        fields.Nested(schemas.Target),
        validate=[Length(1, schemas.MAX_TARGETS, error=schemas.TARGETS), schemas.targets_differ],
    )
    pricing_json = Prices()

    @pre_load
    def _accept_single_target(self, data, **kwargs):
        if not isinstance(data, dict) or "targets" in data or not given(data, "provider_name", "model_id"):
            return data
        others = {name: value for name, value in data.items() if name not in ("provider_name", "model_id")}
        return {**others, "targets": [{"provider": data.get("provider_name"), "model": data.get("model_id")}]}


class UserQuery(Page):
    id = ValueFilter(Id())
    name = ValueFilter(fields.String())


class User(Schema):
    """A user. An empty password keeps the current one."""

    id = row_id(load_default=0)
    name = Text(without_nul)
    password = fields.String(allow_none=True, validate=Length(max=MAX_PASSWORD))
    enabled = Switch(is_optional=True)
    is_admin = Switch(is_optional=True)
    may_make_keys = Switch(is_optional=True)


class GlobalSettings(schemas.Switches):
    """Global settings. The process settings are read at the start: a document may repeat but not change them."""

    host = fields.Raw()
    port = fields.Raw()
    dsn = fields.Raw(allow_none=True)
    data_dir = fields.Raw()
    proxy = fields.Raw(allow_none=True)
    spoof_emulation = fields.Raw(allow_none=True)
    update_channel = fields.Raw(allow_none=True)
    enable_usage = Switch(is_optional=True)
    provider_defaults = Document(schemas.Defaults())


class Named(fields.Field):
    """Identifies a row to delete: an id, a name, or an object with one of them."""

    def __init__(self, *names: str, **kwargs):
        super().__init__(**kwargs)
        self.names = names

    def _deserialize(self, value, attr, data, **kwargs):
        known = (*self.names, "id")
        if isinstance(value, dict):
            if len(value) != 1 or next(iter(value)) not in known:
                raise ValidationError(f"expected {' or '.join(('id', *self.names))}")
            ((name, value),) = value.items()
            known = (name,)
        if "id" in known and type(value) is int and 0 <= value <= MAX_ID:
            return value
        # Text is always a name, even if it looks like an id.
        if known != ("id",) and isinstance(value, str) and value:
            return value
        raise ValidationError("expected an id" + (f" or a {self.names[0]}" if self.names else ""))


class CredentialPlace(Schema):
    """Identifies a credential by its id, or by its position among its provider's enabled ones, counted from 0."""

    id = Id()
    provider_name = fields.String()
    index = fields.Integer(strict=True, validate=Range(0, MAX_ID))

    @validates_schema
    def _check(self, data, **kwargs):
        if ("id" in data) == (data.keys() >= {"provider_name", "index"}):
            raise ValidationError("give id, or provider_name and index")


class Export(Schema):
    secrets = Switch(default=False)


class Import(Schema):
    """`prune` deletes what the document does not contain."""

    toml = fields.String(required=True)
    dry_run = Switch(default=False)
    prune = Switch(default=False)


class Explain(Schema):
    """The caller, by key or user id, and the request: `path` as a client calls it, `body` and relevant headers."""

    user_id = Id()
    key_id = Id()
    path = fields.String(load_default="/v1/chat/completions", validate=Length(1, 2048))
    body = fields.Raw(load_default=dict)
    headers = fields.Dict(keys=fields.String(), values=fields.String(), load_default=dict)

    @validates_schema
    def _check(self, data, **kwargs):
        if "user_id" not in data and "key_id" not in data:
            raise ValidationError("give user_id or key_id")


class Pull(Schema):
    provider_id = Id(required=True)


def place() -> fields.Nested:
    return fields.Nested(CredentialPlace)


class RowList:
    """A document that is a list of rows of a schema. It has the `load` method of a schema."""

    def __init__(self, schema: type[Schema]):
        self.schema = schema(many=True)

    def load(self, value) -> list[dict]:
        if not isinstance(value, list) or len(value) > MAX_AT_ONCE:
            raise ValidationError([f"expected a list of at most {MAX_AT_ONCE} rows"])
        return cast("list[dict]", self.schema.load(value))


class ListDocument(FieldDocument):
    """A document that is a list of this field."""

    def __init__(self, field: fields.Field):
        super().__init__(fields.List(field, validate=Length(max=MAX_AT_ONCE, error=f"at most {MAX_AT_ONCE} at once")))


class AuditQuery(Page):
    limit = PageLimit(MAX_LOG_ROWS)
    user_id = ValueFilter(Id())
    entity = ValueFilter(fields.String())
    entity_id = ValueFilter(fields.String())
    action = ValueFilter(fields.String())
    from_unix_ms = fields.Integer(strict=True, allow_none=True, validate=Range(0, 2**43))
    to_unix_ms = fields.Integer(strict=True, allow_none=True, validate=Range(0, 2**43))
    before_id = Id(allow_none=True)
