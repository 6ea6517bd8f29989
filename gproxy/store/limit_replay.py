"""What a rate limit has counted, read from the usage rows: for a shared state that was lost or lacks the limit."""

from collections.abc import Callable
from dataclasses import dataclass

import peewee as pw

from gproxy.snapshot import RateLimit
from gproxy.store import models as m
from gproxy.store.ledger import stored_calls
from gproxy.store.rows import tuples
from gproxy.store.snapshot_loader import limits, read_transaction

HOUR_NS, MINUTE_NS = 3_600_000_000_000, 60_000_000_000


@dataclass(frozen=True, slots=True)
class LimitReplay:
    """`hours`: (hour since the epoch, model, requests, tokens); `recent`: (time, model) of the last minute.

    Calls before `since` (nanoseconds) do not count: the limit did not exist. `applies_to` returns whether this limit
    is the one that applies to a model. `stored` are the given calls that `hours` and `recent` contain.
    """

    user_id: int
    key_id: int | None
    applies_to: Callable[[str], bool]
    since: int
    hours: tuple[tuple[int, str, int, int], ...]
    recent: tuple[tuple[int, str], ...]
    stored: frozenset[int]


def replay_limit(limit_id: int, since: int, now: int, ids: list[int]) -> LimitReplay | None:
    """Times in nanoseconds; `ids` are calls of the journal. None if the limit does not exist."""
    with read_transaction():
        limit = m.RateLimit.get_or_none(m.RateLimit.id == limit_id)
        if limit is None:
            return None
        since = max(since, limit.created_at)
        is_owner = m.Usage.user_id == limit.user_id if limit.key_id is None else m.Usage.user_key_id == limit.key_id
        condition = is_owner & (m.Usage.at >= since)
        hour = (m.Usage.at / HOUR_NS).alias("hour_since_epoch")
        tokens = pw.fn.SUM(
            m.Usage.input_tokens
            + m.Usage.output_tokens
            + m.Usage.cache_read_input_tokens
            + m.Usage.cache_creation_input_tokens
        )
        hours = m.Usage.select(hour, m.Usage.model, pw.fn.COUNT(m.Usage.trace_id), tokens).where(condition)
        recent = m.Usage.select(m.Usage.at, m.Usage.model).where(condition & (m.Usage.at > now - MINUTE_NS))
        return LimitReplay(
            limit.user_id,
            limit.key_id,
            _applies_to(limit),
            since,
            tuple(
                (int(h), model, n, int(t))
                for h, model, n, t in tuples(hours.group_by(pw.SQL("hour_since_epoch"), m.Usage.model))
            ),
            tuple(tuples(recent.order_by(m.Usage.at))),
            stored_calls(ids),
        )


def _applies_to(limit: m.RateLimit) -> Callable[[str], bool]:
    by_user, by_key = limits()
    rows: list[RateLimit] = by_user[limit.user_id] if limit.key_id is None else by_key[limit.key_id]
    return lambda model: next((row.id for row in rows if row.matches(model)), None) == limit.id
