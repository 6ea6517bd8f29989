"""Reads the journal's entries back into usage rows: `opened` joined with `settled`."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from gproxy.accounting.journal import Line, read_lines


class SettledCall(NamedTuple):
    """One finished call, and how far its segment has been read with it."""

    row: dict
    segment: str
    end: int


class Reader:
    """Joins `open` and `settled` lines over a slot's segments into rows."""

    def __init__(self):
        self._opens: dict[int, Line] = {}
        self._ends: dict[str, int] = {}  # how far each segment was read

    def rows(self, path: Path, start: int, stop: int | None) -> Iterator[SettledCall]:
        for line in read_lines(path, start, stop):
            self._ends[line.segment] = line.end
            if (call := line.entry.get("o")) is not None:
                self._opens[call] = line
            elif opened := self._opens.pop(line.entry["s"], None):
                yield SettledCall(_row(opened.entry, line.entry), line.segment, line.end)

    def opens(self) -> Iterator[tuple[int, dict]]:
        """The calls that did not end, so far as was read."""
        return ((call, opened.entry) for call, opened in self._opens.items())

    def orphans(self) -> Iterator[SettledCall]:
        """The calls of a dead process that never settled: failed, with the input estimate and no cost."""
        for n, opened in enumerate(self._opens.values(), 1):
            settled = {"n": [opened.entry["e"], 0, 0, 0, 0, 0, 0], "x": "failed", "est": True}
            # Behind all that was settled there, each at a place of its own: so a replay knows what is booked.
            yield SettledCall(_row(opened.entry, settled), opened.segment, self._ends[opened.segment] + n)

    def forget(self, segment: str) -> None:
        self._ends.pop(segment, None)


def _row(opened: dict, settled: dict) -> dict:
    """A usage row, ready for the database."""
    fresh, output, reasoning, read, written, five, hour = settled["n"]
    # Who served it in the end, where that is another than was asked first.
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
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written + five + hour,
        "cache_creation_input_tokens_5min": five,
        "cache_creation_input_tokens_1h": hour,
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
    """All that a call used, each class once."""
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(row[name] for name in names)
