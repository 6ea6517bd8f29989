"""JSON objects as their top-level fields, each with the bytes that were sent."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gproxy.errors import BadRequest
from gproxy.protocols import raw_json
from gproxy.protocols.hub import RequestHead

DEEP = b"[" * 100_000 + b"]" * 100_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "readable"),
        (b"{", "readable"),
        (b"{} {}", "readable"),
        (b'{"a": tru}', "readable"),
        (b'{"\xff": 1}', "UTF-8"),
        (b"[]", "object"),
        (b'"text"', "object"),
        (b"null", "object"),
        (b'{"a": ' + DEEP + b"}", "deeply"),
    ],
    ids=lambda value: value[:20],
)
def test_a_body_that_is_not_a_readable_object_is_a_bad_request(body, word):
    with pytest.raises(BadRequest, match=word):
        raw_json.split(body)
    assert raw_json.find(body) is None


@given(st.dictionaries(st.text(), JSON, max_size=6), st.integers(0, 3))
def test_replacing_a_field_changes_no_other_field(document, indent):
    body = json.dumps(document, indent=indent or None).encode(errors="replace")
    fields = raw_json.split(body)
    after = raw_json.with_value(fields, "model", b'"other"')
    expected = {**json.loads(body), "model": "other"}
    assert json.loads(raw_json.join(after)) == expected
    assert list(after) == list(expected)
    assert ("model" in fields) == ("model" in document)


def test_values_keep_their_bytes():
    body = b'{"n": 1.10, "big": 123456789012345678901234567890, "e": 1E5, "s": "\\u00fc", "model": "a", "l": [ 1,2 ]}'
    changed = raw_json.join(raw_json.with_value(raw_json.split(body), "model", b'"b"'))
    assert changed == (b'{"n":1.10,"big":123456789012345678901234567890,"e":1E5,"s":"\\u00fc","model":"b","l":[ 1,2 ]}')


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"{}", None),
        (b'{"model": null}', None),
        (b'{"model": ""}', None),
        (b'{"model": "  "}', None),
        (b'{"model": "gpt-4.1"}', "gpt-4.1"),
        (b'{"model": " gpt-4.1"}', " gpt-4.1"),
        (b'{"model": "gpt\\u002d4.1"}', "gpt-4.1"),
        (b'{"a": {"model": "inner"}}', None),
        (b'{"model": "' + b"x" * 512 + b'"}', "x" * 512),
    ],
)
def test_the_model_of_a_body_is_read(body, name):
    assert raw_json.model(raw_json.split(body)) == name


@pytest.mark.parametrize("raw", [b"1", b"true", b"[]", b"{}", b'"\xff"', b"1e999"])
def test_a_model_that_is_not_a_string_is_a_bad_request_that_names_the_field(raw):
    with pytest.raises(BadRequest, match="model: "):
        raw_json.model(raw_json.split(b'{"model": ' + raw + b"}"))


@pytest.mark.parametrize(
    ("raw", "is_stream"),
    [(b"true", True), (b"false", False), (b"null", False), (b'"true"', False), (b"1", False), (b"[true]", False)],
)
def test_only_the_boolean_true_requests_a_stream(raw, is_stream):
    assert raw_json.is_stream(raw_json.split(b'{"stream": ' + raw + b"}")) is is_stream
    assert raw_json.is_stream(raw_json.split(b"{}")) is False


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"", {}),
        (b"null", {}),
        (b"7", {}),
        (b'"text"', {}),
        (b"[1]", {}),
        (b'{"a": 1e999}', {}),
        (b'{"a": ' + b"9" * 5000 + b"}", {}),
        (b'{"a": "\xff"}', {}),
        (b'{"a": ' + DEEP + b"}", {}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_unreadable_inner_object_reads_as_empty(raw, expected):
    assert raw_json.inner_object(msgspec.Raw(raw)) == expected


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (b'{"model":"a","x":{"model":"a"}}', b'{"model":"b","x":{"model":"a"}}'),
        (b'{"x":{"model":"a"}}', b'{"x":{"model":"a"}}'),
        (b'{"model": "b" , "x": 1}', b'{"model": "b" , "x": 1}'),
        (b"no json", b"no json"),
    ],
)
def test_a_model_name_is_replaced_only_at_the_top_level(body, after):
    assert raw_json.with_model_name(body, "model", b'"b"') == after


def test_a_body_with_the_right_model_is_returned_as_the_same_object():
    body = b'{"model": "b"}'
    assert raw_json.with_model_name(body, "model", b'"b"') is body


def test_half_a_surrogate_pair_is_kept_as_it_was_sent():
    fields = raw_json.split(b'{"model": "m", "a": "\\ud83d lone", "b": [1.5, {"c": "\\\\ud83d"}]}')
    assert raw_json.model(fields) == "m"
    assert raw_json.join(fields) == b'{"model":"m","a":"\\ud83d lone","b":[1.5,{"c":"\\\\ud83d"}]}'
    assert bytes(raw_json.split(b'{"a": "\\ud83d\\ude00"}')["a"]) == b'"\\ud83d\\ude00"'


@pytest.mark.parametrize("body", [b'{"a": "\\ud83d", "b": NaN}', b'{"a": "\\ud83d"', b'["\\ud83d"]'])
def test_half_a_surrogate_pair_does_not_excuse_other_errors(body):
    with pytest.raises(BadRequest):
        raw_json.split(body)


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b'{"model": "a", "x": {"model": "b"}}', None),
        (b'{"model": "b", "model": "a"}', b'{"model":"a"}'),
        (b'{"mod\\u0065l": "b", "model": "a"}', b'{"model":"a"}'),
        (b'{"model": "b", "model": "a", "x": "\\ud800\xc3\xa9"}', b'{"model":"a","x":"\\ud800\\u00e9"}'),
        (b'{"model": "a", "x": "caf\\u00e9 \\"model\\""}', None),
    ],
)
def test_of_two_models_only_the_checked_one_is_sent(body, sent):
    fields = raw_json.split(body)
    head = RequestHead(raw_json.model(fields), False, True, None, fields)
    assert raw_json.outgoing(head, body, "a") == (sent or body)


@pytest.mark.parametrize("body", [b'{"model": "a", "Model": "b"}', b'{"MODEL": "b", "x": 1}'])
def test_a_model_in_another_case_is_a_bad_request(body):
    with pytest.raises(BadRequest, match="another case"):
        raw_json.model(raw_json.split(body))


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "readable"),
        (b"{", "readable"),
        (b"{} {}", "readable"),
        (b'{"\xff": 1}', "readable"),
        (b"[]", "object"),
        (b'"text"', "object"),
        (b"null", "object"),
        (b'{"a": NaN}', "readable"),
        (b'{"a": "\\ud83d", "b": NaN}', "readable"),
        (b'["\\ud83d"]', "readable"),
        (b'{"a": ' + DEEP + b"}", "readable"),
    ],
    ids=lambda value: value[:20],
)
def test_a_body_that_cannot_be_translated_is_a_bad_request(body, word):
    with pytest.raises(BadRequest, match=word):
        raw_json.read_object(body)


@given(st.dictionaries(st.text(), JSON, max_size=6))
def test_a_body_is_read_as_the_document_that_was_sent(document):
    body = json.dumps(document)
    # orjson reads whole numbers beyond 64 bits as floats.
    assert raw_json.read_object(body.encode()) == json.loads(body, parse_int=_number)


def _number(digits: str) -> int | float:
    return int(digits) if -(2**63) <= int(digits) < 2**64 else float(digits)


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b'{"a": "\\ud83d\\ude00"}', "😀"),
        (b'{"a": "\\ud83d"}', "?"),
        (b'{"a": "x\\ude00y"}', "x?y"),
        (b'{"a": "\\ud83d\\ud83d\\ude00"}', "?😀"),
        ('{"a": "ü\\ud83d"}'.encode(), "ü?"),
    ],
)
def test_half_a_surrogate_pair_becomes_a_question_mark_in_a_translation(body, read):
    assert raw_json.read_object(body) == {"a": read}
    assert json.loads(raw_json.dumps(raw_json.read_object(body))) == {"a": read}


@pytest.mark.parametrize(
    ("body", "items"),
    [
        (b"[]", []),
        (b'[1, "a", {"b": 1.50}]', [b"1", b'"a"', b'{"b": 1.50}']),
        (b"{}", None),
        (b"null", None),
        (b"7", None),
        (b"", None),
        (b"[1", None),
        (b'["\xff", 1]', [b'"\xff"', b"1"]),
    ],
)
def test_the_items_of_a_list_keep_their_bytes(body, items):
    raw_items = raw_json.find_list(body)
    assert (raw_items if raw_items is None else [bytes(item) for item in raw_items]) == items


def nested(depth: int) -> dict:
    document: dict = {}
    for _ in range(depth):
        document = {"a": document}
    return document


def test_a_document_is_written_as_compact_json():
    assert raw_json.dumps({"a": [1, 2.5, None, "ü"], "b": {}}) == '{"a":[1,2.5,null,"ü"],"b":{}}'.encode()
    assert json.loads(raw_json.dumps(nested(200))) == nested(200)


@pytest.mark.parametrize("document", [nested(1000), {"a": 10**30}, {"a": "\ud83d"}], ids=["deep", "large", "half"])
def test_a_document_that_cannot_be_written_is_a_bad_request(document):
    with pytest.raises(BadRequest, match="translated"):
        raw_json.dumps(document)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"8", 8),
        (b"8.0", 8),
        (b'"8"', 8),
        (b'" +8.0 "', 8),
        (b"8.5", 1),
        (b'"eight"', 1),
        (b'"8e3"', 1),
        (b"-1", 1),
        (b"0", 1),
        (b"true", 1),
        (b"null", 1),
    ],
)
def test_the_number_of_choices_includes_forms_that_an_upstream_may_accept(sent, read):
    assert raw_json.choice_count(raw_json.split(b'{"n": ' + sent + b"}"), "n") == read


def test_data_with_half_a_surrogate_pair_and_a_wrong_type_is_unreadable():
    decode = msgspec.json.Decoder(dict[str, int]).decode
    assert raw_json.try_decode(decode, b'{"a": 1}') == {"a": 1}
    assert raw_json.try_decode(decode, b'{"a": "\\ud83d"}') is None
    assert raw_json.try_decode(msgspec.json.Decoder(dict[str, str]).decode, b'{"a": "\\ud83d"}') == {"a": "?"}


def test_the_first_field_that_cannot_be_written_is_named():
    deep: list = []
    for _ in range(2_000):
        deep = [deep]
    document = {"a": 1, "messages": deep, "tools": 10**30}
    with pytest.raises(raw_json.TooDeep, match="nested too deeply"):
        raw_json.dumps(document)
    assert raw_json.first_too_deep(document) == "messages"
    assert raw_json.first_too_deep({**document, "messages": []}) == "tools"
    assert raw_json.first_too_deep({"a": 1, "messages": []}) is None
