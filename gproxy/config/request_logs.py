"""Admin API documents about request logs."""

from marshmallow import Schema, fields
from marshmallow.validate import Length

from gproxy.config.filters import MAX_LOG_ROWS, MAX_MS, BigInt, Id, Page, PageLimit, ValueFilter
from gproxy.config.schemas import Switch

MAX_AT_ONCE = 10_000


class Query(Page):
    """`as_text` returns bodies as text instead of lists of bytes."""

    trace_id = ValueFilter(BigInt())
    from_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)
    to_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)
    cursor_at_unix_ms = BigInt(MAX_MS, load_default=None, allow_none=True)
    cursor_trace_id = BigInt(load_default=None, allow_none=True)
    limit = PageLimit(MAX_LOG_ROWS)
    include_body = Switch(default=False)
    as_text = Switch(default=False)


class Downstream(Query):
    user_id = ValueFilter(Id())
    user_key_id = ValueFilter(Id())
    request_path_contains = fields.String(load_default=None, allow_none=True)


class Upstream(Query):
    provider_id = ValueFilter(Id())
    credential_id = ValueFilter(Id())
    request_url_contains = fields.String(load_default=None, allow_none=True)


QUERIES = {"downstream": Downstream, "upstream": Upstream}


def ids(**kwargs) -> fields.List:
    return fields.List(BigInt(), validate=Length(max=MAX_AT_ONCE, error=f"at most {MAX_AT_ONCE} at once"), **kwargs)


class Clear(Schema):
    all = Switch(default=False)
    trace_ids = ids(load_default=None, allow_none=True)


class Delete(Schema):
    trace_ids = ids(required=True)
