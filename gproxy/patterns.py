"""Patterns of model names, matched in a time that grows with the length of the name alone.

`*` matches any characters, also `/` and none at all; every other character matches itself, in its own case. In `glob`
patterns `?` matches any one character. A pattern is split at its stars, and its parts are found in their order: no star
is ever tried twice.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

# The bounds of a pattern that is written; stored patterns beyond them keep working.
MAX_STARS, MAX_CHARS = 16, 256

Matches = Callable[[str], object]  # true if the whole name matches
# Returns the end of a part's first occurrence between two positions of a name, -1 without one.
_Find = Callable[[str, int, int], int]


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern of permissions and rate limits."""

    text: str
    fullmatch: Matches = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AliasPattern:
    """The name of an alias with at least one `*`."""

    text: str
    fullmatch: Matches = field(compare=False, repr=False)
    parts: tuple[str, ...] = field(compare=False, repr=False)  # between the stars

    def captures(self, name: str) -> tuple[str, ...] | None:
        """Returns the text that each `*` matches, None if the name does not match.

        The first `*` takes as much as it can, then the second, and so on. So the parts are found from the end.
        """
        if not self.fullmatch(name):
            return None
        first, *middle, last = self.parts
        end = len(name) - len(last)
        if not middle:
            return (name[len(first) : end],)
        backwards = name[::-1]  # str.rfind takes a quadratic time in the worst case, str.find does not
        found = []
        for part in reversed(middle):
            after = len(name) - backwards.find(part[::-1], len(name) - end)
            found.append(name[after:end])
            end = after - len(part)
        return (name[len(first) : end], *reversed(found))


@lru_cache(maxsize=4096)
def glob(text: str) -> Glob:
    """Returns the pattern in which `*` and `?` are wildcards."""
    return Glob(text, _matcher(text) if "?" in text else _literal_matcher(text))


@lru_cache(maxsize=4096)
def alias_pattern(text: str) -> AliasPattern:
    """Returns the pattern in which `*` is the wildcard, and `?` matches itself."""
    return AliasPattern(text, _literal_matcher(text), tuple(text.split("*")))


def fill(template: str, captures: tuple[str, ...]) -> str:
    """Returns the template with each `*` replaced by the next captured text; further stars stay."""
    if len(captures) == 1:
        return template.replace("*", captures[0], 1)
    given = iter(captures)
    first, *rest = template.split("*")
    return first + "".join(next(given, "*") + part for part in rest)


def problem(text: str) -> str | None:
    """Returns what is wrong with the size of a pattern, None if it is within the bounds."""
    if len(text) > MAX_CHARS:
        return f"a pattern has at most {MAX_CHARS} characters, this one has {len(text)}; shorten it"
    if (stars := text.count("*")) > MAX_STARS:
        return f"a pattern has at most {MAX_STARS} stars (`*`), this one has {stars}; use fewer"
    return None


def _literal_matcher(text: str) -> Matches:
    """Returns the matcher of a pattern without `?`. The usual shapes have the shortest code."""
    first, *rest = text.split("*")
    if not rest:
        return first.__eq__
    *middle, last = rest
    parts, shortest = tuple(filter(None, middle)), len(first) + len(last)
    if not parts and not first:
        return (lambda name: name.endswith(last)) if last else (lambda name: True)
    if not parts and not last:
        return lambda name: name.startswith(first)
    if not parts:
        return lambda name: name.startswith(first) and name.endswith(last) and len(name) >= shortest

    def matches(name: str) -> bool:
        if len(name) < shortest or not name.startswith(first) or not name.endswith(last):
            return False
        at, end = len(first), len(name) - len(last)
        for part in parts:
            if (at := name.find(part, at, end)) < 0:
                return False
            at += len(part)
        return True

    return matches


def _matcher(text: str) -> Matches:
    """Returns the matcher of a pattern with `?`. A part that lies at an end of the name is one regular expression."""
    first, *rest = text.split("*")
    if not rest:
        return _one_each(first).fullmatch
    *middle, last = rest
    finds, shortest = tuple(_find(part) for part in middle if part), len(first) + len(last)
    begins, ends = _one_each(first).match, _one_each(last).fullmatch

    def matches(name: str) -> bool:
        at, end = len(first), len(name) - len(last)
        if len(name) < shortest or not begins(name) or not ends(name, end):
            return False
        return all((at := find(name, at, end)) >= 0 for find in finds)

    return matches


def _one_each(part: str) -> re.Pattern:
    """Compiles a part: each of its characters matches one character, so nothing is tried twice."""
    return re.compile("".join("." if c == "?" else re.escape(c) for c in part), re.DOTALL)


def _find(part: str) -> _Find:
    """Returns the search for a part; with `?` by the shift-and algorithm, in one step for each character of the name.

    Bit i of the state is set if the first i + 1 characters of the part match the name up to here.
    """
    if "?" not in part:
        return lambda name, at, end: found + len(part) if (found := name.find(part, at, end)) >= 0 else -1
    wild = sum(1 << i for i, c in enumerate(part) if c == "?")
    masks = {c: wild | sum(1 << i for i, other in enumerate(part) if other == c) for c in set(part)}
    whole = 1 << (len(part) - 1)

    def find(name: str, at: int, end: int) -> int:
        state = 0
        for i in range(at, end):
            state = (state << 1 | 1) & masks.get(name[i], wild)
            if state & whole:
                return i + 1
        return -1

    return find
