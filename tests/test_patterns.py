"""Patterns: the same answers and captures as the slow definition, in a time that grows with the name's length alone."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gproxy.patterns import MAX_CHARS, MAX_STARS, alias_pattern, fill, glob, problem

# A character that matches itself, wildcards, and characters with a meaning in regular expressions or TOML.
PATTERNS = st.text("ab*?", max_size=10) | st.text("aAü.[]^$\\+(|){}-/\n*?", max_size=12)
NAMES = st.text("ab", max_size=10) | st.text("aAüÜ.[]^$\\+(|){}-/\n*?", max_size=12)


def is_match(pattern: str, name: str) -> bool:
    """The slow definition."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return is_match(pattern[1:], name) or (bool(name) and is_match(pattern, name[1:]))
    return bool(name) and pattern[0] in ("?", name[0]) and is_match(pattern[1:], name[1:])


def greedy_captures(pattern: str, name: str) -> tuple[str, ...] | None:
    """The slow definition: the first star takes as much as it can, then the second, and so on."""
    found = re.fullmatch("(.*)".join(re.escape(part) for part in pattern.split("*")), name, re.DOTALL)
    return found and found.groups()


@given(PATTERNS, NAMES)
@example("a*?b*a", "aabbaa")
@example("*??*", "a")
@example("**?**", "")
@example("a*a", "a")
def test_a_glob_matches_as_the_slow_definition_does(pattern, name):
    assert bool(glob(pattern).fullmatch(name)) is is_match(pattern, name)


@given(PATTERNS.filter(lambda text: "*" in text), NAMES)
@example("*-*-*", "a-b-c-d")
@example("a**b", "axyb")
@example("*aa*", "aaaa")
@example("*?*", "a?b?c")
def test_an_alias_matches_and_captures_as_the_slow_definition_does(pattern, name):
    expected = greedy_captures(pattern, name)
    assert alias_pattern(pattern).captures(name) == expected
    assert bool(alias_pattern(pattern).fullmatch(name)) is (expected is not None)


def test_the_first_star_captures_as_much_as_it_can():
    assert alias_pattern("*-*").captures("a-b-c") == ("a-b", "c")
    assert alias_pattern("gpt-*-x*").captures("gpt-1-x-x2") == ("1-x", "2")
    assert alias_pattern("**").captures("ab") == ("ab", "")
    assert alias_pattern("a*").captures("b") is None


@pytest.mark.parametrize(
    ("template", "captures", "filled"),
    [("*/*", ("a", "b"), "a/b"), ("x", ("a",), "x"), ("*-*", ("a",), "a-*"), ("*", ("", "b"), ""), ("", ("a",), "")],
)
def test_a_template_takes_the_captures_in_their_order(template, captures, filled):
    assert fill(template, captures) == filled


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*-" * 120 + "latest", "-" * 100_000),
        ("*-*-*-*-latest", "-" * 100_000),
        ("*" * 60 + "x", "-" * 100_000),
        ("*" + "-" * 127 + "x" + "-" * 127 + "*", "-" * 100_000),
        ("*" + ("?-" * 120) + "x*", "-" * 100_000),
        ("*" + "?" * 16 + "-x*" * 16, "-" * 100_000),
        ("-" * 250 + "*x", "-" * 100_000),
    ],
)
def test_the_time_grows_with_the_length_of_the_name_alone(pattern, name):
    for compiled in (glob(pattern), alias_pattern(pattern)):
        started = time.process_time()
        assert not compiled.fullmatch(name)
        assert time.process_time() - started < 0.05


def test_captures_take_a_time_that_grows_with_the_length_of_the_name_alone():
    name = "-" * 100_000 + "latest"
    started = time.process_time()
    assert len(alias_pattern("*-" * 120 + "latest").captures(name)) == 120
    assert alias_pattern("*" + "-" * 127 + "x" + "-" * 127 + "*").captures(name) is None
    assert alias_pattern("a*" + "-" * 200 + "*").captures("a" + "-" * 100_000) == ("-" * 99_800, "")
    assert time.process_time() - started < 0.05


def test_a_pattern_has_a_bounded_size():
    assert problem("*" * MAX_STARS) is None and problem("a" * MAX_CHARS) is None and problem("") is None
    assert problem("*" * 17) == "a pattern has at most 16 stars (`*`), this one has 17; use fewer"
    assert problem("a" * 257) == "a pattern has at most 256 characters, this one has 257; shorten it"
