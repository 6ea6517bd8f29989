"""Model capabilities that a translated request must respect, by patterns of the model name.

Sources: docs.anthropic.com/en/docs/about-claude/models, …/build-with-claude/extended-thinking, …/effort;
platform.openai.com/docs/guides/reasoning, …/latest-model; ai.google.dev/gemini-api/docs/thinking, …/thought-signatures.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

SAMPLING = frozenset(("temperature", "top_p", "top_k"))
REASONING = frozenset(("reasoning",))


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one model supports. `max_output` is in tokens, None if unknown.

    `refused`: fields of a neutral request that the model rejects with an error. `budgets`: thinking is requested by a
    token budget within `budget_range`. `efforts`: the only efforts that it accepts; empty if it accepts all.
    """

    max_output: int | None = None
    refused: frozenset[str] = frozenset()
    traits: frozenset[str] = frozenset()
    budgets: bool = False
    budget_range: tuple[int, int] | None = None
    efforts: tuple[str, ...] = ()


_ONE_SAMPLER = frozenset(("one_of_temperature_and_top_p",))
_NO_FORMAT = frozenset(("format",))
_NO_PREFILL_FAST = frozenset(("no_prefill", "fast"))
_LOW_TO_HIGH, _LOW_TO_MAX = ("low", "medium", "high"), ("low", "medium", "high", "max")
_NONE_TO_XHIGH = ("none", "low", "medium", "high", "xhigh")
# Ordered: the first row with a pattern that is found in the model's name decides.
ANTHROPIC: tuple[tuple[str, Capabilities], ...] = (
    (r"claude-3-(opus|sonnet|haiku)", Capabilities(4096, REASONING | _NO_FORMAT, _ONE_SAMPLER)),
    (r"claude-3[-.]5", Capabilities(8192, REASONING | _NO_FORMAT, _ONE_SAMPLER)),
    (r"claude-3[-.]7", Capabilities(64_000, _NO_FORMAT, _ONE_SAMPLER, budgets=True)),
    (r"claude-sonnet-4([-@](0|20)|$)", Capabilities(64_000, _NO_FORMAT, _ONE_SAMPLER, budgets=True)),
    (r"claude-opus-4([-@](0|20)|$)", Capabilities(32_000, _NO_FORMAT, _ONE_SAMPLER, budgets=True)),
    (r"claude-opus-4[-.]1", Capabilities(32_000, frozenset(), _ONE_SAMPLER, budgets=True)),
    (r"claude-(sonnet|haiku|opus)-4[-.]5", Capabilities(64_000, frozenset(), _ONE_SAMPLER, budgets=True)),
    (r"claude-sonnet-4[-.]6", Capabilities(64_000, frozenset(), _ONE_SAMPLER | {"no_prefill"}, efforts=_LOW_TO_HIGH)),
    (r"claude-opus-4[-.]6", Capabilities(128_000, frozenset(), _ONE_SAMPLER | _NO_PREFILL_FAST, efforts=_LOW_TO_MAX)),
    # Newer models accept no sampling parameters and no budgets.
    (r"claude-(fable|mythos)", Capabilities(128_000, SAMPLING, frozenset(("no_prefill", "always_thinks")))),
    (r"claude-opus", Capabilities(128_000, SAMPLING, _NO_PREFILL_FAST)),
    (r"claude-", Capabilities(64_000, SAMPLING, frozenset(("no_prefill",)))),
)
_REASONING_REFUSES = frozenset(
    ("temperature", "top_p", "frequency_penalty", "presence_penalty", "logprobs", "stop")
)  # fields that reasoning models reject
_ENCRYPTED = frozenset(("encrypted_reasoning",))
_NO_REASONING = REASONING | {"verbosity"}


def _reasoning_model(*efforts: str) -> Capabilities:
    return Capabilities(128_000, _REASONING_REFUSES, _ENCRYPTED, efforts=efforts)


OPENAI: tuple[tuple[str, Capabilities], ...] = (
    (r"^(chatgpt|gpt-4o)", Capabilities(16_384, _NO_REASONING)),
    (r"^gpt-4\.1", Capabilities(32_768, _NO_REASONING)),
    (r"^(gpt-3\.5|gpt-4-)", Capabilities(4096, _NO_REASONING)),
    (r"^gpt-4$|^gpt-\d+(\.\d+)?-chat", Capabilities(refused=_NO_REASONING)),
    (r"^o\d", Capabilities(100_000, _REASONING_REFUSES | {"verbosity"}, _ENCRYPTED, efforts=_LOW_TO_HIGH)),
    (r"^gpt-5-pro", _reasoning_model("high")),
    (r"^gpt-5\.\d-pro", _reasoning_model("medium", "high", "xhigh")),
    (r"^gpt-5\.1-codex-max", _reasoning_model("low", "medium", "high", "xhigh")),
    (r"^gpt-5(\.1)?-codex", _reasoning_model(*_LOW_TO_HIGH)),
    (r"^gpt-5\.1", _reasoning_model("none", *_LOW_TO_HIGH)),
    (r"^gpt-5(-|$)", _reasoning_model("minimal", *_LOW_TO_HIGH)),
    (r"^gpt-5\.[2-5]", _reasoning_model(*_NONE_TO_XHIGH)),
    (r"^(gpt-[56]|codex)", _reasoning_model(*_NONE_TO_XHIGH, "max")),
)
_PENALTIES = frozenset(("frequency_penalty", "presence_penalty"))
_SIGNATURES = frozenset(("signatures",))
_NO_JSON_TOOLS = frozenset(("no_json_with_functions",))  # before Gemini 3
GEMINI: tuple[tuple[str, Capabilities], ...] = (
    (r"gemini-(1|2\.0)", Capabilities(8192, REASONING, _NO_JSON_TOOLS)),
    (r"gemini-2\.5-pro", Capabilities(65_536, _PENALTIES, _NO_JSON_TOOLS, budgets=True, budget_range=(128, 32_768))),
    (r"gemini-2\.5", Capabilities(65_536, _PENALTIES, _NO_JSON_TOOLS, budgets=True, budget_range=(0, 24_576))),
    (r"^(?>.*?gemini-).*pro", Capabilities(65_536, _PENALTIES, _SIGNATURES, efforts=("low", "high"))),
    (r"gemini-", Capabilities(65_536, _PENALTIES, _SIGNATURES, efforts=_LOW_TO_HIGH)),
)
TABLES = {"anthropic": ANTHROPIC, "openai_chat": OPENAI, "openai_responses": OPENAI, "gemini": GEMINI}
UNKNOWN = Capabilities()


@lru_cache(maxsize=4096)
def capabilities(protocol: str, model: str) -> Capabilities:
    """Returns the capabilities of a model that is called in this protocol; UNKNOWN if no pattern matches.

    A vendor prefix before the last slash is ignored.
    """
    name = model.rpartition("/")[2].lower()
    return next((found for pattern, found in TABLES[protocol] if re.search(pattern, name)), UNKNOWN)
