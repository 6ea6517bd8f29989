"""Converts requested reasoning between OpenAI's efforts, Anthropic's budgets and Gemini's levels.

https://platform.openai.com/docs/guides/reasoning
https://docs.anthropic.com/en/docs/build-with-claude/extended-thinking
https://ai.google.dev/gemini-api/docs/thinking
"""

from gproxy.protocols import validate
from gproxy.protocols.hub import Effort, Reasoning, Target
from gproxy.protocols.losses import Losses

EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# The share of a requested `max_tokens` that becomes the thinking budget of an effort.
SHARES = {"minimal": 1 / 8, "low": 1 / 4, "medium": 1 / 2, "high": 3 / 4, "xhigh": 19 / 20, "max": 19 / 20}
# Thinking budgets in tokens without `max_tokens`; when a budget is read, the largest one of each effort.
BUDGETS = {"none": 0, "minimal": 4096, "low": 8192, "medium": 16384, "high": 32768}
MIN_BUDGET = 1024  # of Anthropic, in tokens
# Google's own numbers for its OpenAI-compatible endpoint: https://ai.google.dev/gemini-api/docs/openai
GEMINI_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}
LEVELS_BACK: dict[str, Effort] = {
    "MINIMAL": "minimal",
    "LOW": "low",
    "MEDIUM": "medium",
    "HIGH": "high",
    "XHIGH": "xhigh",
}
ANTHROPIC_EFFORTS: tuple[Effort, ...] = ("low", "medium", "high", "xhigh", "max")


def effort(reasoning: Reasoning) -> str:
    """Returns the effort that corresponds to the requested reasoning; `medium` without an effort or budget."""
    if reasoning.effort is not None:
        return reasoning.effort
    if reasoning.budget is None:
        return "medium"
    return next((name for name, maximum in BUDGETS.items() if reasoning.budget <= maximum), "xhigh")


def nearest(wanted: str, allowed: tuple[str, ...]) -> str:
    """Returns the closest allowed effort, the lower one of two."""
    rank = EFFORTS.index(wanted)
    return min(allowed, key=lambda name: (abs(EFFORTS.index(name) - rank), EFFORTS.index(name)))


def openai_effort(reasoning: Reasoning, target: Target, losses: Losses) -> str | None:
    """Returns the `effort` for an OpenAI model, None when the field is to be omitted."""
    wanted = effort(reasoning)
    if "reasoning" in target.refused:
        if wanted != "none":
            losses.lose("reasoning")
        return None
    if not target.efforts and reasoning.effort is None and reasoning.budget is None:
        return None  # the model decides; an unknown model may reject the field
    if target.efforts and wanted not in target.efforts:
        losses.lose("reasoning")
        return nearest(wanted, target.efforts)
    if reasoning.budget:
        losses.lose("reasoning")
    return wanted


def read_anthropic(thinking: dict, output_config: dict, place: str) -> Reasoning | None:
    """Reads the `thinking` object and the effort, None when neither is given. Raises BadRequest."""
    kind = validate.optional_text(thinking, "type", place)
    efforts = {name: name for name in ANTHROPIC_EFFORTS}
    wanted = validate.lookup(
        validate.optional_text(output_config, "effort", "output_config"), efforts, "output_config.effort"
    )
    is_shown = {"summarized": True, "omitted": False}.get(validate.optional_text(thinking, "display", place) or "")
    match kind:
        case "disabled":
            return Reasoning("none")
        case "enabled":
            budget = validate.optional_count(thinking, "budget_tokens", place)
            return Reasoning(wanted, None if wanted else budget, is_shown is not False)
        case "adaptive" | "between_tools":
            return Reasoning(wanted, None, is_shown)
        case None:
            return Reasoning(wanted) if wanted else None
    validate.lookup(kind, dict.fromkeys(("enabled", "disabled", "adaptive", "between_tools")), f"{place}.type")
    return None


def write_anthropic(
    reasoning: Reasoning, max_tokens: int | None, maximum: int, target: Target, losses: Losses
) -> tuple[dict | None, str | None]:
    """Returns the `thinking` object and the effort, None for a field to omit.

    `max_tokens` is the client's value, `maximum` the `max_tokens` that is sent.
    """
    wanted = effort(reasoning)
    if "reasoning" in target.refused:
        if wanted != "none":
            losses.lose("reasoning")
        return None, None
    if wanted == "none" and "always_thinks" in target.traits:
        losses.lose("reasoning")
        return None, nearest("low", target.efforts or ANTHROPIC_EFFORTS)
    if wanted == "none":
        return {"type": "disabled"}, None
    if target.budgets:
        return _budgeted(reasoning, wanted, max_tokens, maximum, losses), None
    display = {"display": "summarized"} if reasoning.is_shown else {}
    allowed = target.efforts or ANTHROPIC_EFFORTS
    if reasoning.effort is None:
        if reasoning.budget is not None:
            losses.lose("reasoning")
            return {"type": "adaptive", **display}, nearest(wanted, allowed)
        return {"type": "adaptive", **display}, None
    if wanted not in allowed:
        losses.lose("reasoning")
    return {"type": "adaptive", **display}, nearest(wanted, allowed)


def _budgeted(reasoning: Reasoning, wanted: str, max_tokens: int | None, maximum: int, losses: Losses) -> dict:
    """Returns a `thinking` object whose budget is at least 1,024 and below the maximum, disabled if there is none."""
    if reasoning.budget is not None:
        budget = reasoning.budget
    elif max_tokens is not None:
        budget = int(max_tokens * SHARES[wanted])
    else:
        budget = BUDGETS.get(wanted, 65536)
    if maximum <= MIN_BUDGET:
        losses.lose("reasoning")
        return {"type": "disabled"}
    allowed = min(max(budget, MIN_BUDGET), maximum - 1)
    if reasoning.budget is not None and allowed != reasoning.budget:
        losses.lose("reasoning")
    return {"type": "enabled", "budget_tokens": allowed}


def read_gemini(config: dict, place: str) -> Reasoning | None:
    """Reads a `thinkingConfig` in camel case, None when it is empty. Raises BadRequest."""
    if not config:
        return None
    is_shown = validate.optional_flag(config, "includeThoughts", place)
    level = validate.optional_text(config, "thinkingLevel", place)
    if level is not None and level.upper() != "THINKING_LEVEL_UNSPECIFIED":
        return Reasoning(validate.lookup(level.upper(), LEVELS_BACK, f"{place}.thinkingLevel"), None, is_shown)
    if (budget := validate.optional_count(config, "thinkingBudget", place, minimum=-1)) is not None:
        if budget == 0:
            return Reasoning("none", None, is_shown)
        return Reasoning(None, None if budget < 0 else budget, is_shown)  # -1: the model decides
    return Reasoning("none") if is_shown is False else Reasoning(None, None, is_shown)


def write_gemini(reasoning: Reasoning, target: Target, losses: Losses) -> dict | None:
    """Returns the `thinkingConfig`, with a level or a budget, never both; None when the field is to be omitted."""
    wanted = effort(reasoning)
    if "reasoning" in target.refused:
        if wanted != "none":
            losses.lose("reasoning")
        return None
    include = reasoning.is_shown is not False
    if target.budgets:
        if reasoning.effort is None and reasoning.budget is None:
            return {"includeThoughts": include}
        budget = GEMINI_BUDGETS[wanted] if reasoning.budget is None else reasoning.budget
        minimum, maximum = target.budget_range or (0, budget)
        allowed = min(max(budget, minimum), maximum)
        if allowed != budget or (reasoning.budget is None and wanted in ("xhigh", "max")):
            losses.lose("reasoning")
        return {"includeThoughts": include and wanted != "none", "thinkingBudget": allowed}
    if wanted == "none":
        losses.lose("reasoning")  # models with levels always think
        return {"includeThoughts": False}
    if reasoning.effort is None and reasoning.budget is None:
        return {"includeThoughts": include}
    level = nearest(wanted, target.efforts or tuple(LEVELS))
    if reasoning.budget is not None or level != wanted or wanted in ("xhigh", "max"):
        losses.lose("reasoning")
    return {"includeThoughts": include, "thinkingLevel": LEVELS[level]}
