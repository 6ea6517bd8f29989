"""One word per thing: retired names and banned phrases do not return."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway import ROOT

# Parts of names that had another word for a thing that now has one.
RETIRED = {
    *("allowance", "allowances", "balances", "books", "booked", "catalogue", "crossing", "dialect", "estate"),
    *("envelope", "envelopes", "explaining", "keepsake", "keepsakes", "meter", "meters", "proof", "remembering"),
    *("speaks", "standing", "standings", "summing", "tally", "told", "trail", "trip", "trips", "unbuilt", "unheld"),
    *("visitor", "visitors", "whoever", "wording"),
}
BANNED = re.compile(
    r"\b((is|are|was|were|be|been) (told|said)|tells|what becomes of|so many|whoever|the dead|what stands|goes by|"
    r"comes to|dialects?|visitors?|booked|the books)\b",
    re.IGNORECASE,
)
SOURCES = sorted([*(ROOT / "gproxy").rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
PROSE = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "conf").glob("*.toml"), *ROOT.glob("*.md")])


def words(name: str) -> set[str]:
    name = name.replace("round_trip", "")  # over the network: the field's own word
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def tokens(path: Path) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)


def retired(names: set[str]) -> set[str]:
    return {name for name in names if words(name) & RETIRED}


def banned(text: str) -> list[str]:
    return [found[0] for found in BANNED.finditer(text)]


def prose(path: Path) -> str:
    """Returns the comments and strings of a module."""
    return "\n".join(token.string for token in tokens(path) if token.type in (tokenize.COMMENT, tokenize.STRING))


def comments(path: Path) -> str:
    """Returns the comments and docstrings of a module; the data of tests may have any word."""
    return "\n".join(
        token.string
        for token in tokens(path)
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""'))
    )


def test_the_check_finds_a_retired_name_and_a_banned_phrase():
    assert retired({"Trip", "told_at", "VISITORS", "strip", "round_trip"}) == {"Trip", "told_at", "VISITORS"}
    assert banned("The caller is told what becomes of it.") == ["is told", "what becomes of"]


def test_no_file_has_a_retired_name():
    assert retired({path.stem for path in SOURCES}) == set()


@pytest.mark.parametrize("folder", ["gproxy", "tests"])
def test_no_identifier_has_a_retired_name(folder):
    found = {
        str(path.relative_to(ROOT)): names
        for path in SOURCES
        if path.is_relative_to(ROOT / folder)
        if (names := retired({token.string for token in tokens(path) if token.type == tokenize.NAME}))
    }
    assert found == {}


def test_no_text_has_a_banned_phrase():
    texts = {
        path: comments(path) if path.is_relative_to(ROOT / "tests") else prose(path)
        for path in SOURCES
        if path != Path(__file__)
    } | {path: path.read_text("utf-8") for path in PROSE}
    found = {str(path.relative_to(ROOT)): phrases for path, text in texts.items() if (phrases := banned(text))}
    assert found == {}
