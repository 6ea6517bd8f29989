"""How much a model shall think, in every protocol's own measure: behaviour 15.1."""

import pytest

from gproxy.errors import BadRequest
from gproxy.protocols import reasoning
from gproxy.protocols.hub import Reasoning, Target
from gproxy.protocols.losses import Losses

BY_EFFORT = Target("main", "m")
BY_BUDGET = Target("main", "m", budgets=True)
REFUSES = Target("main", "m", refused=frozenset(("reasoning",)))
THINKS = Target("main", "m", traits=frozenset(("always_thinks",)))
PRO = Target("main", "m", budgets=True, budget_range=(128, 32_768))
FLASH = Target("main", "m", budgets=True, budget_range=(0, 24_576))


def takes(*efforts: str) -> Target:
    return Target("main", "m", efforts=efforts)


ADAPTIVE = {"type": "adaptive"}


def enabled(budget: int) -> dict:
    return {"type": "enabled", "budget_tokens": budget}


@pytest.mark.parametrize(
    ("asked", "effort"),
    [
        (Reasoning("high"), "high"),
        (Reasoning("low", 99_999), "low"),  # an effort says more than a budget
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
def test_the_effort_that_a_request_comes_to(asked, effort):
    assert reasoning.effort(asked) == effort


@pytest.mark.parametrize(
    ("wanted", "allowed", "found"),
    [
        ("medium", ("low", "medium", "high"), "medium"),
        ("minimal", ("low", "medium", "high"), "low"),
        ("max", ("low", "medium", "high"), "high"),
        ("none", ("minimal", "low"), "minimal"),
        ("minimal", ("none", "low"), "none"),  # the lower of two
        ("medium", ("high", "low"), "low"),
    ],
)
def test_the_nearest_effort(wanted, allowed, found):
    assert reasoning.nearest(wanted, allowed) == found


# what is asked for, of whom; the effort, and whether something is lost
TO_OPENAI = [
    (Reasoning("high"), BY_EFFORT, "high", False),
    (Reasoning("none"), BY_EFFORT, "none", False),
    # as it sees fit: to a model that is known to think, the middle; a model of unknown name may not take the field
    (Reasoning(), BY_EFFORT, None, False),
    (Reasoning(is_shown=True), BY_EFFORT, None, False),
    (Reasoning(), takes("low", "medium", "high"), "medium", False),
    (Reasoning(), takes("high"), "high", True),
    (Reasoning(budget=0), BY_EFFORT, "none", False),
    (Reasoning(budget=9000), BY_EFFORT, "medium", True),
    (Reasoning("max"), Target("main", "m", efforts=("low", "high")), "high", True),
    (Reasoning("low"), Target("main", "m", efforts=("low", "high")), "low", False),
    (Reasoning(budget=5000), Target("main", "m", efforts=("low", "high")), "low", True),
    (Reasoning("none"), Target("main", "m", efforts=("low", "high")), "low", True),
    (Reasoning("high"), REFUSES, None, True),
    (Reasoning("none"), REFUSES, None, False),
]


@pytest.mark.parametrize(("asked", "target", "written", "is_lost"), TO_OPENAI)
def test_towards_openai(asked, target, written, is_lost):
    losses = Losses()
    assert reasoning.openai_effort(asked, target, losses) == written
    assert losses.names() == (("reasoning",) if is_lost else ())


# effort: budget of a told maximum of 16,000, budget without one, effort of a model that takes no budget
TO_ANTHROPIC = [
    ("none", None, None, None),
    ("minimal", 2000, 4096, "low"),
    ("low", 4000, 8192, "low"),
    ("medium", 8000, 16384, "medium"),
    ("high", 12000, 32768, "high"),
    ("xhigh", 15200, 63_999, "xhigh"),
    ("max", 15200, 63_999, "max"),
]


@pytest.mark.parametrize(("effort", "of_told", "untold", "newer"), TO_ANTHROPIC)
def test_an_effort_towards_anthropic(effort, of_told, untold, newer):
    losses = Losses()
    disabled = ({"type": "disabled"}, None)
    told = reasoning.write_anthropic(Reasoning(effort), 16_000, 16_000, BY_BUDGET, losses)
    assert told == (disabled if of_told is None else (enabled(of_told), None))
    open_ended = reasoning.write_anthropic(Reasoning(effort), None, 64_000, BY_BUDGET, losses)
    assert open_ended == (disabled if untold is None else (enabled(untold), None))
    assert losses.names() == ()
    by_effort = reasoning.write_anthropic(Reasoning(effort), 16_000, 16_000, BY_EFFORT, losses)
    assert by_effort == (disabled if newer is None else (ADAPTIVE, newer))
    assert losses.names() == (("reasoning",) if effort == "minimal" else ())


# what is asked for, the maximum that is told and that is sent; what is written, and whether something is lost
BUDGETS = [
    (Reasoning(budget=5000), 16_000, 16_000, enabled(5000), False),
    (Reasoning(budget=5000), None, 64_000, enabled(5000), False),
    # between 1,024 and less than the maximum
    (Reasoning(budget=500), 16_000, 16_000, enabled(1024), True),
    (Reasoning(budget=16_000), 16_000, 16_000, enabled(15_999), True),
    (Reasoning("minimal"), 2000, 2000, enabled(1024), False),
    (Reasoning("high"), 1100, 1100, enabled(1024), False),
    (Reasoning("high"), 1025, 1025, enabled(1024), False),
    # where nothing fits, no thinking
    (Reasoning("high"), 1024, 1024, {"type": "disabled"}, True),
    (Reasoning(budget=5000), 500, 500, {"type": "disabled"}, True),
    (Reasoning(budget=0), 500, 500, {"type": "disabled"}, False),
    (Reasoning(), 16_000, 16_000, enabled(8000), False),
]


@pytest.mark.parametrize(("asked", "told", "maximum", "written", "is_lost"), BUDGETS)
def test_a_budget_towards_anthropic_fits_into_the_maximum(asked, told, maximum, written, is_lost):
    losses = Losses()
    assert reasoning.write_anthropic(asked, told, maximum, BY_BUDGET, losses) == (written, None)
    assert losses.names() == (("reasoning",) if is_lost else ())


@pytest.mark.parametrize(
    ("asked", "target", "written", "is_lost"),
    [
        (Reasoning(), BY_EFFORT, (ADAPTIVE, None), False),
        (Reasoning(is_shown=True), BY_EFFORT, ({**ADAPTIVE, "display": "summarized"}, None), False),
        (Reasoning("high", is_shown=True), BY_EFFORT, ({**ADAPTIVE, "display": "summarized"}, "high"), False),
        (Reasoning("high", is_shown=False), BY_EFFORT, (ADAPTIVE, "high"), False),
        (Reasoning(budget=9000), BY_EFFORT, (ADAPTIVE, "medium"), True),
        (Reasoning("high"), REFUSES, (None, None), True),
        (Reasoning("none"), REFUSES, (None, None), False),
    ],
)
def test_models_of_anthropic_that_think_by_effort_or_not_at_all(asked, target, written, is_lost):
    losses = Losses()
    assert reasoning.write_anthropic(asked, 16_000, 16_000, target, losses) == written
    assert losses.names() == (("reasoning",) if is_lost else ())


MAX = ("low", "medium", "high", "max")


@pytest.mark.parametrize(
    ("asked", "target", "written", "is_lost"),
    [
        # the nearest effort that the model takes
        (Reasoning("xhigh"), takes(*MAX), (ADAPTIVE, "high"), True),
        (Reasoning("max"), takes(*MAX), (ADAPTIVE, "max"), False),
        (Reasoning("max"), takes("low", "medium", "high"), (ADAPTIVE, "high"), True),
        (Reasoning("minimal"), takes(*MAX), (ADAPTIVE, "low"), True),
        (Reasoning(budget=60_000), takes("low", "medium", "high"), (ADAPTIVE, "high"), True),
        (Reasoning(), takes("low", "medium", "high"), (ADAPTIVE, None), False),
        (Reasoning("none"), takes(*MAX), ({"type": "disabled"}, None), False),
        # one that cannot be kept from thinking is not told to be
        (Reasoning("none"), THINKS, (None, "low"), True),
        (Reasoning(budget=0), THINKS, (None, "low"), True),
        (Reasoning("high"), THINKS, (ADAPTIVE, "high"), False),
    ],
)
def test_claudes_take_the_nearest_effort_and_some_always_think(asked, target, written, is_lost):
    losses = Losses()
    assert reasoning.write_anthropic(asked, 16_000, 16_000, target, losses) == written
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
def test_what_anthropics_clients_ask_for(thinking, output_config, read):
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
def test_what_anthropics_clients_may_not_ask_for(thinking, output_config, place):
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
def test_what_geminis_clients_ask_for(config, read):
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
def test_what_geminis_clients_may_not_ask_for(config, place):
    with pytest.raises(BadRequest, match=place):
        reasoning.read_gemini(config, "thinkingConfig")


# effort: level, budget, and whether it says less than was asked for
TO_GEMINI = [
    ("minimal", "MINIMAL", 1024, False),
    ("low", "LOW", 1024, False),
    ("medium", "MEDIUM", 8192, False),
    ("high", "HIGH", 24576, False),
    ("xhigh", "HIGH", 24576, True),
    ("max", "HIGH", 24576, True),
]


@pytest.mark.parametrize(("effort", "level", "budget", "is_lost"), TO_GEMINI)
def test_an_effort_towards_gemini_is_a_level_or_a_budget(effort, level, budget, is_lost):
    for target, written in (
        (BY_EFFORT, {"includeThoughts": True, "thinkingLevel": level}),
        (BY_BUDGET, {"includeThoughts": True, "thinkingBudget": budget}),
    ):
        losses = Losses()
        assert reasoning.write_gemini(Reasoning(effort), target, losses) == written
        assert losses.names() == (("reasoning",) if is_lost else ())


@pytest.mark.parametrize(
    ("asked", "target", "written", "is_lost"),
    [
        # models that think by levels cannot be kept from it
        (Reasoning("none"), BY_EFFORT, {"includeThoughts": False}, True),
        (Reasoning("none"), takes("low", "high"), {"includeThoughts": False}, True),
        (Reasoning("none"), BY_BUDGET, {"includeThoughts": False, "thinkingBudget": 0}, False),
        # a budget within what the model takes
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
        # the nearest of the levels that the model takes
        (Reasoning("medium"), takes("low", "high"), {"includeThoughts": True, "thinkingLevel": "LOW"}, True),
        (Reasoning("minimal"), takes("low", "high"), {"includeThoughts": True, "thinkingLevel": "LOW"}, True),
        (Reasoning("max"), takes("low", "high"), {"includeThoughts": True, "thinkingLevel": "HIGH"}, True),
        (Reasoning("high"), takes("low", "high"), {"includeThoughts": True, "thinkingLevel": "HIGH"}, False),
        (Reasoning("minimal"), takes("low", "medium"), {"includeThoughts": True, "thinkingLevel": "LOW"}, True),
        (Reasoning(), BY_EFFORT, {"includeThoughts": True}, False),
        (Reasoning(is_shown=False), BY_BUDGET, {"includeThoughts": False}, False),
        (Reasoning("high", is_shown=False), BY_EFFORT, {"includeThoughts": False, "thinkingLevel": "HIGH"}, False),
        (Reasoning(budget=9000), BY_BUDGET, {"includeThoughts": True, "thinkingBudget": 9000}, False),
        (Reasoning(budget=9000), BY_EFFORT, {"includeThoughts": True, "thinkingLevel": "MEDIUM"}, True),
        (Reasoning(budget=0), BY_EFFORT, {"includeThoughts": False}, True),
        (Reasoning("high"), REFUSES, None, True),
        (Reasoning("none"), REFUSES, None, False),
    ],
)
def test_towards_gemini(asked, target, written, is_lost):
    losses = Losses()
    assert reasoning.write_gemini(asked, target, losses) == written
    assert losses.names() == (("reasoning",) if is_lost else ())
