"""Filters of admin queries, and documents about keys."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from gproxy.config.entities import AuditQuery
from gproxy.config.filters import MAX, MAX_LOG_ROWS, MAX_MS, MAX_ROWS, MAX_VALUES, UsageFilter, UsageQuery
from gproxy.config.keys import KeySwitch, NewKeys, id_list, new_key


def loaded(document) -> dict:
    """The loaded filter without the fields that select everything."""
    return {name: value for name, value in UsageQuery().load(document).items() if value is not None}


@pytest.mark.parametrize("written", ["All", "all", "ALL", None])
def test_all_selects_everything(written):
    assert loaded({"model": written}) == loaded({})


# document, the values of the filter
FILTERS = [
    ({"model": "gpt-5"}, ["gpt-5"]),
    ({"model": {"Eq": "gpt-5"}}, ["gpt-5"]),
    ({"model": {"eq": "all"}}, ["all"]),
    ({"model": {"In": ["a", "b"]}}, ["a", "b"]),
    ({"model": {"in": ["a"]}}, ["a"]),
    ({"model": {"In": []}}, []),
    ({"model": {"In": ["a"] * MAX_VALUES}}, ["a"] * MAX_VALUES),
]


@pytest.mark.parametrize(("document", "values"), FILTERS)
def test_a_filter_is_one_value_or_a_tagged_object(document, values):
    assert loaded(document)["model"] == values


# document, the field that the error names
WRONG = [
    ({"model": {}}, "model"),
    ({"model": {"Eq": "a", "In": ["b"]}}, "model"),
    ({"model": {"Ne": "a"}}, "model"),
    ({"model": {"In": "a"}}, "model"),
    ({"model": {"Eq": None}}, "model"),
    ({"model": {"In": [None]}}, "model"),
    ({"model": {"In": ["a"] * (MAX_VALUES + 1)}}, "model"),
    ({"model": ["a"]}, "model"),
    ({"model": 5}, "model"),
    ({"user_id": "5"}, "user_id"),
    ({"user_id": 5.0}, "user_id"),
    ({"user_id": True}, "user_id"),
    ({"user_id": -1}, "user_id"),
    ({"user_id": MAX + 1}, "user_id"),
    ({"provider_id": {"In": [1, "a"]}}, "provider_id"),
    ({"from_unix_ms": 1.5}, "from_unix_ms"),
    ({"from_unix_ms": 1e30}, "from_unix_ms"),
    ({"from_unix_ms": "1e3"}, "from_unix_ms"),
    ({"from_unix_ms": "1_000"}, "from_unix_ms"),
    ({"from_unix_ms": " 1"}, "from_unix_ms"),
    ({"from_unix_ms": ""}, "from_unix_ms"),
    ({"to_unix_ms": MAX_MS + 1}, "to_unix_ms"),
    ({"cursor_at_unix_ms": MAX}, "cursor_at_unix_ms"),
    ({"cursor_trace_id": str(MAX + 1)}, "cursor_trace_id"),
    ({"cursor_trace_id": "9" * 5000}, "cursor_trace_id"),
    ({"offset": -1}, "offset"),
    ({"offset": None}, "offset"),
    ({"limit": -1}, "limit"),
    ({"limit": MAX + 1}, "limit"),
    ({"limit": True}, "limit"),
    ({"modle": "a"}, "modle"),
    ([], "_schema"),
    (None, "_schema"),
    ("All", "_schema"),
]


@pytest.mark.parametrize(("document", "field"), WRONG)
def test_a_wrong_filter_is_refused_by_name(document, field):
    with pytest.raises(ValidationError) as caught:
        UsageQuery().load(document)
    assert list(caught.value.messages) == [field]


@pytest.mark.parametrize("number", [0, 2**53 + 1, MAX])
def test_a_long_id_is_a_number_or_text(number):
    assert loaded({"cursor_trace_id": number}) == loaded({"cursor_trace_id": str(number)})
    assert loaded({"cursor_trace_id": number})["cursor_trace_id"] == number


def test_a_time_range_fits_a_column_of_nanoseconds():
    assert (loaded({"to_unix_ms": MAX_MS})["to_unix_ms"] + 1) * 1_000_000 <= MAX


def test_only_a_query_has_a_page():
    with pytest.raises(ValidationError):
        UsageFilter().load({"limit": 1})


@pytest.mark.parametrize(("schema", "maximum"), [(UsageQuery, MAX_ROWS), (AuditQuery, MAX_LOG_ROWS)])
def test_a_page_has_the_maximum_unless_a_smaller_limit_is_given(schema, maximum):
    for page in ({}, {"limit": None}, {"limit": 0}, {"limit": "0"}, {"limit": maximum + 1}, {"limit": MAX}):
        assert schema().load(page)["limit"] == maximum, page
    for limit in (1, "1", maximum - 1):
        assert schema().load({"limit": limit})["limit"] == int(limit)
    assert schema().load({})["offset"] == 0


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "x", "12", "all", "\0"])
JSON = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Eq", "in", "x"]), inner, max_size=2),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*UsageQuery().fields, "x"]), JSON, max_size=4))
def test_any_document_is_loaded_or_refused(document):
    try:
        UsageQuery().load(document)
    except ValidationError as fault:
        assert fault.messages


# schema, a document that it refuses
WRONG_KEYS = [
    (id_list(), []),
    (id_list(), {}),
    (id_list(), [1, "2"]),
    (id_list(), [1] * 1001),
    (id_list(), [MAX + 1]),
    (id_list(), None),
    (NewKeys(), {"user_id": 1, "count": 0}),
    (NewKeys(), {"user_id": 1, "count": 1001}),
    (NewKeys(), {"user_id": MAX + 1, "count": 1}),
    (NewKeys(), {"user_id": 1, "count": 1, "label": "x" * 257}),
    (NewKeys(), {"count": 1}),
    (KeySwitch(), {"id": 1, "enabled": "true"}),
    (KeySwitch(), {"id": 1, "enabled": 1}),
    (KeySwitch(), {"id": 1}),
    (KeySwitch(), {"id": MAX + 1, "enabled": True}),
]


@pytest.mark.parametrize(("schema", "document"), WRONG_KEYS)
def test_a_wrong_document_about_keys_is_refused(schema, document):
    with pytest.raises(ValidationError):
        schema.load(document)


def test_new_keys_are_long_and_different():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("sk-api01-") and len(key) == len("sk-api01-") + 32 for key in keys)
