"""The reader that joins `opened` and `settled` entries of the journal into usage rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from gproxy.accounting.entries import Opened, Settled, Tokens
from gproxy.accounting.journal import read_lines


class SettledCall(NamedTuple):
    """The usage row of one finished call, and the byte offset in its segment up to which it was read."""

    row: dict
    segment: str
    end: int


class JournalReader:
    """Joins the `opened` and `settled` entries of one slot's segments into usage rows."""

    def __init__(self):
        self._open: dict[int, tuple[Opened, str]] = {}  # by call id: its entry, and the segment it was read from last
        self._read_to: dict[str, int] = {}  # byte offset up to which each segment was read

    def settled_calls(self, path: Path, start: int, stop: int | None) -> Iterator[SettledCall]:
        """Yields the calls that settled between two byte offsets of a segment. Raises OSError."""
        for entry, segment, end in read_lines(path, start, stop):
            self._read_to[segment] = end
            if isinstance(entry, Opened):
                self._open[entry.call_id] = entry, segment
            elif found := self._open.pop(entry.call_id, None):
                yield SettledCall(_row(found[0], entry), segment, end)

    def open_calls(self) -> Iterator[tuple[int, Opened]]:
        """Ids and `opened` entries of the calls that did not settle in what was read so far."""
        return ((call, opened) for call, (opened, _) in self._open.items())

    def orphans(self) -> Iterator[SettledCall]:
        """The calls of a crashed worker that never settled, as failed rows with the input estimate and cost 0."""
        for n, (opened, segment) in enumerate(self._open.values(), 1):
            tokens = Tokens(input=opened.input_tokens)
            settled = Settled(call_id=opened.call_id, outcome="failed", tokens=tokens, is_estimated=True)
            # Offsets behind all settled calls, a different one for each: a second run then skips what is stored.
            yield SettledCall(_row(opened, settled), segment, self._read_to[segment] + n)

    def forget(self, segment: str) -> None:
        self._read_to.pop(segment, None)


def _row(opened: Opened, settled: Settled) -> dict:
    """The usage row of a call, ready for the database."""
    provider, channel, credential = settled.served_by or (opened.provider_id, opened.channel, opened.credential_id)
    tokens = settled.tokens
    return {
        "trace_id": opened.call_id,
        "downstream_trace_id": opened.request_log_id,
        "request_id": opened.request_id,
        "at": opened.at,
        "provider_id": provider,
        "provider_channel": channel,
        "credential_id": credential,
        "user_id": opened.user_id,
        "user_key_id": opened.key_id,
        "operation": opened.operation,
        "protocol": opened.protocol,
        "model": opened.model,
        "end_user": opened.end_user,
        "tag": opened.tag,
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "reasoning_tokens": tokens.reasoning,
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation_input_tokens": tokens.cache_write + tokens.cache_write_5m + tokens.cache_write_1h,
        "cache_creation_input_tokens_5min": tokens.cache_write_5m,
        "cache_creation_input_tokens_1h": tokens.cache_write_1h,
        "cost": settled.cost,
        "price_source": settled.price_source,
        "priced": settled.price_source is not None,
        "estimated": settled.is_estimated,
        "status": settled.status,
        "outcome": settled.outcome,
        "latency_ms": settled.latency_ms,
        "first_byte_ms": settled.first_byte_ms,
        "attempts": settled.attempts,
        "tries": orjson.dumps(settled.tries).decode(),
        "losses": orjson.dumps(sorted({*opened.losses, *(settled.losses or ())})).decode(),
    }


def tokens_of(row: dict) -> int:
    """All tokens of a usage row, each class counted once."""
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(row[name] for name in names)
