"""Filters of admin queries: all, one value, or a list of values."""

from marshmallow import Schema, ValidationError, fields


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
                    return [self.inner.deserialize(item) for item in inner]
            raise ValidationError('expected "All", {"Eq": value} or {"In": [values]}')
        return [self.inner.deserialize(value)]


class BigInt(fields.Integer):
    """A 63-bit number as a JSON number or as text, since JavaScript keeps only 53 bits."""

    def __init__(self, **kwargs):
        super().__init__(strict=False, **kwargs)


class UsageFilter(Schema):
    """Which usage rows: scopes, and an inclusive time range in milliseconds since the epoch."""

    provider_id = Scope(fields.Integer(strict=True))
    credential_id = Scope(fields.Integer(strict=True))
    channel = Scope(fields.String())
    model = Scope(fields.String())
    user_id = Scope(fields.Integer(strict=True))
    user_key_id = Scope(fields.Integer(strict=True))
    from_unix_ms = BigInt(load_default=None, allow_none=True)
    to_unix_ms = BigInt(load_default=None, allow_none=True)


def at_least(least: int):
    def check(value: int) -> None:
        if value is not None and value < least:
            raise ValidationError(f"must be at least {least}")

    return check


class UsageQuery(UsageFilter):
    """The same with a page: a cursor is the last row of the page before."""

    cursor_at_unix_ms = BigInt(load_default=None, allow_none=True)
    cursor_trace_id = BigInt(load_default=None, allow_none=True)
    offset = fields.Integer(strict=True, load_default=0, validate=at_least(0))
    limit = fields.Integer(strict=True, load_default=None, allow_none=True, validate=at_least(0))
