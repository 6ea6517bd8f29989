"""`opened` and `settled` lines joined into usage rows. The lines are written as JSON, as other versions wrote them."""

from pathlib import Path

import orjson
import pytest

from gproxy.accounting.journal_reader import JournalReader


def opened(call: int, **more) -> dict:
    entry = {
        "o": call,
        "e": 40 + call,
        "rq": f"req_{call}",
        "at": 1_790_000_000_000_000_000 + call,
        "u": 1,
        "k": 2,
        "p": 3,
        "c": "openai",
        "r": 4,
        "op": "generate_content",
        "pr": "openai_chat_completions",
        "m": "gpt-4.1",
        "eu": "end",
        "t": "tag",
    }
    return {**entry, **more}


def settled(call: int, **more) -> dict:
    return {"s": call, "x": "complete", "st": 200, "n": [1, 2, 1, 3, 4, 5, 6], "c": 77, "l": 9, "a": 2, **more}


def write(path: Path, *entries: dict, room: int = 500) -> Path:
    path.write_bytes(b"".join(orjson.dumps(entry) + b"\n" for entry in entries) + b"\0" * room)
    return path


def ids(settled_calls) -> list[int]:
    return [call.row["trace_id"] for call in settled_calls]


def test_a_call_becomes_a_row_with_all_fields_of_its_entries(tmp_path):
    path = write(tmp_path / "1.log", opened(7), settled(7, ps="shipped", f=3, lo=["tools", "seed"], est=True))
    (call,) = JournalReader().settled_calls(path, 0, None)
    assert call.row == {
        "trace_id": 7,
        "downstream_trace_id": None,
        "request_id": "req_7",
        "at": 1_790_000_000_000_000_007,
        "provider_id": 3,
        "provider_channel": "openai",
        "credential_id": 4,
        "user_id": 1,
        "user_key_id": 2,
        "operation": "generate_content",
        "protocol": "openai_chat_completions",
        "model": "gpt-4.1",
        "end_user": "end",
        "tag": "tag",
        "input_tokens": 1,
        "output_tokens": 2,
        "reasoning_tokens": 1,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 15,
        "cache_creation_input_tokens_5min": 5,
        "cache_creation_input_tokens_1h": 6,
        "cost": 77,
        "price_source": "shipped",
        "priced": True,
        "estimated": True,
        "status": 200,
        "outcome": "complete",
        "latency_ms": 9,
        "first_byte_ms": 3,
        "attempts": 2,
        "tries": "[]",
        "losses": '["seed","tools"]',
    }
    assert call.segment == "1.log"
    assert call.end == path.read_bytes().rindex(b"}\n") + 2


def test_fields_missing_in_the_entries_have_their_defaults(tmp_path):
    (call,) = JournalReader().settled_calls(write(tmp_path / "1.log", opened(7, eu=None, t=None), settled(7)), 0, None)
    names = ("price_source", "priced", "estimated", "first_byte_ms", "tries", "losses")
    assert {name: call.row[name] for name in names} == {
        "price_source": None,
        "priced": False,
        "estimated": False,
        "first_byte_ms": None,
        "tries": "[]",
        "losses": "[]",
    }
    assert (call.row["end_user"], call.row["tag"]) == (None, None)


@pytest.mark.parametrize(
    ("of_request", "of_reply", "losses"),
    [
        (["seed"], ["citations"], '["citations","seed"]'),
        (["seed"], None, '["seed"]'),
        (["tools", "seed"], ["seed", "audio"], '["audio","seed","tools"]'),
    ],
)
def test_losses_of_request_and_reply_are_merged_and_sorted(tmp_path, of_request, of_reply, losses):
    more = {"lo": of_reply} if of_reply else {}
    (call,) = JournalReader().settled_calls(
        write(tmp_path / "1.log", opened(7, lo=of_request), settled(7, **more)), 0, None
    )
    assert call.row["losses"] == losses


def test_calls_are_read_in_the_order_in_which_they_settled(tmp_path):
    path = write(tmp_path / "1.log", opened(1), opened(2), opened(3), settled(2), settled(3), settled(1))
    assert ids(JournalReader().settled_calls(path, 0, None)) == [2, 3, 1]


def test_a_call_that_settles_in_a_later_segment_is_one_row(tmp_path):
    reader = JournalReader()
    first = write(tmp_path / "1.log", opened(1), opened(2), settled(1))
    second = write(tmp_path / "2.log", opened(2), opened(3), settled(3), settled(2))
    assert ids(reader.settled_calls(first, 0, None)) == [1]
    assert ids(reader.settled_calls(second, 0, None)) == [3, 2]
    assert ids(reader.orphans()) == []


def test_a_later_segment_alone_contains_the_calls_it_carries(tmp_path):
    second = write(tmp_path / "2.log", opened(2), settled(2))
    assert ids(JournalReader().settled_calls(second, 0, None)) == [2]


def test_a_settled_line_without_its_opened_line_or_a_second_one_is_skipped(tmp_path):
    path = write(tmp_path / "1.log", settled(9), opened(1), settled(1), settled(1))
    assert ids(JournalReader().settled_calls(path, 0, None)) == [1]


def test_reading_continues_after_the_last_settled_call(tmp_path):
    reader = JournalReader()
    path = write(tmp_path / "1.log", opened(1), opened(2), settled(1), opened(3))
    (call,) = reader.settled_calls(path, 0, None)
    write(path, opened(1), opened(2), settled(1), opened(3), settled(3), settled(2))
    assert ids(reader.settled_calls(path, call.end, None)) == [3, 2]


def test_nothing_beyond_the_given_offset_is_read(tmp_path):
    path = write(tmp_path / "1.log", opened(1), settled(1), opened(2), settled(2))
    lines = path.read_bytes().split(b"\n")
    first_two = len(lines[0]) + len(lines[1]) + 2
    assert ids(JournalReader().settled_calls(path, 0, first_two)) == [1]
    assert ids(JournalReader().settled_calls(path, 0, first_two + 5)) == [1]
    assert ids(JournalReader().settled_calls(path, 0, 0)) == []


def test_a_call_that_never_settled_is_a_failed_row_with_its_input_estimate_and_no_cost(tmp_path):
    reader = JournalReader()
    assert ids(reader.settled_calls(write(tmp_path / "1.log", opened(1), opened(2), settled(1)), 0, None)) == [1]
    (call,) = reader.orphans()
    names = (
        "trace_id",
        "outcome",
        "estimated",
        "input_tokens",
        "output_tokens",
        "cost",
        "priced",
        "status",
        "attempts",
    )
    assert {name: call.row[name] for name in names} == {
        "trace_id": 2,
        "outcome": "failed",
        "estimated": True,
        "input_tokens": 42,
        "output_tokens": 0,
        "cost": 0,
        "priced": False,
        "status": None,
        "attempts": 1,
    }


@pytest.mark.parametrize("corrupted", [b'{"o": 5, \x01\x02', b"}{", b"", b"\xff\xfe", b'{"o":5}', b'{"s":"1"}', b"[]"])
def test_a_corrupted_line_does_not_prevent_reading_the_others(tmp_path, corrupted):
    path = tmp_path / "1.log"
    good = [orjson.dumps(entry) for entry in (opened(1), settled(1), opened(2), settled(2))]
    path.write_bytes(b"\n".join([*good[:2], corrupted, *good[2:]]) + b"\n" + b"\0" * 100)
    assert ids(JournalReader().settled_calls(path, 0, None)) == [1, 2]
