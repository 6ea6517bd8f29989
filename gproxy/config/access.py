"""Admin API documents about permissions, rate limits, quotas, credential statuses and usage rows."""

from marshmallow import Schema, fields
from marshmallow.validate import Length, OneOf, Range

from gproxy.config.filters import BigInt, FieldDocument, Id, Page, ValueFilter
from gproxy.config.schemas import Amounts, Money, Text, pattern, quota_period, user_cap, without_nul

# The largest value of an id column.
MAX_ID = 2**31 - 1
MAX_AT_ONCE = 10_000


def row_id(**kwargs) -> fields.Integer:
    """Returns the field for the id of the row to change; 0 creates a row."""
    error = f"expected a whole number from 0, for a new row, to {MAX_ID}"
    return fields.Integer(strict=True, validate=Range(0, MAX_ID, error=error), **kwargs)


class LimitQuery(Page):
    user_id = ValueFilter(Id())
    key_id = ValueFilter(Id())


class PermissionQuery(LimitQuery):
    provider_id = ValueFilter(Id())


class FilePermissionQuery(Page):
    user_id = ValueFilter(Id())
    provider_id = ValueFilter(Id())


class Permission(Schema):
    """A permission for all providers if there is no provider id. With a key id it applies to, and narrows, that key."""

    id = row_id(load_default=0)
    user_id = Id(required=True)
    key_id = Id(load_default=None, allow_none=True)
    provider_id = Id(load_default=None, allow_none=True)
    model_pattern = pattern()


class FilePermission(Schema):
    id = row_id(load_default=0)
    user_id = Id(required=True)
    provider_id = Id(required=True)


class LimitPlace(Schema):
    """Identifies a rate limit by user, model pattern and, for the limit of one key, key id."""

    user_id = Id(required=True)
    key_id = Id(load_default=None, allow_none=True)
    model_pattern = Text(without_nul, required=True)  # also one that could not be stored again


class Limit(Amounts, LimitPlace):
    id = row_id(load_default=0)
    model_pattern = pattern()


class RowId(Schema):
    id = Id(required=True)


class QuotaQuery(Page):
    user_id = ValueFilter(Id())


class Quota(Schema):
    """`quota` null: no cap. The other fields keep their values if they are missing."""

    user_id = Id(required=True)
    quota = user_cap(required=True, allow_none=True)
    cost_used = Money(load_default=None, allow_none=True)
    period = quota_period()


class CredentialStatusQuery(Page):
    provider_name = ValueFilter(fields.String())


class CredentialStatus(Schema):
    """`index`: the position among the provider's usable credentials, in the order of their ids, counted from 0."""

    provider_name = fields.String(required=True)
    index = fields.Integer(strict=True, required=True, validate=Range(0, MAX_ID))
    status = fields.String(required=True, validate=OneOf(("healthy", "dead"), error='expected "healthy" or "dead"'))


class UserId(Schema):
    user_id = Id(required=True)


def usage_ids() -> FieldDocument:
    """Returns the document that is a list of usage ids."""
    return FieldDocument(
        fields.List(BigInt(), validate=Length(max=MAX_AT_ONCE, error=f"at most {MAX_AT_ONCE} ids at once"))
    )
