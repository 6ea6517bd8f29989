"""The schema of the journal: the exact bytes of its lines, and lines of other versions."""

import json

import pytest

from gproxy.accounting.entries import (
    MAX_TEXT_CHARS,
    Damaged,
    Opened,
    Reserved,
    Settled,
    Tokens,
    cut,
    from_line,
    to_line,
)

MARKS = 'Grüße "\\ \b\t\n\f\r\0\x1f\x7f \u2028 \U0001f600'
MARKS_IN_JSON = 'Grüße \\"\\\\ \\b\\t\\n\\f\\r\\u0000\\u001f\x7f \u2028 \U0001f600'
GREATEST = 2**63 - 1
FEW = {"request_log_id": None, "credential_id": None, "end_user": None, "tag": None, "losses": (), "reserved": None}
MANY = {
    "request_log_id": GREATEST,
    "credential_id": 4,
    "end_user": MARKS,
    "tag": "",
    "losses": ("seed", "tools"),
    "reserved": Reserved(2**61, 0),
}
OPENED_START = '{"o":7,"e":41,"rq":"req_7",'
OPENED_MIDDLE = '"at":1795420800000000001,"u":1,"k":2,"p":3,"c":"openai",'
OPENED_END = '"op":"generate_content","pr":"openai_chat_completions","m":"gpt-4.1",'
OPENED_LINES = [
    (FEW, f'{OPENED_START}{OPENED_MIDDLE}"r":null,{OPENED_END}"eu":null,"t":null}}\n'),
    (
        MANY,
        f'{OPENED_START}"d":9223372036854775807,{OPENED_MIDDLE}"r":4,{OPENED_END}"eu":"{MARKS_IN_JSON}","t":"",'
        '"lo":["seed","tools"],"h":[2305843009213693952,0]}\n',
    ),
    (FEW | {"credential_id": 4}, f'{OPENED_START}{OPENED_MIDDLE}"r":4,{OPENED_END}"eu":null,"t":null}}\n'),
    (FEW | {"request_log_id": 0}, f'{OPENED_START}"d":0,{OPENED_MIDDLE}"r":null,{OPENED_END}"eu":null,"t":null}}\n'),
    (
        FEW | {"end_user": cut("x" * 129)},
        f'{OPENED_START}{OPENED_MIDDLE}"r":null,{OPENED_END}"eu":"{"x" * 128}","t":null}}\n',
    ),
    (
        FEW | {"tag": cut("ü" * 129)},
        f'{OPENED_START}{OPENED_MIDDLE}"r":null,{OPENED_END}"eu":null,"t":"{"ü" * 128}"}}\n',
    ),
    (FEW | {"losses": ("ä",)}, f'{OPENED_START}{OPENED_MIDDLE}"r":null,{OPENED_END}"eu":null,"t":null,"lo":["ä"]}}\n'),
    (
        FEW | {"reserved": Reserved(0, 0)},
        f'{OPENED_START}{OPENED_MIDDLE}"r":null,{OPENED_END}"eu":null,"t":null,"h":[0,0]}}\n',
    ),
]
ALL_TOKENS = Tokens(30, 5, 2, 60, 7, 8, 9)
SETTLED_START = '{"s":7,"x":"complete","st":200,"n":[30,5,2,60,7,8,9],'
SETTLED_LINES = [
    ({"cost": 0, "attempts": 1}, f'{SETTLED_START}"c":0,"l":1500,"a":1}}\n'),
    ({"cost": GREATEST, "attempts": 1}, f'{SETTLED_START}"c":9223372036854775807,"l":1500,"a":1}}\n'),
    ({"tries": ((1, None, "timeout", 3), (2, 9, 200, 41))}, '"a":1,"tr":[[1,null,"timeout",3],[2,9,200,41]]}\n'),
    ({"served_by": (9, "demo", None)}, '"a":1,"by":[9,"demo",null]}\n'),
    ({"price_source": "model"}, '"a":1,"ps":"model"}\n'),
    ({"is_estimated": True}, '"a":1,"est":true}\n'),
    ({"first_byte_ms": 0}, '"a":1,"f":0}\n'),
    ({"losses": ()}, '"a":1,"lo":[]}\n'),
    ({"losses": ("ä", "seed")}, '"a":1,"lo":["ä","seed"]}\n'),
]


def opened_entry(fields: dict) -> Opened:
    return Opened(
        call_id=7,
        input_tokens=41,
        request_id="req_7",
        at=1_795_420_800_000_000_001,
        user_id=1,
        key_id=2,
        provider_id=3,
        channel="openai",
        operation="generate_content",
        protocol="openai_chat_completions",
        model="gpt-4.1",
        **fields,
    )


@pytest.mark.parametrize(("fields", "line"), OPENED_LINES)
def test_the_bytes_of_an_opened_line(fields, line):
    entry = opened_entry(fields)
    assert to_line(entry) == line.encode()
    assert from_line(line.encode()) == entry


@pytest.mark.parametrize(("fields", "end"), SETTLED_LINES)
def test_the_bytes_of_a_settled_line(fields, end):
    entry = Settled(call_id=7, outcome="complete", status=200, tokens=ALL_TOKENS, latency_ms=1500, **fields)
    line = (end if end.startswith("{") else f'{SETTLED_START}"c":0,"l":1500,{end}').encode()
    assert to_line(entry) == line
    assert from_line(line) == entry


def test_optional_fields_that_another_version_did_not_write_have_their_defaults():
    line = b'{"o":7,"e":41,"rq":"r","at":1,"u":1,"k":2,"p":3,"c":"openai","r":null,"op":"o","pr":"p","m":"m"}\n'
    found = from_line(line)
    assert isinstance(found, Opened)
    assert (found.request_log_id, found.end_user, found.tag, found.losses, found.reserved) == (
        None,
        None,
        None,
        (),
        None,
    )
    found = from_line(b'{"s":7,"x":"failed","n":[1,2,3,4,5,6,7]}')
    assert found == Settled(call_id=7, outcome="failed", tokens=Tokens(1, 2, 3, 4, 5, 6, 7))
    assert (found.status, found.cost, found.latency_ms, found.attempts, found.is_estimated) == (None, 0, None, 1, False)


def test_members_that_a_later_version_adds_are_ignored():
    assert from_line(b'{"s":7,"x":"failed","n":[1,0,0,0,0,0,0],"new":{"a":[1]}}').tokens == Tokens(1)


@pytest.mark.parametrize(
    "line", [b"", b"{}", b'{"o":1}', b'{"s":1}', b'{"s":1,"x":"failed","n":[1.5]}', b"\xff", b"[7]"]
)
def test_a_line_that_is_no_entry_is_damaged(line):
    assert isinstance(from_line(line), Damaged)


GOOD = {
    "o": 7,
    "e": 41,
    "rq": "r",
    "at": 1,
    "u": 1,
    "k": 2,
    "p": 3,
    "c": "openai",
    "r": None,
    "op": "o",
    "pr": "p",
    "m": "m",
}
END = {"s": 7, "x": "failed", "st": 200, "n": [1, 2, 3, 4, 5, 6, 7], "c": 5, "l": 9, "a": 1}


@pytest.mark.parametrize("whole", [GOOD, END], ids=["opened", "settled"])
@pytest.mark.parametrize("value", [-1, 2**63, 10**30, 1.5, True, [], {}, [[]], "x" * 2_000_000, float("nan")])
def test_a_field_of_the_wrong_type_or_size_is_damaged(whole, value):
    assert not isinstance(from_line(json.dumps(whole).encode()), Damaged)
    for name in whole:
        assert isinstance(from_line(json.dumps({**whole, name: value}).encode()), Damaged), name


@pytest.mark.parametrize("whole", [GOOD, END], ids=["opened", "settled"])
def test_a_required_field_that_is_missing_is_damaged(whole):
    for name in whole.keys() - {"st", "c", "l", "a"}:
        fields = {other: value for other, value in whole.items() if other != name}
        assert isinstance(from_line(json.dumps(fields).encode()), Damaged), name


@pytest.mark.parametrize(
    "end",
    [
        b',"s":7}',
        b',"\\u0073":8}',
        b',"new":"\xff"}',
        b',"new":"\\ud800"}',
        b',"new":NaN}',
        b',"new":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"} {}",
        b',"tr":[[1,null,200]]}',
        b',"tr":[[1,null,200,-1]]}',
        b',"by":[2147483648,"demo",null]}',
        b',"lo":"seed"}',
    ],
)
def test_what_json_allows_and_an_entry_does_not_is_damaged(end):
    assert isinstance(from_line(b'{"s":7,"x":"failed","n":[1]' + end), Damaged)


def test_the_reason_has_nothing_of_the_line():
    for line in (b'{"o":7,"m":"secret"}', b'{"secret":1}', b'"secret"', b'{"s":7,"x":"\xffsecret"}', b"secret"):
        assert "secret" not in from_line(line).reason


def test_texts_of_the_client_are_cut():
    assert [cut(text) for text in (None, "", "short", "ü" * 5000)] == [None, "", "short", "ü" * MAX_TEXT_CHARS]
