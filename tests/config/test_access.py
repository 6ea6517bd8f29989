"""Documents about permissions, rate limits and quotas: what is left out."""

import pytest
from marshmallow import ValidationError

from gproxy.config import access as documents
from gproxy.config.filters import MAX

PLACE = {"user_id": 1, "model_pattern": "*"}

# document, what is written, what is read out of it besides
LEFT_OUT = [
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
    (documents.QuotaQuery, {}, {"user_id": None, "limit": None, "offset": 0}),
]


@pytest.mark.parametrize(("schema", "written", "besides"), LEFT_OUT)
def test_what_is_left_out_asks_for_nothing(schema, written, besides):
    assert schema().load(written) == {**written, **besides}


# written in JSON, nano-USD
AMOUNTS = [(5, 5 * 10**9), (0.1, 10**8), (0.1 + 0.2, 3 * 10**8), (1e-9, 1), (5e-10, 1), (123456789.123456789, None)]


@pytest.mark.parametrize(("written", "nano"), AMOUNTS)
def test_money_is_taken_by_the_digits_that_are_written(written, nano):
    found = documents.Quota().load({"user_id": 1, "quota": written})["quota"]
    # A JSON number holds some sixteen digits.
    assert found == (123_456_789_123_456_790 if nano is None else nano)


def test_ids_of_usage_rows_are_numbers_or_texts_and_there_may_be_none():
    assert documents.usage_ids().load([1, str(MAX)]) == [1, MAX]
    assert documents.usage_ids().load([]) == []
    with pytest.raises(ValidationError, match="at most 10000"):
        documents.usage_ids().load([1] * 10_001)
