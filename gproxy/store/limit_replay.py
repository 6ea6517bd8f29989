"""What a limit row has counted, asked of the usage rows: for a state that was lost, or does not know the row yet."""

from collections.abc import Callable
from dataclasses import dataclass

import peewee as pw

from gproxy.snapshot import RateLimit
from gproxy.store import models as m
from gproxy.store.ledger import booked
from gproxy.store.snapshot_loader import limits, read

HOUR_NS, MINUTE_NS = 3_600_000_000_000, 60_000_000_000


@dataclass(frozen=True, slots=True)
class Traffic:
    """`hours`: (hour since the epoch, model, requests, tokens); `recent`: (moment, model) of the last minute.

    Nothing before `since` (nanoseconds) counts: before that the limit did not exist. `counts` tells whether this row
    is the one that applies to a model.
    """

    user_id: int
    key_id: int | None
    counts: Callable[[str], bool]
    since: int
    hours: tuple[tuple[int, str, int, int], ...]
    recent: tuple[tuple[int, str], ...]
    booked: frozenset[int]


def traffic(limit_id: int, since: int, now: int, ids: list[int]) -> Traffic | None:
    """None when there is no such limit. `ids` are calls of the journal: `booked` are those that are counted here."""
    with read():
        limit = m.RateLimit.get_or_none(m.RateLimit.id == limit_id)
        if limit is None:
            return None
        since = max(since, limit.created_at)
        own = m.Usage.user_id == limit.user_id if limit.key_id is None else m.Usage.user_key_id == limit.key_id
        mine = own & (m.Usage.at >= since)
        hour = (m.Usage.at / HOUR_NS).alias("hour_since_epoch")
        tokens = pw.fn.SUM(
            m.Usage.input_tokens
            + m.Usage.output_tokens
            + m.Usage.cache_read_input_tokens
            + m.Usage.cache_creation_input_tokens
        )
        hours = m.Usage.select(hour, m.Usage.model, pw.fn.COUNT(m.Usage.trace_id), tokens).where(mine)
        recent = m.Usage.select(m.Usage.at, m.Usage.model).where(mine & (m.Usage.at > now - MINUTE_NS))
        return Traffic(
            limit.user_id,
            limit.key_id,
            _counts(limit),
            since,
            tuple(
                (int(h), model, n, int(t))
                for h, model, n, t in hours.group_by(pw.SQL("hour_since_epoch"), m.Usage.model).tuples()
            ),
            tuple(recent.order_by(m.Usage.at).tuples()),
            booked(ids),
        )


def _counts(limit: m.RateLimit) -> Callable[[str], bool]:
    of_users, of_keys = limits()
    rows: list[RateLimit] = of_users[limit.user_id] if limit.key_id is None else of_keys[limit.key_id]
    return lambda model: next((row.id for row in rows if row.matches(model)), None) == limit.id
