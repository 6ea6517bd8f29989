"""Documents about permissions, rate limits and quotas."""

from marshmallow import Schema, fields
from marshmallow.validate import Length, OneOf, Range

from gproxy.config.filters import BigInt, Id, One, Scope
from gproxy.config.schemas import Amounts, Money, pattern, quota_period, user_cap

# What a column of ids holds.
MAX_ID = 2**31 - 1
MAX_AT_ONCE = 10_000


def row_id(**kwargs) -> fields.Integer:
    """Of the row that is changed; 0 for a new one."""
    error = f"expected a whole number from 0, for a new row, to {MAX_ID}"
    return fields.Integer(strict=True, validate=Range(0, MAX_ID, error=error), **kwargs)


class Page(Schema):
    limit = BigInt(load_default=None, allow_none=True)
    offset = BigInt(load_default=0)


class LimitQuery(Page):
    user_id = Scope(Id())
    key_id = Scope(Id())


class PermissionQuery(LimitQuery):
    provider_id = Scope(Id())


class FilePermissionQuery(Page):
    user_id = Scope(Id())
    provider_id = Scope(Id())


class Permission(Schema):
    """Without a provider: on any. With a key: of that key alone, which it narrows."""

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
    """Whose limit, for which models. With a key: of that key alone."""

    user_id = Id(required=True)
    key_id = Id(load_default=None, allow_none=True)
    model_pattern = pattern()


class Limit(Amounts, LimitPlace):
    id = row_id(load_default=0)


class RowId(Schema):
    id = Id(required=True)


class QuotaQuery(Page):
    user_id = Scope(Id())


class Quota(Schema):
    """No `quota`: no cap. What is left out besides stays as it is."""

    user_id = Id(required=True)
    quota = user_cap(required=True, allow_none=True)
    cost_used = Money(load_default=None, allow_none=True)
    period = quota_period()


class CredentialStatusQuery(Schema):
    provider_name = Scope(fields.String())


class CredentialStatus(Schema):
    """Of the credential at this place among its provider's usable ones, counted from 0 by their ids."""

    provider_name = fields.String(required=True)
    index = fields.Integer(strict=True, required=True, validate=Range(0, MAX_ID))
    status = fields.String(required=True, validate=OneOf(("healthy", "dead"), error='expected "healthy" or "dead"'))


class UserId(Schema):
    user_id = Id(required=True)


def usage_ids() -> One:
    """A bare list of usage ids. An empty one names none."""
    return One(fields.List(BigInt(), validate=Length(max=MAX_AT_ONCE, error=f"at most {MAX_AT_ONCE} ids at once")))
