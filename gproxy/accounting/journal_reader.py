"""The reader that joins `opened` and `settled` entries of the journal into usage rows."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from gproxy.accounting.entries import Opened, Settled, Tokens, to_line
from gproxy.accounting.segments import DamagedPart, read_lines


class SettledCall(NamedTuple):
    """The usage row of one finished call, and the byte offset in its segment up to which it was read."""

    row: dict
    segment: str
    end: int


class JournalReader:
    """Joins the `opened` and `settled` entries of one slot's segments into usage rows.

    `on_damaged` is called for each part of a segment that cannot be stored, in the order of their offsets:
    - what is no entry;
    - a `settled` entry whose `opened` entry is damaged or missing, because its user is unknown.
    The call of an `opened` entry whose `settled` entry is damaged never settles and is one of the `orphans`. Of a call
    with several `settled` entries the first one counts.
    """

    def __init__(self, on_damaged: Callable[[DamagedPart], None] = lambda part: None):
        self._on_damaged = on_damaged
        self._open: dict[int, tuple[Opened, str]] = {}  # by call id: its entry, and the segment it was read from last
        self._settled: dict[int, str] = {}  # by call id: the segment
        self._read_to: dict[str, int] = {}  # byte offset up to which each segment was read

    def settled_calls(self, path: Path, start: int, stop: int | None, is_final: bool = False) -> Iterator[SettledCall]:
        """Yields the calls that settled between two byte offsets of a segment. Raises OSError."""
        for found in read_lines(path, start, stop, is_final):
            if isinstance(found, DamagedPart):
                self._on_damaged(found)
                continue
            entry, segment, end, _ = found
            self._read_to[segment] = end
            if isinstance(entry, Opened):
                if entry.call_id not in self._settled:
                    self._open[entry.call_id] = entry, segment
            elif opened := self._open.pop(entry.call_id, None):
                self._settled[entry.call_id] = segment
                yield SettledCall(_row(opened[0], entry), segment, end)
            elif entry.call_id not in self._settled:
                reason = f"call {entry.call_id} has no opened entry"
                self._on_damaged(DamagedPart(reason, segment, found.start, end, to_line(entry)))

    def open_calls(self) -> Iterator[tuple[int, Opened]]:
        """Ids and `opened` entries of the calls that did not settle in what was read so far."""
        return ((call, opened) for call, (opened, _) in self._open.items())

    def orphans(self, segments: Collection[str] | None = None) -> Iterator[SettledCall]:
        """The calls that will never settle, as failed rows with the input estimate and cost 0: those still open.

        With `segments` only those that no other segment has. Nothing may be written to these segments any more.
        """
        found = [one for one in self._open.values() if segments is None or one[1] in segments]
        for n, (opened, segment) in enumerate(found, 1):
            tokens = Tokens(input=opened.input_tokens)
            settled = Settled(call_id=opened.call_id, outcome="failed", tokens=tokens, is_estimated=True)
            del self._open[opened.call_id]
            self._settled[opened.call_id] = segment
            # Offsets behind all settled calls, a different one for each: a second run then skips what is stored.
            yield SettledCall(_row(opened, settled), segment, self._read_to[segment] + n)

    def forget(self, segment: str) -> None:
        """Forgets a segment that was deleted."""
        self._read_to.pop(segment, None)
        self._settled = {call: name for call, name in self._settled.items() if name != segment}


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
