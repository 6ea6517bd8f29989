"""How much a model shall think, between OpenAI's efforts, Anthropic's budgets and Gemini's levels.

https://platform.openai.com/docs/guides/reasoning, https://docs.anthropic.com/en/docs/build-with-claude/extended-thinking,
https://ai.google.dev/gemini-api/docs/thinking
"""

from gproxy.protocols import validate
from gproxy.protocols.hub import Reasoning, Target
from gproxy.protocols.losses import Losses

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# The share of a told maximum that an effort may think.
SHARES = {"minimal": 1 / 8, "low": 1 / 4, "medium": 1 / 2, "high": 3 / 4, "xhigh": 19 / 20, "max": 19 / 20}
# Where no maximum is told. Upper bounds of what counts as that effort on the way back.
BUDGETS = {"none": 0, "minimal": 4096, "low": 8192, "medium": 16384, "high": 32768}
MIN_BUDGET = 1024  # Anthropic's
# Google's own numbers for its OpenAI-compatible endpoint: https://ai.google.dev/gemini-api/docs/openai
GEMINI_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}
LEVELS_BACK = {"MINIMAL": "minimal", "LOW": "low", "MEDIUM": "medium", "HIGH": "high", "XHIGH": "xhigh"}
ANTHROPIC_EFFORTS = ("low", "medium", "high", "xhigh", "max")


def effort(asked: Reasoning) -> str:
    """The effort that a request for thinking comes to."""
    if asked.effort is not None:
        return asked.effort
    if asked.budget is None:
        return "medium"
    return next((name for name, maximum in BUDGETS.items() if asked.budget <= maximum), "xhigh")


def nearest(wanted: str, allowed: tuple[str, ...]) -> str:
    """The allowed effort that is closest, the lower of two."""
    at = EFFORTS.index(wanted)
    return min(allowed, key=lambda name: (abs(EFFORTS.index(name) - at), EFFORTS.index(name)))


def openai_effort(asked: Reasoning, target: Target, losses: Losses) -> str | None:
    """The `effort` for an OpenAI model, None where it takes none."""
    wanted = effort(asked)
    if "reasoning" in target.refused:
        if wanted != "none":
            losses.lose("reasoning")
        return None
    if not target.efforts and asked.effort is None and asked.budget is None:
        return None  # as it sees fit, and an unknown model may not take the field at all
    if target.efforts and wanted not in target.efforts:
        losses.lose("reasoning")
        return nearest(wanted, target.efforts)
    if asked.budget:
        losses.lose("reasoning")
    return wanted


def read_anthropic(thinking: dict, output_config: dict, place: str) -> Reasoning | None:
    kind = validate.optional_text(thinking, "type", place)
    wanted = validate.optional_text(output_config, "effort", "output_config")
    validate.lookup(wanted, dict.fromkeys(ANTHROPIC_EFFORTS), "output_config.effort")
    is_shown = {"summarized": True, "omitted": False}.get(validate.optional_text(thinking, "display", place))
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
    asked: Reasoning, max_tokens: int | None, maximum: int, target: Target, losses: Losses
) -> tuple[dict | None, str | None]:
    """The `thinking` object and the effort. `max_tokens` is what the client told, `most` what is sent."""
    wanted = effort(asked)
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
        return _budgeted(asked, wanted, max_tokens, maximum, losses), None
    shown = {"display": "summarized"} if asked.is_shown else {}
    allowed = target.efforts or ANTHROPIC_EFFORTS
    if asked.effort is None:
        if asked.budget is not None:
            losses.lose("reasoning")
            return {"type": "adaptive", **shown}, nearest(wanted, allowed)
        return {"type": "adaptive", **shown}, None
    if wanted not in allowed:
        losses.lose("reasoning")
    return {"type": "adaptive", **shown}, nearest(wanted, allowed)


def _budgeted(asked: Reasoning, wanted: str, max_tokens: int | None, maximum: int, losses: Losses) -> dict:
    """Between 1,024 and less than the maximum; where nothing fits, no thinking."""
    if asked.budget is not None:
        budget = asked.budget
    elif max_tokens is not None:
        budget = int(max_tokens * SHARES[wanted])
    else:
        budget = BUDGETS.get(wanted, 65536)
    if maximum <= MIN_BUDGET:
        losses.lose("reasoning")
        return {"type": "disabled"}
    fitting = min(max(budget, MIN_BUDGET), maximum - 1)
    if asked.budget is not None and fitting != asked.budget:
        losses.lose("reasoning")
    return {"type": "enabled", "budget_tokens": fitting}


def read_gemini(config: dict, place: str) -> Reasoning | None:
    """Of a `thinkingConfig` in camel case."""
    if not config:
        return None
    is_shown = validate.optional_flag(config, "includeThoughts", place)
    level = validate.optional_text(config, "thinkingLevel", place)
    budget = config.get("thinkingBudget")
    if level is not None and level.upper() != "THINKING_LEVEL_UNSPECIFIED":
        return Reasoning(validate.lookup(level.upper(), LEVELS_BACK, f"{place}.thinkingLevel"), None, is_shown)
    if budget is not None:
        budget = validate.optional_count(config, "thinkingBudget", place, minimum=-1)
        if budget == 0:
            return Reasoning("none", None, is_shown)
        return Reasoning(None, None if budget < 0 else budget, is_shown)  # -1: the model decides
    return Reasoning("none") if is_shown is False else Reasoning(None, None, is_shown)


def write_gemini(asked: Reasoning, target: Target, losses: Losses) -> dict | None:
    """The `thinkingConfig`: a level or a budget, never both."""
    wanted = effort(asked)
    if "reasoning" in target.refused:
        if wanted != "none":
            losses.lose("reasoning")
        return None
    shown = asked.is_shown is not False
    if target.budgets:
        if asked.effort is None and asked.budget is None:
            return {"includeThoughts": shown}
        budget = GEMINI_BUDGETS[wanted] if asked.budget is None else asked.budget
        minimum, maximum = target.budget_range or (0, budget)
        fitting = min(max(budget, minimum), maximum)
        if fitting != budget or (asked.budget is None and wanted in ("xhigh", "max")):
            losses.lose("reasoning")
        return {"includeThoughts": shown and wanted != "none", "thinkingBudget": fitting}
    if wanted == "none":
        losses.lose("reasoning")  # these models cannot be kept from it
        return {"includeThoughts": False}
    if asked.effort is None and asked.budget is None:
        return {"includeThoughts": shown}
    level = nearest(wanted, target.efforts or tuple(LEVELS))
    if asked.budget is not None or level != wanted or wanted in ("xhigh", "max"):
        losses.lose("reasoning")
    return {"includeThoughts": shown, "thinkingLevel": LEVELS[level]}
