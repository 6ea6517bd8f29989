"""docs/translation.md says what the code does."""

import re

import pytest

from gproxy import channels
from gproxy.channels.kind import COUNT, EMBED, GENERATE
from tests.translation_table import DOCUMENT, ORDER, document, table

TEXT = DOCUMENT.read_text()
NAMES = {"openai_chat": "Chat", "openai_responses": "Responses", "anthropic": "Messages", "gemini": "Gemini"}


@pytest.mark.parametrize("client", ORDER)
def test_a_table_is_what_the_code_makes_of_each_feature(client):
    assert table(client) in TEXT


def test_the_document_can_be_written_anew():
    assert document(TEXT) == TEXT
    stale = TEXT.replace("| text, several turns | yes |", "| text, several turns | |")
    assert stale != TEXT
    assert document(stale) == TEXT


def test_a_document_without_a_place_for_a_table_is_left_alone():
    with pytest.raises(ValueError, match="unpack"):
        document(TEXT.replace(f"<!-- /{ORDER[0]} -->", ""))


def test_the_table_of_channels_is_what_their_lanes_say():
    found = re.findall(r"^\| ([\w, ]+) \| (.*) \|$", TEXT, re.MULTILINE)
    rows = {name: row for names, row in found for name in names.split(", ")}
    for kind in channels.load().values():
        if kind.name in ("demo", "custom"):
            continue
        spoken = [NAMES[name] for name in ORDER if kind.lane(GENERATE, name)]
        counts, embeds = kind.destination(COUNT), kind.destination(EMBED)
        row = [
            ", ".join(spoken),
            NAMES[kind.destination(GENERATE)],
            NAMES[counts] if counts else "estimated",
            {"openai_chat": "OpenAI", "gemini": "Gemini", None: "none (501)"}[embeds],
        ]
        assert rows[kind.name] == " | ".join(row)
