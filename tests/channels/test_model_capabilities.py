"""Model capabilities by the model's name."""

import re
import time

import pytest

from gproxy import protocols
from gproxy.channels.model_capabilities import (
    ANTHROPIC,
    GEMINI,
    OPENAI,
    REASONING,
    SAMPLING,
    TABLES,
    UNKNOWN,
    capabilities,
)
from gproxy.protocols.hub import Request
from gproxy.protocols.reasoning import EFFORTS

PENALTIES = {"frequency_penalty", "presence_penalty"}
# model: maximum output tokens, refused fields, accepts one of temperature and top_p only, thinks by budget
CLAUDES = [
    ("claude-3-haiku-20240307", 4096, {"reasoning", "format"}, True, False),
    ("claude-3-opus-latest", 4096, {"reasoning", "format"}, True, False),
    ("claude-3-5-sonnet-latest", 8192, {"reasoning", "format"}, True, False),
    ("claude-3.5-haiku", 8192, {"reasoning", "format"}, True, False),
    ("claude-3-7-sonnet-20250219", 64_000, {"format"}, True, True),
    ("claude-sonnet-4-20250514", 64_000, {"format"}, True, True),
    ("claude-sonnet-4-0", 64_000, {"format"}, True, True),
    ("claude-sonnet-4", 64_000, {"format"}, True, True),
    ("claude-sonnet-4@20250514", 64_000, {"format"}, True, True),
    ("claude-opus-4-20250514", 32_000, {"format"}, True, True),
    ("claude-opus-4-1-20250805", 32_000, set(), True, True),
    ("claude-sonnet-4-5-20250929", 64_000, set(), True, True),
    ("claude-haiku-4-5", 64_000, set(), True, True),
    ("claude-opus-4-5", 64_000, set(), True, True),
    ("claude-sonnet-4-6", 64_000, set(), True, False),
    ("claude-opus-4-6", 128_000, set(), True, False),
    # newer models accept no sampling parameters, and think by effort only
    ("claude-opus-4-7", 128_000, SAMPLING, False, False),
    ("claude-opus-5", 128_000, SAMPLING, False, False),
    ("claude-fable-1", 128_000, SAMPLING, False, False),
    ("claude-mythos-preview", 128_000, SAMPLING, False, False),
    ("claude-sonnet-5", 64_000, SAMPLING, False, False),
    ("claude-haiku-5", 64_000, SAMPLING, False, False),
    ("anthropic/claude-sonnet-4.5", 64_000, set(), True, True),
    ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 64_000, set(), True, True),
    ("CLAUDE-OPUS-4-1", 32_000, set(), True, True),
]


@pytest.mark.parametrize(("model", "maximum", "refused", "is_either", "budgets"), CLAUDES)
def test_models_of_anthropic(model, maximum, refused, is_either, budgets):
    found = capabilities("anthropic", model)
    assert (found.max_output, found.refused, found.budgets) == (maximum, refused, budgets)
    assert ("one_of_temperature_and_top_p" in found.traits) is is_either


@pytest.mark.parametrize(
    ("model", "traits", "efforts"),
    [
        ("claude-sonnet-4-5", set(), ()),
        ("claude-sonnet-4-6", {"no_prefill"}, ("low", "medium", "high")),
        ("claude-opus-4-6", {"no_prefill", "fast"}, ("low", "medium", "high", "max")),
        ("claude-opus-4-7", {"no_prefill", "fast"}, ()),
        ("claude-sonnet-5", {"no_prefill"}, ()),
        ("claude-fable-1", {"no_prefill", "always_thinks"}, ()),
        ("claude-mythos-preview", {"no_prefill", "always_thinks"}, ()),
    ],
)
def test_traits_and_efforts_of_newer_models_of_anthropic(model, traits, efforts):
    found = capabilities("anthropic", model)
    assert found.traits - {"one_of_temperature_and_top_p"} == traits
    assert found.efforts == efforts


THREE, HIGH = ("low", "medium", "high"), ("none", "low", "medium", "high", "xhigh")
# model: maximum output tokens, efforts, whether it is a reasoning model
OPENAIS = [
    ("gpt-4o-mini", 16_384, (), False),
    ("gpt-4.1", 32_768, (), False),
    ("gpt-4.1-nano-2025-04-14", 32_768, (), False),
    ("gpt-3.5-turbo", 4096, (), False),
    ("gpt-4-turbo", 4096, (), False),
    ("gpt-4-0613", 4096, (), False),
    ("gpt-4", None, (), False),
    ("chatgpt-4o-latest", 16_384, (), False),
    ("gpt-5-chat-latest", None, (), False),
    ("gpt-5.2-chat-latest", None, (), False),
    ("o1", 100_000, THREE, True),
    ("o3-mini-2025-01-31", 100_000, THREE, True),
    ("gpt-5", 128_000, ("minimal", *THREE), True),
    ("gpt-5-mini-2025-08-07", 128_000, ("minimal", *THREE), True),
    ("gpt-5-codex", 128_000, THREE, True),
    ("gpt-5.1-codex-mini", 128_000, THREE, True),
    ("gpt-5-pro", 128_000, ("high",), True),
    ("gpt-5.2-pro", 128_000, ("medium", "high", "xhigh"), True),
    ("gpt-5.1", 128_000, ("none", *THREE), True),
    ("gpt-5.1-codex-max", 128_000, ("low", "medium", "high", "xhigh"), True),
    ("gpt-5.2", 128_000, HIGH, True),
    ("gpt-5.2-codex", 128_000, HIGH, True),
    ("gpt-5.9", 128_000, (*HIGH, "max"), True),
    ("gpt-6-preview", 128_000, (*HIGH, "max"), True),
    ("codex-mini-latest", 128_000, (*HIGH, "max"), True),
    ("openai/gpt-5", 128_000, ("minimal", *THREE), True),
]


@pytest.mark.parametrize(("model", "maximum", "efforts", "thinks"), OPENAIS)
def test_models_of_openai(model, maximum, efforts, thinks):
    for protocol in ("openai_chat", "openai_responses"):
        found = capabilities(protocol, model)
        assert (found.max_output, found.efforts) == (maximum, efforts)
        assert ("reasoning" in found.refused) is not thinks
        assert ("temperature" in found.refused) is thinks
        assert ("encrypted_reasoning" in found.traits) is thinks
        assert not found.budgets


EITHER = {"no_json_with_functions"}


# model: maximum output tokens, refused fields, traits, budgets, efforts
GEMINIS = [
    ("gemini-1.5-flash", 8192, REASONING, EITHER, None, ()),
    ("models/gemini-2.0-flash", 8192, REASONING, EITHER, None, ()),
    ("gemini-2.5-pro", 65_536, PENALTIES, EITHER, (128, 32_768), ()),
    ("gemini-2.5-flash-lite", 65_536, PENALTIES, EITHER, (0, 24_576), ()),
    ("gemini-3-pro-preview", 65_536, PENALTIES, {"signatures"}, None, ("low", "high")),
    ("publishers/google/models/gemini-3-flash", 65_536, PENALTIES, {"signatures"}, None, THREE),
]


@pytest.mark.parametrize(("model", "maximum", "refused", "traits", "budgets", "efforts"), GEMINIS)
def test_models_of_gemini(model, maximum, refused, traits, budgets, efforts):
    found = capabilities("gemini", model)
    assert (found.max_output, found.refused, found.traits, found.efforts) == (maximum, refused, traits, efforts)
    assert (found.budgets, found.budget_range) == (budgets is not None, budgets)


@pytest.mark.parametrize("protocol", TABLES)
@pytest.mark.parametrize("model", ["", "llama-3.3-70b", "vendor/unheard-of:free", "gpt-oss-120b", "deepseek-chat", "/"])
def test_an_unknown_model_has_no_known_capabilities(protocol, model):
    assert capabilities(protocol, model) is UNKNOWN
    assert (UNKNOWN.max_output, UNKNOWN.refused, UNKNOWN.traits, UNKNOWN.efforts) == (None, set(), set(), ())


def test_a_model_called_in_another_vendors_protocol_is_unknown():
    assert capabilities("openai_chat", "anthropic/claude-opus-4.7") is UNKNOWN
    assert capabilities("anthropic", "gpt-5") is UNKNOWN


def test_every_protocol_has_its_table():
    assert set(TABLES) == set(protocols.load())


@pytest.mark.parametrize(("pattern", "found"), [*ANTHROPIC, *OPENAI, *GEMINI])
def test_a_row_names_existing_fields_and_efforts(pattern, found):
    re.compile(pattern)
    assert found.refused <= set(Request.__slots__)
    assert set(found.efforts) <= set(EFFORTS)
    assert found.max_output is None or found.max_output >= 4096


@pytest.mark.parametrize(("table", "models"), [(ANTHROPIC, CLAUDES), (OPENAI, OPENAIS), (GEMINI, GEMINIS)])
def test_no_row_is_shadowed_by_an_earlier_one(table, models):
    """Each row decides for at least one of the models above."""
    named = [row[0].rpartition("/")[2].lower() for row in models]
    deciding = {next(pattern for pattern, _ in table if re.search(pattern, name)) for name in named}
    assert deciding == {pattern for pattern, _ in table}


def test_a_long_name_is_looked_up_in_linear_time():
    for protocol in TABLES:
        for name in ("gemini-" * 15_000, "gpt-" + "1" * 100_000, "claude-" * 15_000, "gemini-" * 9 + "pro"):
            started = time.process_time()
            capabilities(protocol, name)
            assert time.process_time() - started < 0.05
