"""The schema of journal entries, and the reader that joins `opened` and `settled` entries into usage rows.

An entry is a JSON object on one line. `opened`:

    o    call id                            op   operation
    e    estimated input tokens             pr   protocol
    h    reserved [nano-USD, tokens]        m    model name of the request
    at   nanoseconds since the epoch        eu   end user
    u    user id                            t    tag
    k    key id                             rq   request id
    p    provider id                        d    id of the logged client request
    c    channel                            lo   losses of the request in translation
    r    credential id

`settled`:

    s    call id                            a    number of attempts
    x    outcome                            tr   last attempts: [provider id, credential id, result, milliseconds]
    st   status                             by   [provider id, channel, credential id] that answered
    n    tokens, see `_row`                 ps   price source
    c    cost in nano-USD                   est  true if the tokens are estimated
    l    milliseconds to the end            lo   losses of the reply in translation
    f    milliseconds to the first byte
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from gproxy.accounting.journal import Line, read_lines


class SettledCall(NamedTuple):
    """The usage row of one finished call, and the byte offset in its segment up to which it was read."""

    row: dict
    segment: str
    end: int


class JournalReader:
    """Joins the `opened` and `settled` entries of one slot's segments into usage rows."""

    def __init__(self):
        self._opened: dict[int, Line] = {}
        self._read_to: dict[str, int] = {}  # byte offset up to which each segment was read

    def settled_calls(self, path: Path, start: int, stop: int | None) -> Iterator[SettledCall]:
        """Yields the calls that settled between two byte offsets of a segment. Raises OSError."""
        for line in read_lines(path, start, stop):
            self._read_to[line.segment] = line.end
            if (call := line.entry.get("o")) is not None:
                self._opened[call] = line
            elif opened := self._opened.pop(line.entry["s"], None):
                yield SettledCall(_row(opened.entry, line.entry), line.segment, line.end)

    def open_calls(self) -> Iterator[tuple[int, dict]]:
        """Ids and `opened` entries of the calls that did not settle in what was read so far."""
        return ((call, opened.entry) for call, opened in self._opened.items())

    def orphans(self) -> Iterator[SettledCall]:
        """The calls of a crashed worker that never settled, as failed rows with the input estimate and cost 0."""
        for n, opened in enumerate(self._opened.values(), 1):
            settled = {"n": [opened.entry["e"], 0, 0, 0, 0, 0, 0], "x": "failed", "est": True}
            # Offsets behind all settled calls, a different one for each: a second run then skips what is stored.
            yield SettledCall(_row(opened.entry, settled), opened.segment, self._read_to[opened.segment] + n)

    def forget(self, segment: str) -> None:
        self._read_to.pop(segment, None)


def _row(opened: dict, settled: dict) -> dict:
    """The usage row of a call, ready for the database."""
    fresh, output, reasoning, cache_read, cache_write, cache_write_5m, cache_write_1h = settled["n"]
    # `by` is present if another target or credential answered than the one of the `opened` entry.
    provider, channel, credential = settled.get("by") or (opened["p"], opened["c"], opened["r"])
    return {
        "trace_id": opened["o"],
        "downstream_trace_id": opened.get("d"),
        "request_id": opened["rq"],
        "at": opened["at"],
        "provider_id": provider,
        "provider_channel": channel,
        "credential_id": credential,
        "user_id": opened["u"],
        "user_key_id": opened["k"],
        "operation": opened["op"],
        "protocol": opened["pr"],
        "model": opened["m"],
        "end_user": opened.get("eu"),
        "tag": opened.get("t"),
        "input_tokens": fresh,
        "output_tokens": output,
        "reasoning_tokens": reasoning,
        "cache_read_input_tokens": cache_read,
        "cache_creation_input_tokens": cache_write + cache_write_5m + cache_write_1h,
        "cache_creation_input_tokens_5min": cache_write_5m,
        "cache_creation_input_tokens_1h": cache_write_1h,
        "cost": settled.get("c", 0),
        "price_source": settled.get("ps"),
        "priced": settled.get("ps") is not None,
        "estimated": settled.get("est", False),
        "status": settled.get("st"),
        "outcome": settled["x"],
        "latency_ms": settled.get("l"),
        "first_byte_ms": settled.get("f"),
        "attempts": settled.get("a", 1),
        "tries": orjson.dumps(settled.get("tr", ())).decode(),
        "losses": orjson.dumps(sorted({*opened.get("lo", ()), *settled.get("lo", ())})).decode(),
    }


def tokens_of(row: dict) -> int:
    """All tokens of a usage row, each class counted once."""
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(row[name] for name in names)
