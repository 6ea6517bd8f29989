"""Documents about permissions, rate limits and quotas: defaults, amounts and lists of ids."""

import pytest
from marshmallow import ValidationError

from gproxy.config import access as documents
from gproxy.config.filters import MAX, MAX_ROWS

PLACE = {"user_id": 1, "model_pattern": "*"}

# schema, written document, fields that loading adds
DEFAULTS = [
    (documents.Permission, PLACE, {"id": 0, "key_id": None, "provider_id": None}),
    (documents.FilePermission, {"user_id": 1, "provider_id": 2}, {"id": 0}),
    (documents.LimitPlace, PLACE, {"key_id": None}),
    (
        documents.Limit,
        {**PLACE, "rpm": 0},
        {"id": 0, "key_id": None, "rpd": None, "total_tokens": None, "concurrency": None},
    ),
    (documents.Quota, {"user_id": 1, "quota": None}, {"cost_used": None}),
    (documents.Quota, {"user_id": 1, "quota": None, "period": None}, {"cost_used": None}),
    (documents.QuotaQuery, {}, {"user_id": None, "limit": MAX_ROWS, "offset": 0}),
]


@pytest.mark.parametrize(("schema", "written", "defaults"), DEFAULTS)
def test_missing_fields_have_neutral_defaults(schema, written, defaults):
    assert schema().load(written) == {**written, **defaults}


# written in JSON, nano-USD
AMOUNTS = [(5, 5 * 10**9), (0.1, 10**8), (0.1 + 0.2, 3 * 10**8), (1e-9, 1), (5e-10, 1), (123456789.123456789, None)]


@pytest.mark.parametrize(("written", "nano"), AMOUNTS)
def test_an_amount_is_read_by_its_written_digits(written, nano):
    found = documents.Quota().load({"user_id": 1, "quota": written})["quota"]
    # A float holds about sixteen digits.
    assert found == (123_456_789_123_456_790 if nano is None else nano)


def test_ids_of_usage_rows_are_numbers_or_text_and_the_list_may_be_empty():
    assert documents.usage_ids().load([1, str(MAX)]) == [1, MAX]
    assert documents.usage_ids().load([]) == []
    with pytest.raises(ValidationError, match="at most 10000"):
        documents.usage_ids().load([1] * 10_001)


STARS, CHARS = "*-" * 17, "*" + "a" * 256


@pytest.mark.parametrize(("pattern", "bound"), [(STARS, "at most 16 stars"), (CHARS, "at most 256 characters")])
def test_a_pattern_beyond_the_bounds_is_not_stored_but_can_be_deleted(pattern, bound):
    for schema, more in ((documents.Permission, {}), (documents.Limit, {"rpm": 1})):
        with pytest.raises(ValidationError) as caught:
            schema(many=True).load([{**PLACE, **more}, {**PLACE, **more, "model_pattern": pattern}])
        ((field, (message,)),) = caught.value.messages[1].items()
        assert field == "model_pattern" and bound in message
    assert documents.LimitPlace().load({**PLACE, "model_pattern": pattern})["model_pattern"] == pattern


def test_a_pattern_may_have_sixteen_stars_and_256_characters():
    for pattern in ("*-" * 16, "*" + "a" * 255, "a" * 256):
        assert documents.Permission().load({**PLACE, "model_pattern": pattern})["model_pattern"] == pattern
