"""What is known of models by their names, where a translated request must differ for them. Unknown names: nothing.

Sources: docs.anthropic.com/en/docs/about-claude/models, …/build-with-claude/extended-thinking, …/effort;
platform.openai.com/docs/guides/reasoning, …/latest-model; ai.google.dev/gemini-api/docs/thinking, …/thought-signatures.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

SAMPLING = frozenset(("temperature", "top_p", "top_k"))
REASONING = frozenset(("reasoning",))


@dataclass(frozen=True, slots=True)
class Facts:
    """`max_output` in tokens. `refused`: fields of a neutral request that the model answers with an error.

    `budgets`: thinking is asked for by a budget, within `budget_range`; `efforts`: the only ones it takes, none told
    where all are taken.
    """

    max_output: int | None = None
    refused: frozenset[str] = frozenset()
    traits: frozenset[str] = frozenset()
    budgets: bool = False
    budget_range: tuple[int, int] | None = None
    efforts: tuple[str, ...] = ()


_ONE = frozenset(("one_of_temperature_and_top_p",))
_NO_FORMAT = frozenset(("format",))
_NEWER = frozenset(("no_prefill", "fast"))
_MAX_EFFORTS = ("low", "medium", "high", "max")
# Ordered: the first row whose pattern is found in the model's name decides.
ANTHROPIC: tuple[tuple[str, Facts], ...] = (
    (r"claude-3-(opus|sonnet|haiku)", Facts(4096, REASONING | _NO_FORMAT, _ONE)),
    (r"claude-3[-.]5", Facts(8192, REASONING | _NO_FORMAT, _ONE)),
    (r"claude-3[-.]7", Facts(64_000, _NO_FORMAT, _ONE, budgets=True)),
    (r"claude-sonnet-4([-@](0|20)|$)", Facts(64_000, _NO_FORMAT, _ONE, budgets=True)),
    (r"claude-opus-4([-@](0|20)|$)", Facts(32_000, _NO_FORMAT, _ONE, budgets=True)),
    (r"claude-opus-4[-.]1", Facts(32_000, frozenset(), _ONE, budgets=True)),
    (r"claude-(sonnet|haiku|opus)-4[-.]5", Facts(64_000, frozenset(), _ONE, budgets=True)),
    (r"claude-sonnet-4[-.]6", Facts(64_000, frozenset(), _ONE | {"no_prefill"}, efforts=("low", "medium", "high"))),
    (r"claude-opus-4[-.]6", Facts(128_000, frozenset(), _ONE | _NEWER, efforts=_MAX_EFFORTS)),
    # Newer ones take no sampling and no budgets.
    (r"claude-(fable|mythos)", Facts(128_000, SAMPLING, frozenset(("no_prefill", "always_thinks")))),
    (r"claude-opus", Facts(128_000, SAMPLING, _NEWER)),
    (r"claude-", Facts(64_000, SAMPLING, frozenset(("no_prefill",)))),
)
_FIXED = frozenset(
    ("temperature", "top_p", "frequency_penalty", "presence_penalty", "logprobs", "stop")
)  # models that think
_SEALED = frozenset(("encrypted_reasoning",))
_PLAIN = REASONING | {"verbosity"}
_THREE, _HIGH = ("low", "medium", "high"), ("none", "low", "medium", "high", "xhigh")


def _thinker(*efforts: str) -> Facts:
    return Facts(128_000, _FIXED, _SEALED, efforts=efforts)


OPENAI: tuple[tuple[str, Facts], ...] = (
    (r"^(chatgpt|gpt-4o)", Facts(16_384, _PLAIN)),
    (r"^gpt-4\.1", Facts(32_768, _PLAIN)),
    (r"^(gpt-3\.5|gpt-4-)", Facts(4096, _PLAIN)),
    (r"^gpt-4$|^gpt-\d+(\.\d+)?-chat", Facts(refused=_PLAIN)),
    (r"^o\d", Facts(100_000, _FIXED | {"verbosity"}, _SEALED, efforts=_THREE)),
    (r"^gpt-5-pro", _thinker("high")),
    (r"^gpt-5\.\d-pro", _thinker("medium", "high", "xhigh")),
    (r"^gpt-5\.1-codex-max", _thinker("low", "medium", "high", "xhigh")),
    (r"^gpt-5(\.1)?-codex", _thinker(*_THREE)),
    (r"^gpt-5\.1", _thinker("none", *_THREE)),
    (r"^gpt-5(-|$)", _thinker("minimal", *_THREE)),
    (r"^gpt-5\.[2-5]", _thinker(*_HIGH)),
    (r"^(gpt-[56]|codex)", _thinker(*_HIGH, "max")),
)
_PENALTIES = frozenset(("frequency_penalty", "presence_penalty"))
_SIGNED = frozenset(("signatures",))
_EITHER = frozenset(("no_json_with_functions",))  # before Gemini 3
GEMINI: tuple[tuple[str, Facts], ...] = (
    (r"gemini-(1|2\.0)", Facts(8192, REASONING, _EITHER)),
    (r"gemini-2\.5-pro", Facts(65_536, _PENALTIES, _EITHER, budgets=True, budget_range=(128, 32_768))),
    (r"gemini-2\.5", Facts(65_536, _PENALTIES, _EITHER, budgets=True, budget_range=(0, 24_576))),
    (r"gemini-.*pro", Facts(65_536, _PENALTIES, _SIGNED, efforts=("low", "high"))),
    (r"gemini-", Facts(65_536, _PENALTIES, _SIGNED, efforts=("low", "medium", "high"))),
)
TABLES = {"anthropic": ANTHROPIC, "openai_chat": OPENAI, "openai_responses": OPENAI, "gemini": GEMINI}
UNKNOWN = Facts()


@lru_cache(maxsize=4096)
def facts(protocol: str, model: str) -> Facts:
    """What holds for a model that is spoken to in this protocol. A vendor's own prefix before a slash is left out."""
    name = model.rpartition("/")[2].lower()
    return next((found for pattern, found in TABLES[protocol] if re.search(pattern, name)), UNKNOWN)
