"""Filters of admin queries: all, one value, or a list of values."""

import re

from marshmallow import Schema, ValidationError, fields
from marshmallow.validate import OneOf, Range

# What a 64-bit column holds; a greater number would be a fault of the database and no answer.
MAX = 2**63 - 1
MAX_MS = MAX // 1_000_000 - 1
# Each is a parameter of a statement, and PostgreSQL takes 65,535 of them for all the fields of a filter.
MAX_VALUES = 1_000
OWN_GROUPS = ("day", "model", "tag", "user_key_id")
GROUPS = (*OWN_GROUPS, "provider_id", "user_id")


class Scope(fields.Field):
    """`"All"`, `{"Eq": v}`, `{"In": [v, …]}` in either case, a bare value, or nothing. Loads to a list or None."""

    def __init__(self, inner: fields.Field, **kwargs):
        super().__init__(load_default=None, allow_none=True, **kwargs)
        self.inner = inner

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, str) and value.lower() == "all":
            return None
        if isinstance(value, dict):
            if len(value) != 1:
                raise ValidationError('expected "All", {"Eq": value} or {"In": [values]}')
            (tag, inner), *_ = value.items()
            match tag.lower():
                case "eq":
                    return [self.inner.deserialize(inner)]
                case "in" if isinstance(inner, list):
                    if len(inner) > MAX_VALUES:
                        raise ValidationError(f"at most {MAX_VALUES} values at once")
                    return [self.inner.deserialize(item) for item in inner]
            raise ValidationError('expected "All", {"Eq": value} or {"In": [values]}')
        return [self.inner.deserialize(value)]


class Id(fields.Integer):
    """A row's id."""

    def __init__(self, **kwargs):
        super().__init__(strict=True, validate=Range(0, MAX), **kwargs)


class BigInt(fields.Integer):
    """A 63-bit number as a JSON number or as text, since JavaScript keeps only 53 bits."""

    def __init__(self, maximum: int = MAX, **kwargs):
        super().__init__(strict=True, validate=Range(0, maximum), **kwargs)

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
            value = int(value)
        return super()._deserialize(value, attr, data, **kwargs)


class One:
    """A document that is one field, with the `load` of a schema."""

    def __init__(self, field: fields.Field):
        self.field = field

    def load(self, value):
        return self.field.deserialize(value)


class UsageFilter(Schema):
    """Which usage rows: scopes, and an inclusive time range in milliseconds since the epoch."""

    provider_id = Scope(Id())
    credential_id = Scope(Id())
    channel = Scope(fields.String())
    model = Scope(fields.String())
    user_id = Scope(Id())
    user_key_id = Scope(Id())
    from_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)
    to_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)


class UsageBreakdown(UsageFilter):
    by = fields.String(required=True, validate=OneOf(GROUPS, error="expected one of {choices}"))


class DashboardQuery(Schema):
    from_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)
    to_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)
    bucket_seconds = fields.Integer(strict=True, load_default=3600, validate=Range(1, 31 * 86_400))


class MyUsage(Schema):
    """Query parameters: numbers come as text."""

    by = fields.String(load_default="day", validate=OneOf(OWN_GROUPS, error="expected one of {choices}"))
    from_unix_ms = BigInt(MAX_MS, load_default=None)
    to_unix_ms = BigInt(MAX_MS, load_default=None)


class UsageQuery(UsageFilter):
    """The same with a page: a cursor is the last row of the page before."""

    cursor_at_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)
    cursor_trace_id = BigInt(load_default=None, allow_none=True)
    offset = BigInt(load_default=0)
    limit = BigInt(load_default=None, allow_none=True)
