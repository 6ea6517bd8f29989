"""Price documents, the shipped price files, and which price applies."""

import tomllib
from datetime import date
from decimal import Decimal

import pytest

from gproxy import channels
from gproxy.accounting import prices
from gproxy.accounting.prices import MODES, RATES, SHIPPED, FoundPrice, Price, Rates, Tier, charged_mode
from gproxy.snapshot import Alias, Model, Snapshot

FILES = sorted(SHIPPED.glob("*.toml"))
ROWS = [
    (path.stem, row)
    for path in FILES
    for row in tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)["models"]
]
EACH = pytest.mark.parametrize(("channel", "row"), ROWS, ids=[f"{channel}:{row['model_id']}" for channel, row in ROWS])
# The `input_tokens_up_to` that the price files write for a tier without a limit.
UNLIMITED = 100_000_000
PREFIXES = ("", *(f"{mode}_" for mode in MODES))


def tiers(row: dict) -> list[list[dict]]:
    return [row[name] for prefix in PREFIXES if (name := f"{prefix}price_tiers") in row]


def test_every_shipped_file_belongs_to_a_channel_and_has_rows():
    assert {path.stem for path in FILES} == {"aistudio", "anthropic", "deepseek", "groq", "openai"}
    assert {path.stem for path in FILES} < set(channels.load())
    assert len(prices.shipped()) == len(ROWS) >= len(FILES)


@EACH
def test_a_shipped_row_names_the_source_and_date_of_its_price(channel, row):
    assert row["source"].startswith("https://")
    assert date(2025, 1, 1) <= row["checked"] <= date.today()
    allowed = {f"{prefix}{name}" for prefix in PREFIXES for name in ("price_tiers", "price_each_call")}
    assert set(row) <= {"model_id", "display_name", "source", "checked", "tool_prices"} | allowed
    assert row["model_id"] == row["model_id"].strip() != ""


@EACH
def test_a_shipped_row_has_plausible_rates(channel, row):
    assert tiers(row)
    for found in tiers(row):
        limits = [tier["input_tokens_up_to"] for tier in found]
        assert limits == sorted(set(limits))
        assert limits[-1] == UNLIMITED
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
            audio = rates.get("price_input_audio_tokens", fresh)
            assert rates.get("price_cache_read_input_audio_tokens", 0) <= audio


@EACH
def test_a_shipped_row_has_plausible_prices_of_modes_and_tools(channel, row):
    """Flex and batch cost at most as much as the default mode, priority at least as much; a tool costs cents."""
    fresh = row["price_tiers"][0]["price_input_tokens"]
    for mode, is_plausible in (("flex", fresh.__ge__), ("batch", fresh.__ge__), ("priority", fresh.__le__)):
        assert all(is_plausible(found[0]["price_input_tokens"]) for found in [row.get(f"{mode}_price_tiers")] if found)
    assert all(0 < usd <= Decimal("0.1") for usd in row.get("tool_prices", {}).values())


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
        (
            {"tool_prices": {"web_search": Decimal("0.01"), "file_search": 0}},
            Price(None, (), tools={"web_search": Decimal("0.01"), "file_search": Decimal(0)}),
        ),
        (
            {
                "price_tiers": [
                    {
                        "input_tokens_up_to": 9,
                        "price_input_audio_tokens": 1,
                        "price_input_image_tokens": 2,
                        "price_output_audio_tokens": 3,
                        "price_output_image_tokens": 4,
                        "price_cache_read_input_audio_tokens": 5,
                    }
                ]
            },
            Price(
                None,
                (
                    Tier(
                        9,
                        audio_input=Decimal(1),
                        image_input=Decimal(2),
                        audio_output=Decimal(3),
                        image_output=Decimal(4),
                        audio_cache_read=Decimal(5),
                    ),
                ),
            ),
        ),
        # a mode takes what it does not set from the default mode
        (
            {
                "price_each_call": 1,
                "price_tiers": [{"input_tokens_up_to": 9, "price_input_tokens": 2}],
                "flex_price_each_call": 0,
                "scale_price_tiers": [{"input_tokens_up_to": 9, "price_input_tokens": 3}],
                "priority_price_tiers": [],
                "batch_price_each_call": None,
            },
            Price(
                Decimal(1),
                (Tier(9, Decimal(2)),),
                {
                    "flex": Rates(Decimal(0), (Tier(9, Decimal(2)),)),
                    "scale": Rates(Decimal(1), (Tier(9, Decimal(3)),)),
                },
            ),
        ),
        ({"batch_price_each_call": 3}, Price(None, (), {"batch": Rates(Decimal(3), ())})),
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
        "tool_prices": {"web_search": Decimal(rate)},
    }
    text = prices.document(row)
    assert prices.parse(text) == Price(Decimal(rate), (Tier(10, Decimal(rate)),), tools={"web_search": Decimal(rate)})
    assert "model_id" not in text
    assert "flex" not in text


NO_PRICES = [{}, {"model_id": "a"}, {"price_tiers": [], "price_each_call": None, "tool_prices": {}}]


@pytest.mark.parametrize("fields", NO_PRICES)
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


# A model row and its provider's `default` row; each sets prices that the other does not.
MODEL_PRICES = {
    "price_each_call": 1,
    "flex_price_tiers": [{"input_tokens_up_to": 9, "price_input_tokens": 2}],
    "tool_prices": {"web_search": 3},
}
DEFAULT_PRICES = {
    "price_each_call": 4,
    "flex_price_each_call": 5,
    "scale_price_each_call": 6,
    "price_tiers": [{"input_tokens_up_to": 9, "price_input_tokens": 7}],
    "priority_price_tiers": [{"input_tokens_up_to": 9, "price_input_tokens": 8}],
    "tool_prices": {"web_search": 9, "web_fetch": 10},
}


@pytest.mark.parametrize(
    ("mode", "each", "rate"),
    [
        ("", 1, 7),
        # the default mode of the model row takes precedence over the same mode of the `default` row
        ("flex", 1, 2),
        ("scale", 1, 7),
        ("priority", 1, 8),
        ("batch", 1, 7),
    ],
)
def test_the_default_row_provides_what_a_model_row_does_not_set(mode, each, rate):
    rows = ((1, "mine", prices.document(MODEL_PRICES)), (1, "default", prices.document(DEFAULT_PRICES)))
    found = prices.find(snapshot(*rows), 1, "openai", "mine")
    rates = found.price.rates(mode)
    assert (found.source, rates.each_call, rates.tiers[0].input) == ("model", each, rate)
    assert found.price.tools == {"web_search": 3, "web_fetch": 10}


def alias(pricing: str | None) -> Alias:
    return Alias("short", (), None, pricing=pricing)


@pytest.mark.parametrize(
    ("rows", "model"),
    [([], "unknown"), ([], SHIPPED_MODEL), ([(1, "mine", OWN), (1, "default", DEFAULT)], "mine")],
)
def test_an_aliass_price_takes_precedence_over_all_others(rows, model):
    found = prices.find(snapshot(*rows), 1, "openai", model, alias('{"price_each_call": 3}'))
    assert (found.source, found.price.each_call) == ("alias", 3)
    without = prices.find(snapshot(*rows), 1, "openai", model, alias(None))
    assert without == prices.find(snapshot(*rows), 1, "openai", model)


def test_an_aliass_price_takes_no_defaults_from_its_target():
    rows = ((1, "mine", prices.document(DEFAULT_PRICES)), (1, "default", prices.document(DEFAULT_PRICES)))
    found = prices.find(snapshot(*rows), 1, "openai", "mine", alias('{"price_each_call": 0}'))
    assert found.price == Price(Decimal(0), ())


@pytest.mark.parametrize("requested", ["", *MODES])
@pytest.mark.parametrize("served", ["", "default", "auto", "unheard of", *MODES])
def test_the_charged_mode_is_the_requested_or_the_served_one(requested, served):
    found = charged_mode(requested, served)
    assert found in ("", *MODES)
    assert found in (requested, served, "")
    assert charged_mode(found, served) == found


def test_a_shipped_price_applies_to_its_own_channel_only():
    assert prices.find(snapshot(), 1, "custom", SHIPPED_MODEL) is None
    assert isinstance(prices.find(snapshot(), 1, "openai", SHIPPED_MODEL), FoundPrice)
