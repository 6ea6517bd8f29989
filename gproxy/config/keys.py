"""Documents about users' keys."""

import secrets

from marshmallow import Schema, fields
from marshmallow.validate import Length, Range

from gproxy.config.filters import Id, One, Scope
from gproxy.config.schemas import Instant, Money, Switch, key_cap, without_nul

MAX_AT_ONCE = 1_000


def key_label(**kwargs) -> fields.String:
    return fields.String(allow_none=True, validate=[Length(max=256), without_nul], **kwargs)


class KeyQuery(Schema):
    user_id = Scope(Id())


class NewKey(Schema):
    user_id = Id(required=True)
    label = key_label(load_default=None)
    budget = key_cap()
    expires_at = Instant(allow_none=True)


class OwnKey(Schema):
    """Which a user makes; caps and ends are an administrator's."""

    label = key_label(load_default=None)


class NewKeys(NewKey):
    count = fields.Integer(strict=True, required=True, validate=Range(1, MAX_AT_ONCE))


class KeyChange(Schema):
    """What is left out stays as it is; null takes it away."""

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


def id_list() -> One:
    """A bare list of ids."""
    at_once = Length(1, MAX_AT_ONCE, error=f"expected 1 to {MAX_AT_ONCE} ids")
    return One(fields.List(Id(), validate=at_once, required=True))


def new_key() -> str:
    """A fresh API key: 128 random bits."""
    return f"sk-api01-{secrets.token_hex(16)}"
