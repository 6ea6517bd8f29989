"""Price documents, the files that ship, and which price applies."""

import tomllib
from datetime import date
from decimal import Decimal

import pytest

from gproxy import channels
from gproxy.accounting import prices
from gproxy.accounting.prices import MODES, RATES, SHIPPED, Found, Price, Tier
from gproxy.store.snapshot import Model, Snapshot

FILES = sorted(SHIPPED.glob("*.toml"))
ROWS = [
    (path.stem, row)
    for path in FILES
    for row in tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)["models"]
]
EACH = pytest.mark.parametrize(("channel", "row"), ROWS, ids=[f"{channel}:{row['model_id']}" for channel, row in ROWS])
# Tiers' bound of "no bound", as the price templates write it.
UNLIMITED = 100_000_000


def tiers(row: dict) -> list[list[dict]]:
    return [row[name] for mode in MODES if (name := f"{mode}price_tiers") in row]


def test_every_shipped_file_is_of_a_channel_and_has_rows():
    assert {path.stem for path in FILES} == {"aistudio", "anthropic", "deepseek", "groq", "openai"}
    assert {path.stem for path in FILES} < set(channels.load())
    assert len(prices.shipped()) == len(ROWS) >= len(FILES)


@EACH
def test_a_shipped_row_says_where_and_when_its_price_was_read(channel, row):
    assert row["source"].startswith("https://")
    assert date(2025, 1, 1) <= row["checked"] <= date.today()
    allowed = {f"{mode}{name}" for mode in MODES for name in ("price_tiers", "price_each_call")}
    assert set(row) <= {"model_id", "display_name", "source", "checked"} | allowed
    assert row["model_id"] == row["model_id"].strip() != ""


@EACH
def test_a_shipped_row_is_a_sane_price(channel, row):
    assert tiers(row)
    for found in tiers(row):
        bounds = [tier["input_tokens_up_to"] for tier in found]
        assert bounds == sorted(set(bounds))
        assert bounds[-1] == UNLIMITED
        for tier in found:
            rates = {name: Decimal(value) for name, value in tier.items() if name != "input_tokens_up_to"}
            assert set(rates) <= set(RATES)
            assert 0 < rates["price_input_tokens"] <= 1000
            assert all(0 <= rate <= 1000 for rate in rates.values())
            fresh = rates["price_input_tokens"]
            assert rates.get("price_output_tokens", fresh) >= fresh
            assert rates.get("price_cache_read_input_tokens", 0) <= fresh
            assert rates.get("price_cache_creation_input_tokens_5min", fresh) >= fresh
            assert rates.get("price_cache_creation_input_tokens_1h", fresh * 2) >= fresh


def test_no_model_ships_twice():
    names = [(channel, row["model_id"]) for channel, row in ROWS]
    assert len(set(names)) == len(names)


@EACH
def test_a_shipped_row_is_found_by_channel_and_model(channel, row):
    price = prices.shipped()[channel, row["model_id"]]
    assert [tier.up_to for tier in price.tiers] == [tier["input_tokens_up_to"] for tier in row["price_tiers"]]
    assert price.tiers[0].input == row["price_tiers"][0]["price_input_tokens"]


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        ({}, Price(None, ())),
        ({"price_each_call": Decimal("0.02")}, Price(Decimal("0.02"), ())),
        ({"price_each_call": 0}, Price(Decimal(0), ())),
        ({"price_tiers": None}, Price(None, ())),
        (
            {
                "price_tiers": [
                    {"input_tokens_up_to": 2000, "price_input_tokens": Decimal("2.50")},
                    {
                        "input_tokens_up_to": 1000,
                        "price_input_tokens": 1,
                        "price_output_tokens": "0.1",
                        "price_cache_read_input_tokens": None,
                        "price_cache_creation_input_tokens": 0,
                        "price_cache_creation_input_tokens_5min": 5,
                        "price_cache_creation_input_tokens_1h": 6,
                    },
                ]
            },
            Price(
                None,
                (
                    Tier(1000, Decimal(1), Decimal("0.1"), None, Decimal(0), Decimal(5), Decimal(6)),
                    Tier(2000, Decimal("2.5")),
                ),
            ),
        ),
    ],
)
def test_a_price_document_is_read(fields, price):
    assert prices.read(fields) == price


@pytest.mark.parametrize("rate", ["0.1", "0.30000000000000004", "1E-9", "123456789012345678901234.5", "0"])
def test_a_stored_rate_keeps_every_digit(rate):
    row = {
        "model_id": "a",
        "display_name": "A",
        "price_each_call": Decimal(rate),
        "price_tiers": [{"input_tokens_up_to": 10, "price_input_tokens": Decimal(rate)}],
        "flex_price_tiers": [],
        "flex_price_each_call": None,
    }
    text = prices.document(row)
    assert prices.parse(text) == Price(Decimal(rate), (Tier(10, Decimal(rate)),))
    assert "model_id" not in text
    assert "flex" not in text


@pytest.mark.parametrize("fields", [{}, {"model_id": "a"}, {"price_tiers": [], "price_each_call": None}])
def test_a_row_without_a_price_has_no_document(fields):
    assert prices.document(fields) is None


def test_a_price_of_zero_is_a_price():
    assert prices.parse(prices.document({"price_each_call": 0})) == Price(Decimal(0), ())


def snapshot(*rows: tuple[int, str, str | None]) -> Snapshot:
    found = [Model(provider, name, None, True, pricing) for provider, name, pricing in rows]
    return Snapshot({}, models={(row.provider_id, row.model_id): row for row in found})


OWN, DEFAULT = '{"price_each_call": 1}', '{"price_each_call": 2}'
SHIPPED_MODEL = next(row["model_id"] for channel, row in ROWS if channel == "openai")


@pytest.mark.parametrize(
    ("rows", "model", "source", "each"),
    [
        ([], "unknown", None, None),
        ([], SHIPPED_MODEL, "shipped", None),
        ([(1, SHIPPED_MODEL, OWN)], SHIPPED_MODEL, "model", 1),
        ([(1, SHIPPED_MODEL, None), (1, "default", DEFAULT)], SHIPPED_MODEL, "shipped", None),
        ([(1, "mine", OWN), (1, "default", DEFAULT)], "mine", "model", 1),
        ([(1, "mine", None), (1, "default", DEFAULT)], "mine", "default", 2),
        ([(1, "default", DEFAULT)], "unknown", "default", 2),
        ([(1, "default", None)], "unknown", None, None),
        ([(2, "mine", OWN), (2, "default", DEFAULT)], "mine", None, None),
    ],
)
def test_which_price_applies(rows, model, source, each):
    found = prices.find(snapshot(*rows), 1, "openai", model)
    assert (found.source if found else None) == source
    assert (found.price.each_call if found else None) == each


def test_a_shipped_price_is_of_its_own_channel_only():
    assert prices.find(snapshot(), 1, "custom", SHIPPED_MODEL) is None
    assert isinstance(prices.find(snapshot(), 1, "openai", SHIPPED_MODEL), Found)
