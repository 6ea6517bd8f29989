"""The cost of a call, to the nano-USD. The expected amounts are computed by hand."""

import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gproxy import protocols
from gproxy.accounting import prices
from gproxy.accounting.cost import Features, cost, upper_bound
from gproxy.accounting.prices import MODES, Price, Rates, Tier
from gproxy.protocols.hub import MAX_TOKENS, Usage

D = Decimal
LOADED = protocols.load()
FULL = Tier(
    10**8,
    input=D("3"),
    output=D("15"),
    cache_read=D("0.30"),
    cache_write=D("3.50"),
    cache_write_5m=D("3.75"),
    cache_write_1h=D("6"),
)
TIERS = (
    Tier(1000, input=D("1"), output=D("2")),
    Tier(2000, input=D("10"), output=D("20")),
    Tier(3000, input=D("100"), output=D("200")),
)


def one(**rates: str) -> Price:
    return Price(None, (tier(**rates),))


def tier(**rates: str) -> Tier:
    return Tier(10**8, **{name: D(rate) for name, rate in rates.items()})


@pytest.mark.parametrize(
    ("usage", "price", "nano"),
    [
        # each class at its own rate: 100·3 + 20·15 + 50·0.3 + 8·3.5 + 7·3.75 + 6·6 = 705.25 millionths
        (Usage(100, 20, 5, 50, 8, 7, 6), Price(None, (FULL,)), 705_250),
        (Usage(1_000_000), Price(None, (FULL,)), 3_000_000_000),
        (Usage(output_tokens=1_000_000), Price(None, (FULL,)), 15_000_000_000),
        (Usage(cache_read_tokens=1_000_000), Price(None, (FULL,)), 300_000_000),
        (Usage(cache_write_tokens=1_000_000), Price(None, (FULL,)), 3_500_000_000),
        (Usage(cache_write_5m_tokens=1_000_000), Price(None, (FULL,)), 3_750_000_000),
        (Usage(cache_write_1h_tokens=1_000_000), Price(None, (FULL,)), 6_000_000_000),
        # reasoning is a part of the output and is not priced again
        (Usage(output_tokens=10, reasoning_tokens=10), Price(None, (FULL,)), 150_000),
        # a price per call, alone and together with tiers
        (Usage(), Price(D("0.25"), ()), 250_000_000),
        (Usage(1000, 1000), Price(D("0.25"), ()), 250_000_000),
        (Usage(100), Price(D("0.01"), (FULL,)), 10_300_000),
        (Usage(), Price(None, ()), 0),
        (Usage(1000, 1000), Price(None, ()), 0),
        (Usage(), Price(None, (FULL,)), 0),
        # half up, once: 0.5 nano rounds up, 0.4 down, and three times 0.4 is 1.2
        (Usage(1), one(input="0.0005"), 1),
        (Usage(1), one(input="0.0004"), 0),
        (Usage(1), one(input="0.0004999999999999999999999999999999"), 0),
        (Usage(1), one(input="0.0015"), 2),
        (Usage(1), one(input="0.0025"), 3),
        (Usage(1, 1, 0, 1), one(input="0.0004", output="0.0004", cache_read="0.0004"), 1),
        (Usage(3), one(input="0.0001666"), 0),
        (Usage(), Price(D("0.0000000005"), ()), 1),
        (Usage(1), Price(D("0.0000000001"), (tier(input="0.0004"),)), 1),
        # huge counts, and more digits than 28
        (Usage(10**12), one(input="600"), 600_000_000_000_000_000),
        (Usage(10**12, 10**12), one(input="0.075", output="0.3"), 375_000_000_000_000),
        (Usage(10**12), one(input="1.00000000000000049999999999999999"), 1_000_000_000_000_000),
        (Usage(10**12), one(input="1.0000000000000005"), 1_000_000_000_000_001),
    ],
)
def test_the_cost_of_a_call(usage, price, nano):
    assert cost(usage, price) == nano


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (Usage(999), 999_000),
        (Usage(1000), 1_000_000),
        (Usage(1001), 10_010_000),
        (Usage(2000), 20_000_000),
        (Usage(2001), 200_100_000),
        (Usage(3000), 300_000_000),
        # beyond the last limit the last tier applies
        (Usage(9000), 900_000_000),
        # the whole prompt selects the tier, the output does not: 500·10 + 600·10, and 1·2
        (Usage(500, 0, 0, 600), 11_000_000),
        (Usage(400, 0, 0, 300, 200, 100, 1), 10_010_000),
        (Usage(output_tokens=9000), 18_000_000),
    ],
)
def test_the_first_tier_that_covers_the_whole_prompt_applies(usage, nano):
    assert cost(usage, Price(None, TIERS)) == nano


WRITES = (Usage(cache_read_tokens=1), Usage(cache_write_tokens=1), Usage(0, 0, 0, 0, 0, 1), Usage(0, 0, 0, 0, 0, 0, 1))


@pytest.mark.parametrize(
    ("rates", "nano"),
    [
        # read, write, 5m, 1h
        ({"input": "1"}, [1000, 1000, 1000, 1000]),
        ({"input": "1", "cache_read": "0.1"}, [100, 1000, 1000, 1000]),
        ({"input": "1", "cache_write": "2"}, [1000, 2000, 2000, 2000]),
        ({"input": "1", "cache_write_5m": "3"}, [1000, 3000, 3000, 3000]),
        ({"input": "1", "cache_write_1h": "4"}, [1000, 1000, 1000, 4000]),
        ({"input": "1", "cache_write": "2", "cache_write_5m": "3", "cache_write_1h": "4"}, [1000, 2000, 3000, 4000]),
        # a rate of 0 is a rate
        ({"input": "1", "cache_read": "0"}, [0, 1000, 1000, 1000]),
        ({"input": "1", "cache_write": "0"}, [1000, 0, 0, 0]),
        ({"input": "1", "cache_write_5m": "0"}, [1000, 0, 0, 0]),
        ({"input": "0"}, [0, 0, 0, 0]),
        ({"output": "1"}, [0, 0, 0, 0]),
        ({}, [0, 0, 0, 0]),
    ],
)
def test_a_missing_rate_falls_back_to_the_rate_of_the_next_class(rates, nano):
    assert [cost(usage, one(**rates)) for usage in WRITES] == nano


# 60 of 100 input tokens are text, 10 of 20 output and 40 of 50 cached ones
MULTIMODAL = Usage(
    input_tokens=100,
    output_tokens=20,
    cache_read_tokens=50,
    audio_input_tokens=30,
    image_input_tokens=10,
    audio_output_tokens=8,
    image_output_tokens=2,
    audio_cache_read_tokens=10,
)


@pytest.mark.parametrize(
    ("rates", "nano"),
    [
        # 100·1 + 20·2 + 50·0.1
        ({}, 145_000),
        # 70·1 + 30·7
        ({"audio_input": "7"}, 325_000),
        # 90·1 + 10·5
        ({"image_input": "5"}, 185_000),
        # 12·2 + 8·9
        ({"audio_output": "9"}, 201_000),
        # 18·2 + 2·40
        ({"image_output": "40"}, 221_000),
        # 40·0.1 + 10·0.5
        ({"audio_cache_read": "0.5"}, 149_000),
        # 0 is a rate: 70·1, 18·2
        ({"audio_input": "0", "image_output": "0"}, 111_000),
        # 60·1 + 30·7 + 10·5 + 10·2 + 8·9 + 2·40 + 40·0.1 + 10·0.5
        (
            {
                "audio_input": "7",
                "image_input": "5",
                "audio_output": "9",
                "image_output": "40",
                "audio_cache_read": "0.5",
            },
            501_000,
        ),
    ],
)
def test_audio_and_images_are_charged_at_their_own_rates_if_set(rates, nano):
    assert cost(MULTIMODAL, one(input="1", output="2", cache_read="0.1", **rates)) == nano


def test_cached_audio_without_any_cache_rate_is_charged_as_input():
    assert cost(MULTIMODAL, one(input="1", audio_input="7")) == (70 + 30 * 7 + 50) * 1000


@pytest.mark.parametrize(
    ("calls", "nano"),
    [
        ((), 300_000),
        ((("web_search", 1),), 10_300_000),
        ((("file_search", 2), ("web_search", 3)), 35_300_000),
        # a tool without a price is free
        ((("code_interpreter", 7),), 300_000),
        ((("code_interpreter", 7), ("web_search", 1)), 10_300_000),
    ],
)
def test_tools_that_the_vendor_ran_are_charged_per_call(calls, nano):
    price = Price(None, (FULL,), tools={"web_search": D("0.01"), "file_search": D("0.0025")})
    assert cost(Usage(100, tool_calls=calls), price) == nano


def test_a_price_may_consist_of_tool_prices_alone():
    price = Price(None, (), tools={"web_search": D("0.0000000005")})
    assert cost(Usage(100, 100, tool_calls=(("web_search", 1),)), price) == 1


MODAL = {
    "price_each_call": D("0.001"),
    "price_tiers": [{"input_tokens_up_to": 1000, "price_input_tokens": 1}],
    "flex_price_tiers": [{"input_tokens_up_to": 1000, "price_input_tokens": D("0.5")}],
    "scale_price_each_call": 0,
    "priority_price_each_call": D("0.002"),
    "priority_price_tiers": [
        {"input_tokens_up_to": 100, "price_input_tokens": 2},
        {"input_tokens_up_to": 1000, "price_input_tokens": 4},
    ],
}


@pytest.mark.parametrize(
    ("requested", "served", "nano"),
    [
        # 100 tokens at 1, and 0.001 per call
        ("", "", 1_100_000),
        ("", "default", 1_100_000),
        # its own tiers, and the default mode's price per call
        ("flex", "", 1_050_000),
        # its own price per call, which is 0, and the default mode's tiers
        ("scale", "", 100_000),
        ("priority", "", 2_200_000),
        # no prices of its own: those of the default mode
        ("batch", "", 1_100_000),
        ("unheard of", "", 1_100_000),
        # no requested mode: the served one
        ("", "flex", 1_050_000),
        ("", "scale", 100_000),
        ("", "priority", 2_200_000),
        ("", "batch", 1_100_000),
        ("", "unheard of", 1_100_000),
        # vendors without capacity serve a priority call in the default mode
        ("priority", "default", 1_100_000),
        ("priority", "priority", 2_200_000),
        ("priority", "flex", 2_200_000),
        # otherwise the requested mode applies
        ("flex", "default", 1_050_000),
        ("flex", "priority", 1_050_000),
        ("scale", "default", 100_000),
    ],
)
def test_the_requested_or_served_mode_is_charged(requested, served, nano):
    assert cost(Usage(100, tier=served), prices.read(MODAL), requested) == nano


def test_a_mode_has_its_own_tier_limits():
    price = prices.read(MODAL)
    assert cost(Usage(101), price, "priority") == 2_000_000 + 404_000
    assert cost(Usage(101), price, "flex") == 1_000_000 + 50_500


# Vendors' replies: protocol, whole reply, price document, nano-USD
CHAT = {
    "price_tiers": [
        {
            "input_tokens_up_to": 10**8,
            "price_input_tokens": D("2.50"),
            "price_output_tokens": 10,
            "price_cache_read_input_tokens": D("1.25"),
            "price_input_audio_tokens": 40,
            "price_output_audio_tokens": 80,
        }
    ],
    "flex_price_tiers": [{"input_tokens_up_to": 10**8, "price_input_tokens": 1, "price_output_tokens": 5}],
    "tool_prices": {"web_search": D("0.01"), "file_search": D("0.0025")},
}
CLAUDE = {
    "price_tiers": [
        {
            "input_tokens_up_to": 10**8,
            "price_input_tokens": 3,
            "price_output_tokens": 15,
            "price_cache_read_input_tokens": D("0.30"),
            "price_cache_creation_input_tokens_5min": D("3.75"),
            "price_cache_creation_input_tokens_1h": 6,
        }
    ],
    "priority_price_tiers": [{"input_tokens_up_to": 10**8, "price_input_tokens": 6, "price_output_tokens": 30}],
    "batch_price_tiers": [
        {"input_tokens_up_to": 10**8, "price_input_tokens": D("1.5"), "price_output_tokens": D("7.5")}
    ],
    "tool_prices": {"web_search": D("0.01")},
}
GOOGLE = {
    "price_tiers": [
        {
            "input_tokens_up_to": 200_000,
            "price_input_tokens": D("0.30"),
            "price_output_tokens": D("2.50"),
            "price_cache_read_input_tokens": D("0.03"),
            "price_input_audio_tokens": 1,
            "price_cache_read_input_audio_tokens": D("0.1"),
            "price_output_image_tokens": 30,
        },
        {"input_tokens_up_to": 10**8, "price_input_tokens": D("0.60"), "price_output_tokens": 5},
    ],
    "tool_prices": {"google_search": D("0.035")},
}
IMAGES = {
    "price_tiers": [
        {
            "input_tokens_up_to": 10**8,
            "price_input_tokens": 5,
            "price_input_image_tokens": 10,
            "price_output_image_tokens": 40,
        }
    ]
}
REPLIES = [
    (
        # 1117 tokens, of which 1024 cached: 93·2.5 + 1024·1.25 + 46·10
        "openai_chat",
        {
            "service_tier": "default",
            "usage": {
                "prompt_tokens": 1117,
                "completion_tokens": 46,
                "total_tokens": 1163,
                "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 0},
            },
        },
        CHAT,
        1_972_500,
    ),
    (
        # 30 of 130 input and 90 of 100 output tokens are audio: 100·2.5 + 30·40 + 10·10 + 90·80
        "openai_chat",
        {
            "usage": {
                "prompt_tokens": 130,
                "completion_tokens": 100,
                "prompt_tokens_details": {"audio_tokens": 30, "text_tokens": 100},
                "completion_tokens_details": {"audio_tokens": 90, "text_tokens": 10},
            }
        },
        CHAT,
        8_750_000,
    ),
    ("openai_chat", {"service_tier": "flex", "usage": {"prompt_tokens": 7, "completion_tokens": 3}}, CHAT, 22_000),
    (
        # a reply of an image generation: 10·5 + 194·10 + 1056·40
        "openai_chat",
        {
            "usage": {
                "input_tokens": 204,
                "output_tokens": 1056,
                "total_tokens": 1260,
                "input_tokens_details": {"image_tokens": 194, "text_tokens": 10},
                "output_tokens_details": {"image_tokens": 1056, "text_tokens": 0},
            }
        },
        IMAGES,
        44_230_000,
    ),
    (
        # 50·2.5 + 20·10 + two web searches and one file search; an opened page and a function call are free
        "openai_responses",
        {
            "service_tier": "default",
            "output": [
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "a"}},
                {"type": "web_search_call", "status": "completed", "action": {"type": "open_page", "url": "b"}},
                {"type": "web_search_call", "status": "completed"},
                {"type": "web_search_call", "status": "failed", "action": {"type": "search", "query": "c"}},
                {"type": "file_search_call", "status": "completed", "queries": ["d"]},
                {"type": "function_call", "name": "web_search_call", "arguments": "{}"},
                {"type": "message", "content": [{"type": "output_text", "text": '"web_search_call"'}]},
            ],
            "usage": {
                "input_tokens": 50,
                "output_tokens": 20,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 12},
            },
        },
        CHAT,
        325_000 + 20_000_000 + 2_500_000,
    ),
    (
        # 12·3 + 18000·0.3 + 300·3.75 + 3000·6 + 77·15, and three searches
        "anthropic",
        {
            "usage": {
                "input_tokens": 12,
                "cache_creation_input_tokens": 3300,
                "cache_read_input_tokens": 18000,
                "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 3000},
                "output_tokens": 77,
                "output_tokens_details": {"thinking_tokens": 40},
                "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 1},
                "service_tier": "standard",
            }
        },
        CLAUDE,
        25_716_000 + 30_000_000,
    ),
    (
        "anthropic",
        {"usage": {"input_tokens": 10, "output_tokens": 20, "service_tier": "standard", "speed": "fast"}},
        CLAUDE,
        660_000,
    ),
    ("anthropic", {"usage": {"input_tokens": 10, "output_tokens": 20, "service_tier": "batch"}}, CLAUDE, 165_000),
    (
        # text 900 fresh and 50 cached, audio 30 and 20; the reply 5 of text, 1290 of an image, 7 of thought:
        # 900·0.3 + 50·0.03 + 30·1 + 20·0.1 + 12·2.5 + 1290·30, and one search
        "gemini",
        {
            "candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b"]}, "finishReason": "STOP"}],
            "usageMetadata": {
                "promptTokenCount": 990,
                "toolUsePromptTokenCount": 10,
                "cachedContentTokenCount": 70,
                "candidatesTokenCount": 1295,
                "thoughtsTokenCount": 7,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 940},
                    {"modality": "AUDIO", "tokenCount": 50},
                ],
                "cacheTokensDetails": [
                    {"modality": "AUDIO", "tokenCount": 20},
                    {"modality": "TEXT", "tokenCount": 50},
                ],
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
            },
        },
        GOOGLE,
        39_033_500 + 35_000_000,
    ),
    # exactly at the limit of a tier, and one above: 200000·0.3, 200001·0.6
    ("gemini", {"usageMetadata": {"promptTokenCount": 200_000}}, GOOGLE, 60_000_000),
    ("gemini", {"usageMetadata": {"promptTokenCount": 200_001}}, GOOGLE, 120_000_600),
]


@pytest.mark.parametrize(("protocol", "reply", "document", "nano"), REPLIES)
def test_a_vendors_reply_costs_what_was_computed_by_hand(protocol, reply, document, nano):
    usage, _ = LOADED[protocol].read_whole(json.dumps(reply).encode())
    assert cost(usage, prices.read(document)) == nano


@pytest.mark.parametrize(
    ("mode", "tokens", "may_cache", "nano"),
    [
        # 100·3 + 20·15
        ("", (100, 20), False, 600_000),
        # 100·6 + 20·15: all of the input may be written to the cache
        ("", (100, 20), True, 900_000),
        # 0.002 per call, and 101 tokens at 4
        ("priority", (101, 0), False, 2_000_000 + 404_000),
        ("priority", (100, 9), True, 2_000_000 + 200_000),
    ],
)
def test_the_upper_bound_of_a_call_before_it_is_sent(mode, tokens, may_cache, nano):
    price = Price(None, (FULL,), prices.read(MODAL).modes)
    assert upper_bound(price, Features(mode, may_cache), *tokens) == nano


def test_the_upper_bound_uses_the_highest_rate_that_the_media_may_have():
    price = one(input="1", audio_input="7", image_input="5", output="2", image_output="40")
    assert upper_bound(price, Features(has_media=True), 100, 10) == 100 * 7_000 + 10 * 40_000
    assert upper_bound(price, Features(), 100, 10) == 100 * 1_000 + 10 * 40_000


def test_the_upper_bound_of_a_price_per_call_is_that_price():
    assert upper_bound(Price(D("0.25"), ()), Features(may_cache=True), 10**6, 10**6) == 250_000_000


# -- properties ----------------------------------------------------------------------------------------------------

COUNTS = st.integers(0, MAX_TOKENS)
RATES = st.none() | st.decimals(0, 1000, places=4)
ANY_TIERS = st.builds(Tier, st.integers(1, 10**9), *[RATES] * len(prices.RATES))
TOOLS = ("web_search", "code_execution", "unpriced")


@st.composite
def usages(draw) -> Usage:
    """Token classes of any size, and disjoint parts of them."""
    fresh, output, read = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    audio, audio_output = draw(st.integers(0, fresh)), draw(st.integers(0, output))
    return Usage(
        input_tokens=fresh,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=draw(COUNTS),
        cache_write_5m_tokens=draw(COUNTS),
        cache_write_1h_tokens=draw(COUNTS),
        audio_input_tokens=audio,
        image_input_tokens=draw(st.integers(0, fresh - audio)),
        audio_output_tokens=audio_output,
        image_output_tokens=draw(st.integers(0, output - audio_output)),
        audio_cache_read_tokens=draw(st.integers(0, read)),
        tool_calls=tuple((name, draw(st.integers(1, 1000))) for name in draw(st.sets(st.sampled_from(TOOLS)))),
    )


def parts(usage: Usage) -> list[Usage]:
    """The same tokens and tool calls, as one usage for each class."""
    audio_in, image_in = usage.audio_input_tokens, usage.image_input_tokens
    audio_out, image_out = usage.audio_output_tokens, usage.image_output_tokens
    audio_read = usage.audio_cache_read_tokens
    return [
        Usage(input_tokens=usage.input_tokens - audio_in - image_in),
        Usage(input_tokens=audio_in, audio_input_tokens=audio_in),
        Usage(input_tokens=image_in, image_input_tokens=image_in),
        Usage(output_tokens=usage.output_tokens - audio_out - image_out),
        Usage(output_tokens=audio_out, audio_output_tokens=audio_out),
        Usage(output_tokens=image_out, image_output_tokens=image_out),
        Usage(cache_read_tokens=usage.cache_read_tokens - audio_read),
        Usage(cache_read_tokens=audio_read, audio_cache_read_tokens=audio_read),
        Usage(cache_write_tokens=usage.cache_write_tokens),
        Usage(cache_write_5m_tokens=usage.cache_write_5m_tokens),
        Usage(cache_write_1h_tokens=usage.cache_write_1h_tokens),
        *(Usage(tool_calls=(call,)) for call in usage.tool_calls),
    ]


TOOL_PRICES = st.fixed_dictionaries({}, optional={name: st.decimals(0, 10, places=6) for name in TOOLS[:2]})


@given(usages(), st.lists(ANY_TIERS, max_size=3), st.none() | st.decimals(0, 100, places=9), TOOL_PRICES)
def test_no_cost_is_negative_or_longer_than_63_bits(usage, tiers, each, tools):
    total = cost(usage, Price(each, tuple(sorted(tiers, key=lambda tier: tier.up_to)), tools=tools))
    assert isinstance(total, int)
    assert 0 <= total < 2**63


@given(usages(), ANY_TIERS, TOOL_PRICES)
def test_every_token_is_priced_exactly_once(usage, tier, tools):
    """The parts cost as much as the whole, except for the rounding of each part."""
    price = Price(None, (tier,), tools=tools)
    found = [cost(part, price) for part in parts(usage)]
    assert abs(cost(usage, price) - sum(found)) * 2 <= len(found) + 1


@given(usages(), ANY_TIERS)
def test_a_rate_in_whole_thousandths_leaves_nothing_to_round(usage, tier):
    """One USD per million tokens is 1,000 nano-USD per token, so the parts add up exactly."""
    rates = [getattr(tier, name) for name in prices.RATES.values()]
    price = Price(None, (Tier(tier.up_to, *(None if rate is None else round(rate, 3) for rate in rates)),))
    assert cost(usage, price) == sum(cost(part, price) for part in parts(usage))


@given(COUNTS, st.decimals(0, 1_000_000, places=18))
def test_a_cost_is_rounded_half_up_and_only_once(tokens, rate):
    exact = Fraction(rate) * tokens * 1000
    assert cost(Usage(tokens), Price(None, (Tier(10**8, rate),))) == (exact * 2 + 1) // 2


@given(usages(), st.lists(ANY_TIERS, min_size=1, max_size=2), st.sampled_from(("", *MODES)))
def test_no_call_costs_more_than_its_upper_bound(usage, tiers, mode):
    usage = replace(usage, tool_calls=())
    price = Price(D("0.01"), (tiers[0],), {"flex": Rates(None, (tiers[-1],))})
    maximum = upper_bound(price, Features(mode, True, True), usage.prompt_tokens, usage.output_tokens)
    reads = (price.rates(mode).tiers[0].cache_read, price.rates(mode).tiers[0].audio_cache_read)
    if not any(reads):  # the upper bound assumes that cached input is not more expensive than other input
        assert cost(usage, price, mode) <= maximum


def test_the_total_of_many_rows_is_exact():
    price = one(input="0.15", output="0.6", cache_read="0.075")
    total = sum(cost(Usage(n % 997, n % 13, 0, n % 7), price) for n in range(100_000))
    fresh = sum(n % 997 for n in range(100_000)) * 150
    written = sum(n % 13 for n in range(100_000)) * 600
    read = sum(n % 7 for n in range(100_000)) * 75
    assert total == fresh + written + read
