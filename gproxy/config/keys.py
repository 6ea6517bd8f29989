"""Admin API documents about users' keys, and the generation of keys."""

import secrets

from marshmallow import Schema, fields
from marshmallow.validate import Length, Range

from gproxy.config.filters import FieldDocument, Id, Page, ValueFilter
from gproxy.config.schemas import Instant, Money, Switch, key_cap, without_nul

MAX_AT_ONCE = 1_000


def key_label(**kwargs) -> fields.String:
    return fields.String(allow_none=True, validate=[Length(max=256), without_nul], **kwargs)


class KeyQuery(Page):
    user_id = ValueFilter(Id())


class NewKey(Schema):
    user_id = Id(required=True)
    label = key_label(load_default=None)
    budget = key_cap()
    expires_at = Instant(allow_none=True)


class OwnKey(Schema):
    """A key that a user creates. Only administrators set budgets and expiry times."""

    label = key_label(load_default=None)


class NewKeys(NewKey):
    count = fields.Integer(strict=True, required=True, validate=Range(1, MAX_AT_ONCE))


class KeyChange(Schema):
    """Missing fields keep their values; null removes a value."""

    id = Id(required=True)
    label = key_label()
    enabled = Switch(is_optional=True)
    budget = key_cap()
    expires_at = Instant(allow_none=True)
    cost_used = Money()


class KeySwitch(Schema):
    id = Id(required=True)
    enabled = Switch()


class KeyId(Schema):
    id = Id(required=True)


def id_list() -> FieldDocument:
    """Returns the document that is a list of ids."""
    at_once = Length(1, MAX_AT_ONCE, error=f"expected 1 to {MAX_AT_ONCE} ids")
    return FieldDocument(fields.List(Id(), validate=at_once, required=True))


def new_key() -> str:
    """Returns a new API key with 128 random bits."""
    return f"sk-api01-{secrets.token_hex(16)}"
