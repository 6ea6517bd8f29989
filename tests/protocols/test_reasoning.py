"""Requested reasoning as the efforts, budgets and levels of every protocol."""

import pytest

from gproxy.errors import BadRequest
from gproxy.protocols import reasoning
from gproxy.protocols.hub import Reasoning, Target
from gproxy.protocols.losses import Losses

BY_EFFORT = Target("main", "m")
BY_BUDGET = Target("main", "m", budgets=True)
REJECTING = Target("main", "m", refused=frozenset(("reasoning",)))
ALWAYS_THINKING = Target("main", "m", traits=frozenset(("always_thinks",)))
PRO = Target("main", "m", budgets=True, budget_range=(128, 32_768))
FLASH = Target("main", "m", budgets=True, budget_range=(0, 24_576))


def accepting(*efforts: str) -> Target:
    return Target("main", "m", efforts=efforts)


ADAPTIVE = {"type": "adaptive"}


def enabled(budget: int) -> dict:
    return {"type": "enabled", "budget_tokens": budget}


@pytest.mark.parametrize(
    ("requested", "effort"),
    [
        (Reasoning("high"), "high"),
        (Reasoning("low", 99_999), "low"),  # an effort takes precedence over a budget
        (Reasoning(), "medium"),
        (Reasoning(budget=0), "none"),
        (Reasoning(budget=1), "minimal"),
        (Reasoning(budget=4096), "minimal"),
        (Reasoning(budget=4097), "low"),
        (Reasoning(budget=8192), "low"),
        (Reasoning(budget=8193), "medium"),
        (Reasoning(budget=16384), "medium"),
        (Reasoning(budget=16385), "high"),
        (Reasoning(budget=32768), "high"),
        (Reasoning(budget=32769), "xhigh"),
    ],
)
def test_the_effort_of_a_request(requested, effort):
    assert reasoning.effort(requested) == effort


@pytest.mark.parametrize(
    ("wanted", "allowed", "expected"),
    [
        ("medium", ("low", "medium", "high"), "medium"),
        ("minimal", ("low", "medium", "high"), "low"),
        ("max", ("low", "medium", "high"), "high"),
        ("none", ("minimal", "low"), "minimal"),
        ("minimal", ("none", "low"), "none"),  # the lower of two
        ("medium", ("high", "low"), "low"),
    ],
)
def test_the_nearest_allowed_effort(wanted, allowed, expected):
    assert reasoning.nearest(wanted, allowed) == expected


# request, target, effort, whether a loss is reported
OPENAI = [
    (Reasoning("high"), BY_EFFORT, "high", False),
    (Reasoning("none"), BY_EFFORT, "none", False),
    # neither effort nor budget: medium for a model with known efforts; an unknown model may reject the field
    (Reasoning(), BY_EFFORT, None, False),
    (Reasoning(is_shown=True), BY_EFFORT, None, False),
    (Reasoning(), accepting("low", "medium", "high"), "medium", False),
    (Reasoning(), accepting("high"), "high", True),
    (Reasoning(budget=0), BY_EFFORT, "none", False),
    (Reasoning(budget=9000), BY_EFFORT, "medium", True),
    (Reasoning("max"), Target("main", "m", efforts=("low", "high")), "high", True),
    (Reasoning("low"), Target("main", "m", efforts=("low", "high")), "low", False),
    (Reasoning(budget=5000), Target("main", "m", efforts=("low", "high")), "low", True),
    (Reasoning("none"), Target("main", "m", efforts=("low", "high")), "low", True),
    (Reasoning("high"), REJECTING, None, True),
    (Reasoning("none"), REJECTING, None, False),
]


@pytest.mark.parametrize(("requested", "target", "written", "is_lost"), OPENAI)
def test_the_effort_for_openai(requested, target, written, is_lost):
    losses = Losses()
    assert reasoning.openai_effort(requested, target, losses) == written
    assert losses.names() == (("reasoning",) if is_lost else ())


# effort, budget with max_tokens 16,000, budget without max_tokens, effort for a model without budgets
ANTHROPIC = [
    ("none", None, None, None),
    ("minimal", 2000, 4096, "low"),
    ("low", 4000, 8192, "low"),
    ("medium", 8000, 16384, "medium"),
    ("high", 12000, 32768, "high"),
    ("xhigh", 15200, 63_999, "xhigh"),
    ("max", 15200, 63_999, "max"),
]


@pytest.mark.parametrize(("effort", "limited", "unlimited", "expected_effort"), ANTHROPIC)
def test_an_effort_for_anthropic_is_a_budget_or_an_effort(effort, limited, unlimited, expected_effort):
    losses = Losses()
    disabled = ({"type": "disabled"}, None)
    with_limit = reasoning.write_anthropic(Reasoning(effort), 16_000, 16_000, BY_BUDGET, losses)
    assert with_limit == (disabled if limited is None else (enabled(limited), None))
    without_limit = reasoning.write_anthropic(Reasoning(effort), None, 64_000, BY_BUDGET, losses)
    assert without_limit == (disabled if unlimited is None else (enabled(unlimited), None))
    assert losses.names() == ()
    by_effort = reasoning.write_anthropic(Reasoning(effort), 16_000, 16_000, BY_EFFORT, losses)
    assert by_effort == (disabled if expected_effort is None else (ADAPTIVE, expected_effort))
    assert losses.names() == (("reasoning",) if effort == "minimal" else ())


# request, max_tokens of the client, max_tokens that is sent, written value, whether a loss is reported
BUDGETS = [
    (Reasoning(budget=5000), 16_000, 16_000, enabled(5000), False),
    (Reasoning(budget=5000), None, 64_000, enabled(5000), False),
    # at least 1,024 and below the maximum
    (Reasoning(budget=500), 16_000, 16_000, enabled(1024), True),
    (Reasoning(budget=16_000), 16_000, 16_000, enabled(15_999), True),
    (Reasoning("minimal"), 2000, 2000, enabled(1024), False),
    (Reasoning("high"), 1100, 1100, enabled(1024), False),
    (Reasoning("high"), 1025, 1025, enabled(1024), False),
    # no thinking when the maximum is too small
    (Reasoning("high"), 1024, 1024, {"type": "disabled"}, True),
    (Reasoning(budget=5000), 500, 500, {"type": "disabled"}, True),
    (Reasoning(budget=0), 500, 500, {"type": "disabled"}, False),
    (Reasoning(), 16_000, 16_000, enabled(8000), False),
]


@pytest.mark.parametrize(("requested", "max_tokens", "maximum", "written", "is_lost"), BUDGETS)
def test_a_budget_for_anthropic_is_below_the_maximum(requested, max_tokens, maximum, written, is_lost):
    losses = Losses()
    assert reasoning.write_anthropic(requested, max_tokens, maximum, BY_BUDGET, losses) == (written, None)
    assert losses.names() == (("reasoning",) if is_lost else ())


@pytest.mark.parametrize(
    ("requested", "target", "written", "is_lost"),
    [
        (Reasoning(), BY_EFFORT, (ADAPTIVE, None), False),
        (Reasoning(is_shown=True), BY_EFFORT, ({**ADAPTIVE, "display": "summarized"}, None), False),
        (Reasoning("high", is_shown=True), BY_EFFORT, ({**ADAPTIVE, "display": "summarized"}, "high"), False),
        (Reasoning("high", is_shown=False), BY_EFFORT, (ADAPTIVE, "high"), False),
        (Reasoning(budget=9000), BY_EFFORT, (ADAPTIVE, "medium"), True),
        (Reasoning("high"), REJECTING, (None, None), True),
        (Reasoning("none"), REJECTING, (None, None), False),
    ],
)
def test_thinking_for_anthropic_models_with_efforts_or_without_thinking(requested, target, written, is_lost):
    losses = Losses()
    assert reasoning.write_anthropic(requested, 16_000, 16_000, target, losses) == written
    assert losses.names() == (("reasoning",) if is_lost else ())


WITH_MAX = ("low", "medium", "high", "max")


@pytest.mark.parametrize(
    ("requested", "target", "written", "is_lost"),
    [
        # the nearest effort that the model accepts
        (Reasoning("xhigh"), accepting(*WITH_MAX), (ADAPTIVE, "high"), True),
        (Reasoning("max"), accepting(*WITH_MAX), (ADAPTIVE, "max"), False),
        (Reasoning("max"), accepting("low", "medium", "high"), (ADAPTIVE, "high"), True),
        (Reasoning("minimal"), accepting(*WITH_MAX), (ADAPTIVE, "low"), True),
        (Reasoning(budget=60_000), accepting("low", "medium", "high"), (ADAPTIVE, "high"), True),
        (Reasoning(), accepting("low", "medium", "high"), (ADAPTIVE, None), False),
        (Reasoning("none"), accepting(*WITH_MAX), ({"type": "disabled"}, None), False),
        # thinking is not disabled for a model that always thinks
        (Reasoning("none"), ALWAYS_THINKING, (None, "low"), True),
        (Reasoning(budget=0), ALWAYS_THINKING, (None, "low"), True),
        (Reasoning("high"), ALWAYS_THINKING, (ADAPTIVE, "high"), False),
    ],
)
def test_anthropic_models_get_the_nearest_effort_and_some_always_think(requested, target, written, is_lost):
    losses = Losses()
    assert reasoning.write_anthropic(requested, 16_000, 16_000, target, losses) == written
    assert losses.names() == (("reasoning",) if is_lost else ())


@pytest.mark.parametrize(
    ("thinking", "output_config", "read"),
    [
        ({}, {}, None),
        ({"type": "disabled"}, {}, Reasoning("none")),
        ({"type": "enabled", "budget_tokens": 5000}, {}, Reasoning(None, 5000, True)),
        ({"type": "enabled", "budget_tokens": 5000, "display": "omitted"}, {}, Reasoning(None, 5000, False)),
        ({"type": "enabled", "budget_tokens": 0}, {}, Reasoning(None, 0, True)),
        ({"type": "enabled"}, {}, Reasoning(None, None, True)),
        ({"type": "adaptive"}, {}, Reasoning()),
        ({"type": "adaptive", "display": "summarized"}, {"effort": "max"}, Reasoning("max", None, True)),
        ({"type": "enabled", "budget_tokens": 5000}, {"effort": "low"}, Reasoning("low", None, True)),
        ({"type": "disabled"}, {"effort": "low"}, Reasoning("none")),
        ({}, {"effort": "xhigh"}, Reasoning("xhigh")),
    ],
)
def test_reasoning_is_read_from_messages_requests(thinking, output_config, read):
    assert reasoning.read_anthropic(thinking, output_config, "thinking") == read


@pytest.mark.parametrize(
    ("thinking", "output_config", "place"),
    [
        ({"type": "sometimes"}, {}, "thinking.type"),
        ({"type": 7}, {}, "thinking.type"),
        ({"type": "enabled", "budget_tokens": "many"}, {}, "thinking.budget_tokens"),
        ({"type": "enabled", "budget_tokens": -1}, {}, "thinking.budget_tokens"),
        ({"type": "adaptive"}, {"effort": "minimal"}, "output_config.effort"),
    ],
)
def test_invalid_thinking_in_messages_requests_is_a_bad_request(thinking, output_config, place):
    with pytest.raises(BadRequest, match=place):
        reasoning.read_anthropic(thinking, output_config, "thinking")


@pytest.mark.parametrize(
    ("config", "read"),
    [
        ({}, None),
        ({"includeThoughts": False}, Reasoning("none")),
        ({"includeThoughts": True}, Reasoning(None, None, True)),
        ({"thinkingLevel": "MINIMAL"}, Reasoning("minimal")),
        ({"thinkingLevel": "low"}, Reasoning("low")),
        ({"thinkingLevel": "MEDIUM", "includeThoughts": True}, Reasoning("medium", None, True)),
        ({"thinkingLevel": "HIGH", "includeThoughts": False}, Reasoning("high", None, False)),
        ({"thinkingLevel": "HIGH", "thinkingBudget": 5}, Reasoning("high")),
        ({"thinkingLevel": "THINKING_LEVEL_UNSPECIFIED", "thinkingBudget": 5}, Reasoning(None, 5)),
        ({"thinkingBudget": 0}, Reasoning("none")),
        ({"thinkingBudget": "8192"}, Reasoning(None, 8192)),
        ({"thinkingBudget": -1, "includeThoughts": True}, Reasoning(None, None, True)),
    ],
)
def test_reasoning_is_read_from_gemini_requests(config, read):
    assert reasoning.read_gemini(config, "thinkingConfig") == read


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"thinkingLevel": "EXTREME"}, "thinkingConfig.thinkingLevel"),
        ({"thinkingLevel": 7}, "thinkingConfig.thinkingLevel"),
        ({"thinkingBudget": -2}, "thinkingConfig.thinkingBudget"),
        ({"includeThoughts": "yes"}, "thinkingConfig.includeThoughts"),
    ],
)
def test_an_invalid_thinking_config_is_a_bad_request(config, place):
    with pytest.raises(BadRequest, match=place):
        reasoning.read_gemini(config, "thinkingConfig")


# effort, level, budget, whether a loss is reported
GEMINI = [
    ("minimal", "MINIMAL", 1024, False),
    ("low", "LOW", 1024, False),
    ("medium", "MEDIUM", 8192, False),
    ("high", "HIGH", 24576, False),
    ("xhigh", "HIGH", 24576, True),
    ("max", "HIGH", 24576, True),
]


@pytest.mark.parametrize(("effort", "level", "budget", "is_lost"), GEMINI)
def test_an_effort_for_gemini_is_a_level_or_a_budget(effort, level, budget, is_lost):
    for target, written in (
        (BY_EFFORT, {"includeThoughts": True, "thinkingLevel": level}),
        (BY_BUDGET, {"includeThoughts": True, "thinkingBudget": budget}),
    ):
        losses = Losses()
        assert reasoning.write_gemini(Reasoning(effort), target, losses) == written
        assert losses.names() == (("reasoning",) if is_lost else ())


@pytest.mark.parametrize(
    ("requested", "target", "written", "is_lost"),
    [
        # models with levels always think
        (Reasoning("none"), BY_EFFORT, {"includeThoughts": False}, True),
        (Reasoning("none"), accepting("low", "high"), {"includeThoughts": False}, True),
        (Reasoning("none"), BY_BUDGET, {"includeThoughts": False, "thinkingBudget": 0}, False),
        # a budget within the range of the model
        (Reasoning("none"), FLASH, {"includeThoughts": False, "thinkingBudget": 0}, False),
        (Reasoning("none"), PRO, {"includeThoughts": False, "thinkingBudget": 128}, True),
        (Reasoning(budget=0), PRO, {"includeThoughts": False, "thinkingBudget": 128}, True),
        (Reasoning(budget=100), PRO, {"includeThoughts": True, "thinkingBudget": 128}, True),
        (Reasoning(budget=128), PRO, {"includeThoughts": True, "thinkingBudget": 128}, False),
        (Reasoning(budget=32_768), PRO, {"includeThoughts": True, "thinkingBudget": 32_768}, False),
        (Reasoning(budget=32_768), FLASH, {"includeThoughts": True, "thinkingBudget": 24_576}, True),
        (Reasoning(budget=99_999), PRO, {"includeThoughts": True, "thinkingBudget": 32_768}, True),
        (Reasoning("max"), FLASH, {"includeThoughts": True, "thinkingBudget": 24_576}, True),
        (Reasoning("high"), FLASH, {"includeThoughts": True, "thinkingBudget": 24_576}, False),
        (Reasoning(), PRO, {"includeThoughts": True}, False),
        # the nearest level that the model accepts
        (Reasoning("medium"), accepting("low", "high"), {"includeThoughts": True, "thinkingLevel": "LOW"}, True),
        (Reasoning("minimal"), accepting("low", "high"), {"includeThoughts": True, "thinkingLevel": "LOW"}, True),
        (Reasoning("max"), accepting("low", "high"), {"includeThoughts": True, "thinkingLevel": "HIGH"}, True),
        (Reasoning("high"), accepting("low", "high"), {"includeThoughts": True, "thinkingLevel": "HIGH"}, False),
        (Reasoning("minimal"), accepting("low", "medium"), {"includeThoughts": True, "thinkingLevel": "LOW"}, True),
        (Reasoning(), BY_EFFORT, {"includeThoughts": True}, False),
        (Reasoning(is_shown=False), BY_BUDGET, {"includeThoughts": False}, False),
        (Reasoning("high", is_shown=False), BY_EFFORT, {"includeThoughts": False, "thinkingLevel": "HIGH"}, False),
        (Reasoning(budget=9000), BY_BUDGET, {"includeThoughts": True, "thinkingBudget": 9000}, False),
        (Reasoning(budget=9000), BY_EFFORT, {"includeThoughts": True, "thinkingLevel": "MEDIUM"}, True),
        (Reasoning(budget=0), BY_EFFORT, {"includeThoughts": False}, True),
        (Reasoning("high"), REJECTING, None, True),
        (Reasoning("none"), REJECTING, None, False),
    ],
)
def test_the_thinking_config_for_gemini(requested, target, written, is_lost):
    losses = Losses()
    assert reasoning.write_gemini(requested, target, losses) == written
    assert losses.names() == (("reasoning",) if is_lost else ())
