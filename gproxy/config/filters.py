"""Filters of queries: pages, the field that accepts all, one or several values, and the documents about usage."""

import re

from marshmallow import Schema, ValidationError, fields
from marshmallow.validate import OneOf, Range

# The largest value of a 64-bit column. The database would fail on a larger one.
MAX = 2**63 - 1
MAX_MS = MAX // 1_000_000 - 1
# The most rows of a page, and of a page of the audit log or a request log, whose rows are longer.
MAX_ROWS, MAX_LOG_ROWS = 10_000, 1_000
# Each value is a parameter of the SQL statement, and PostgreSQL accepts 65,535 parameters for all fields together.
MAX_VALUES = 1_000
OWN_GROUPS = ("day", "model", "tag", "user_key_id")
GROUPS = (*OWN_GROUPS, "provider_id", "user_id")


class ValueFilter(fields.Field):
    """`"All"`, `{"Eq": v}`, `{"In": [v, …]}`, in upper or lower case, or a bare value. Loads to a list; None is all."""

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
    """A 63-bit number, as a JSON number or as text, because a JavaScript number holds only 53 bits."""

    def __init__(self, maximum: int = MAX, **kwargs):
        super().__init__(strict=True, validate=Range(0, maximum), **kwargs)

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
            value = int(value)
        return super()._deserialize(value, attr, data, **kwargs)


class PageLimit(BigInt):
    """The number of rows of a page. Loads to `maximum` if it is missing, null, 0 or larger."""

    def __init__(self, maximum: int):
        description = f"The number of rows of a page. Missing, null or 0: {maximum}, which is the maximum."
        super().__init__(load_default=maximum, allow_none=True, metadata={"description": description})
        self.page_maximum = maximum

    def deserialize(self, value, attr=None, data=None, **kwargs) -> int:
        return min(super().deserialize(value, attr, data, **kwargs) or self.page_maximum, self.page_maximum)


class Page(Schema):
    """Selects a part of the rows that a query finds. Every `/query` route has it."""

    limit = PageLimit(MAX_ROWS)
    offset = BigInt(load_default=0)


class FieldDocument:
    """A document that consists of one field. It has the `load` method of a schema."""

    def __init__(self, field: fields.Field):
        self.field = field

    def load(self, value):
        return self.field.deserialize(value)


class UsageFilter(Schema):
    """Selects usage rows by values and by an inclusive time range in milliseconds since the epoch."""

    provider_id = ValueFilter(Id())
    credential_id = ValueFilter(Id())
    channel = ValueFilter(fields.String())
    model = ValueFilter(fields.String())
    user_id = ValueFilter(Id())
    user_key_id = ValueFilter(Id())
    from_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)
    to_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)


class UsageBreakdown(UsageFilter):
    by = fields.String(required=True, validate=OneOf(GROUPS, error="expected one of {choices}"))


class DashboardQuery(Schema):
    from_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)
    to_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)
    bucket_seconds = fields.Integer(strict=True, load_default=3600, validate=Range(1, 31 * 86_400))


class MyUsage(Schema):
    """The query parameters of `/me/usage`. Numbers are text."""

    by = fields.String(load_default="day", validate=OneOf(OWN_GROUPS, error="expected one of {choices}"))
    from_unix_ms = BigInt(MAX_MS, load_default=None)
    to_unix_ms = BigInt(MAX_MS, load_default=None)


class UsageQuery(UsageFilter, Page):
    """A usage filter with a page. The cursor is the last row of the previous page."""

    cursor_at_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)
    cursor_trace_id = BigInt(load_default=None, allow_none=True)
