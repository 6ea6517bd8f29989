"""The pages of the documentation: their code blocks, code spans, headings and links."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.gateway import ROOT

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page, with its line number."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def read(page: Path) -> str:
    return page.read_text("utf-8")


def blocks(*languages: str) -> list[Block]:
    """Returns the fenced blocks of all pages in these languages; without languages, all blocks."""
    return [
        Block(page.relative_to(ROOT).as_posix(), read(page)[: found.start()].count("\n") + 1, found[1], found[2])
        for page in PAGES
        for found in FENCED.finditer(read(page))
        if not languages or found[1] in languages
    ]


def prose(page: Path) -> str:
    """Returns a page without its fenced blocks."""
    return FENCED.sub("", read(page))


def spans(page: Path) -> set[str]:
    """Returns the code spans of a page's prose."""
    return set(re.findall(r"`([^`\n]+)`", prose(page)))


def headings(page: Path, level: str = r"#{1,6}") -> list[str]:
    return re.findall(rf"^{level} (.+)$", prose(page), re.MULTILINE)


def anchor(heading: str) -> str:
    """Returns the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: Path) -> list[str]:
    """Returns the targets of a page's links within the project."""
    return [target for target in re.findall(r"\]\(([^)]+)\)", prose(page)) if "://" not in target]


def section(page: Path, heading: str) -> str:
    """Returns the text below a heading, up to the next heading of the same or a higher level."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,6}} |\Z)", read(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {heading!r}"
    level = len(found[1])
    rest = read(page)[found.start() :]
    end = re.search(rf"\n#{{1,{level}}} ", rest[level:])
    return rest[: level + end.start()] if end else rest


def first_cells(text: str) -> list[str]:
    """Returns the code spans in the first cells of all table rows of a text."""
    rows = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    return [span for row in rows for span in re.findall(r"`([^`]+)`", row)]


@cache
def texts_of_code() -> tuple[str, ...]:
    """Returns every string of the program, with `…` in place of what is filled in."""
    found = []
    for path in (ROOT / "gproxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sdr]|\{\w*(:\w+)?\}", "…", node.value))
    return (*found, (ROOT / "Makefile").read_text("utf-8"))
