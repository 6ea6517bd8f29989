"""Routing documents: presets, overrides, what is stored of them, and what is refused."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError

from gproxy import channels
from gproxy.config import routing
from gproxy.config import seed as documents
from gproxy.errors import StartupError
from gproxy.snapshot import Dispatch
from gproxy.store import snapshot_loader
from tests.sample_db import filled, provider

KINDS = channels.load()
NAMES = {"chat": "openai_chat_completions", "resp": "openai_response", "ndjson": "gemini_ndjson"}
CATALOGUE, STREAM = "model_list model_get count_tokens", "stream_generate_content"
IMAGES = "create_image stream_create_image create_image_edit stream_create_image_edit"
LOCAL = {CATALOGUE: "openai L, claude L, gemini L"}

# Preset: operations: protocol and its way, which is P(assthrough), L(ocal) or the destination.
EXPANDED = {
    "openai-like": {
        CATALOGUE: "openai P, claude openai, gemini openai",
        "generate_content": "chat P, resp P, claude resp, gemini resp",
        STREAM: "chat P, resp P, claude resp, gemini resp, ndjson resp",
        IMAGES: "openai P",
        "embeddings": "openai P, gemini openai",
        "compact openai_response_websocket": "openai P",
        "gemini_live": f"gemini {STREAM}/resp",
    },
    "anthropic-like": {
        CATALOGUE: "openai claude, claude P, gemini claude",
        "generate_content": "chat claude, resp claude, claude P, gemini claude",
        STREAM: "chat claude, resp claude, claude P, gemini claude, ndjson claude",
        "compact": "openai generate_content/claude",
        "openai_response_websocket": f"openai {STREAM}/claude",
        "gemini_live": f"gemini {STREAM}/claude",
    },
    "gemini-like": {
        CATALOGUE: "openai gemini, claude gemini, gemini P",
        "generate_content": "chat gemini, resp gemini, claude gemini, gemini P",
        STREAM: "chat gemini, resp gemini, claude gemini, gemini P, ndjson P",
        "create_image create_image_edit": "openai generate_content/gemini",
        "stream_create_image stream_create_image_edit": f"openai {STREAM}/gemini",
        "embeddings": "openai gemini, gemini P",
        "compact": "openai generate_content/gemini",
        "openai_response_websocket": "openai gemini_live/gemini",
        "gemini_live": "gemini P",
    },
    "chat-completions-only": LOCAL
    | {
        "generate_content": "chat P, resp chat, claude chat, gemini chat",
        STREAM: "chat P, resp chat, claude chat, gemini chat, ndjson chat",
        "compact": "openai generate_content/chat",
    },
    "response-only": LOCAL
    | {
        "generate_content": "chat resp, resp P, claude resp, gemini resp",
        STREAM: "chat resp, resp P, claude resp, gemini resp, ndjson resp",
        "compact": "openai P",
    },
    "claude-only": LOCAL
    | {
        "generate_content": "chat claude, resp claude, claude P, gemini claude",
        STREAM: "chat claude, resp claude, claude P, gemini claude, ndjson claude",
        "compact": "openai generate_content/claude",
    },
    "gemini-only": LOCAL
    | {
        "generate_content": "chat gemini, resp gemini, claude gemini, gemini P",
        STREAM: "chat gemini, resp gemini, claude gemini, gemini P, ndjson P",
        "embeddings": "gemini P",
        "compact": "openai generate_content/gemini",
    },
}


def ways(table: dict[str, str]) -> dict[tuple[str, str], Dispatch]:
    found = {}
    for operations, row in table.items():
        for operation in operations.split():
            for protocol, to in (cell.split() for cell in row.split(", ")):
                found[operation, NAMES.get(protocol, protocol)] = way(operation, to)
    return found


def way(operation: str, to: str) -> Dispatch:
    if to in ("P", "L"):
        return Dispatch({"P": "passthrough", "L": "local"}[to])
    *other, protocol = to.split("/")
    return Dispatch("transform", other[0] if other else operation, NAMES.get(protocol, protocol))


def rule(operation: str, protocol: str, implementation="Passthrough") -> dict:
    return {"route": {"operation": operation, "protocol": protocol}, "implementation": implementation}


def to(operation: str, protocol: str, tag: str = "TransformTo") -> dict:
    return {tag: {"destination": {"operation": operation, "protocol": protocol}}}


def read(written: str) -> str:
    """What is stored of a provider's `routing` in a seed."""
    document = tomllib.loads(
        f'[[providers]]\nname = "one"\nchannel = "custom"\nsettings.base_url = "http://h"\n{written}'
    )
    (found,) = documents.read(document, "gproxy.toml", {}, KINDS, frozenset())["providers"]
    return found["routing"]


def test_every_preset_is_known():
    assert list(routing.PRESETS) == list(EXPANDED)


@pytest.mark.parametrize("name", EXPANDED)
def test_a_preset_is_expanded_and_read_back_from_the_database(tmp_path: Path, name):
    written = replace(provider("one"), routing_json=read(f'routing = "{name}"'))
    database = filled(tmp_path, providers=(written,))
    found = database.run(snapshot_loader.load, None, {}, None).providers["one"].routing
    assert found == ways(EXPANDED[name])


@pytest.mark.parametrize("name", EXPANDED)
def test_an_expanded_preset_is_a_document_itself(name):
    stored = routing.document(name)
    assert routing.document(json.loads(stored)) == stored


@pytest.mark.parametrize("name", EXPANDED)
def test_a_preset_leads_only_where_it_passes_through(name):
    found = ways(EXPANDED[name])
    # What an image, a token list or a live call becomes is an ordinary call, which must have its own way.
    ends = {(found_way.operation, found_way.protocol) for found_way in found.values() if found_way.how == "transform"}
    assert {end for end in ends if found[end] != Dispatch("passthrough")} == set()


@pytest.mark.parametrize("value", [None, "", {}, {"rules": []}, {"rules": [rule("realtime_websocket", "openai")]}])
def test_what_asks_for_nothing_leaves_all_to_the_channel(value):
    assert routing.document(value) == "{}"


@pytest.mark.parametrize("written", ["", 'routing = ""', "routing = {}", "routing = { rules = [] }"])
def test_a_seed_that_asks_for_nothing_leaves_all_to_the_channel(written):
    assert read(written) == "{}"


def test_a_null_leaves_all_to_the_channel():
    document = {"providers": [{"name": "one", "channel": "openai", "routing": None}]}
    (found,) = documents.read(document, "gproxy.toml", {}, KINDS, frozenset())["providers"]
    assert found["routing"] == "{}"


# written, stored
OVERRIDES = [
    ([rule("compact", "openai", "Local")], [rule("compact", "openai", "Local")]),
    ([rule("compact", "openai", "passthrough")], [rule("compact", "openai", "Passthrough")]),
    ([rule("compact", "openai", "local")], [rule("compact", "openai", "Local")]),
    ([rule("compact", "openai", "UNSUPPORTED")], [rule("compact", "openai", "Unsupported")]),
    (
        [rule("compact", "openai", to("generate_content", "claude", "transformto"))],
        [rule("compact", "openai", to("generate_content", "claude"))],
    ),
    # by operation, then by protocol
    (
        [rule("model_list", "openai"), rule("compact", "openai"), rule("model_list", "claude")],
        [rule("compact", "openai"), rule("model_list", "claude"), rule("model_list", "openai")],
    ),
    # whatever the order of the keys
    (
        [
            rule("model_list", "claude"),
            {"implementation": "Local", "route": {"protocol": "openai", "operation": "embeddings"}},
        ],
        [rule("embeddings", "openai", "Local"), rule("model_list", "claude")],
    ),
    # what no longer exists is dropped, whatever else its rule says
    (
        [
            rule("realtime_websocket", "openai_realtime", "Teleport"),
            rule("realtime_websocket", "openai_realtime"),
            rule("gemini_live", "gemini", to("realtime_websocket", "openai")),
            rule("compact", "openai"),
        ],
        [rule("compact", "openai")],
    ),
]


@pytest.mark.parametrize(("written", "stored"), OVERRIDES)
def test_an_override_is_stored_in_one_form(written, stored):
    before = json.dumps(written)
    assert json.loads(routing.document({"rules": written})) == {"rules": stored}
    assert json.dumps(written) == before


@pytest.mark.parametrize("operation", routing.OPERATIONS)
@pytest.mark.parametrize("protocol", routing.PROTOCOLS)
def test_every_word_of_the_format_is_accepted(operation, protocol):
    rules = [rule(operation, protocol, to(operation, protocol))]
    assert json.loads(routing.document({"rules": rules})) == {"rules": rules}


ROUTE = 'route = { operation = "compact", protocol = "openai" }'
FINE = f'{{ {ROUTE}, implementation = "Local" }}'


def implemented(implementation: str) -> str:
    return f"routing = {{ rules = [{{ {ROUTE}, implementation = {implementation} }}] }}"


def routed(route: str) -> str:
    return f'routing = {{ rules = [{{ route = {route}, implementation = "Local" }}] }}'


# written, the one problem
WRONG = [
    ('routing = "openai_like"', "routing: unknown preset 'openai_like'; did you mean 'openai-like'?"),
    ('routing = "zzz"', f"routing: unknown preset 'zzz'; known: {', '.join(EXPANDED)}"),
    ("routing = true", f"routing: expected {{ rules = [ … ] }} or the name of a preset: {', '.join(EXPANDED)}"),
    ("routing = []", f"routing: expected {{ rules = [ … ] }} or the name of a preset: {', '.join(EXPANDED)}"),
    ("routing = { ruls = [] }", "routing.ruls: unknown key; did you mean 'rules'?"),
    ("routing = { rules = {} }", "routing.rules: expected a list; write it as [[…]] or [ … ]"),
    (f"routing = {{ rules = [{FINE}, 5] }}", "routing.rules[2]: expected a table; write it as [[…]] or { … }"),
    ('routing = { rules = [{ implementation = "Local" }] }', "routing.rules[1].route: missing; add it"),
    (f"routing = {{ rules = [{{ {ROUTE} }}] }}", "routing.rules[1].implementation: missing; add it"),
    (
        f'routing = {{ rules = [{{ {ROUTE}, implementation = "Local", rout = 1 }}] }}',
        "routing.rules[1].rout: unknown key; did you mean 'route'?",
    ),
    (routed("5"), "routing.rules[1].route: expected a table; write it as [[…]] or { … }"),
    (routed('{ operation = "compact" }'), "routing.rules[1].route.protocol: missing; add it"),
    (
        routed('{ operation = "compact", protocol = "openai", protocl = "x" }'),
        "routing.rules[1].route.protocl: unknown key; did you mean 'protocol'?",
    ),
    (
        routed('{ operation = "generate", protocol = "openai" }'),
        "routing.rules[1].route.operation: unknown operation 'generate'; did you mean 'generate_content'?",
    ),
    (
        routed('{ operation = "x", protocol = "openai" }'),
        f"routing.rules[1].route.operation: unknown operation 'x'; known: {', '.join(routing.OPERATIONS)}",
    ),
    (
        routed('{ operation = 5, protocol = "openai" }'),
        "routing.rules[1].route.operation: expected a text in quotes",
    ),
    # the names of the `protocol` setting
    *(
        (
            routed(f'{{ operation = "generate_content", protocol = "{ours}" }}'),
            f"routing.rules[1].route.protocol: unknown protocol '{ours}'; did you mean '{meant}'?",
        )
        for ours, meant in (
            ("openai_chat", "openai_chat_completions"),
            ("openai_responses", "openai_response"),
            ("anthropic", "claude"),
        )
    ),
    (
        implemented('"pasthrough"'),
        "routing.rules[1].implementation: unknown implementation 'pasthrough'; did you mean 'Passthrough'?",
    ),
    (
        implemented('"zzz"'),
        "routing.rules[1].implementation: unknown implementation 'zzz'; known: "
        "Passthrough, Local, Unsupported, TransformTo",
    ),
    *(
        (
            implemented(written),
            "routing.rules[1].implementation: expected Passthrough, Local, Unsupported or "
            "{ TransformTo = { destination = { … } } }",
        )
        for written in ("5", "[]", '"TransformTo"', '"transformto"')
    ),
    (implemented("{}"), "routing.rules[1].implementation.TransformTo: missing; add it"),
    (
        implemented("{ TransformTo = 5 }"),
        "routing.rules[1].implementation.TransformTo: expected a table; write it as [[…]] or { … }",
    ),
    (
        implemented("{ TransformTo = {} }"),
        "routing.rules[1].implementation.TransformTo.destination: missing; add it",
    ),
    (
        implemented('{ TransformTo = { destination = { operation = "compact", protocol = "gemeni" } } }'),
        "routing.rules[1].implementation.TransformTo.destination.protocol: "
        "unknown protocol 'gemeni'; did you mean 'gemini'?",
    ),
    (
        f"routing = {{ rules = [{FINE}, {FINE}] }}",
        "routing.rules[2].route: a duplicate of rules[1]; remove one",
    ),
]


@pytest.mark.parametrize(("written", "problem"), WRONG)
def test_a_wrong_document_stops_the_start_at_its_place(written, problem):
    with pytest.raises(StartupError) as caught:
        read(written)
    assert caught.value.problems == [f"gproxy.toml: providers[1].{problem}"]


def test_an_unknown_tag_is_told_with_the_one_that_may_be_meant():
    with pytest.raises(StartupError) as caught:
        read(implemented('{ Transform = { destination = { operation = "compact", protocol = "openai" } } }'))
    place = "gproxy.toml: providers[1].routing.rules[1].implementation"
    assert sorted(caught.value.problems) == [
        f"{place}.Transform: unknown key; did you mean 'TransformTo'?",
        f"{place}.TransformTo: missing; add it",
    ]


def test_all_mistakes_of_a_document_are_told_at_once():
    rules = ['{ implementation = "Local" }', FINE, "7", FINE, f"{{ {ROUTE}, implementation = 7 }}"]
    with pytest.raises(StartupError) as caught:
        read(f"routing = {{ rules = [{', '.join(rules)}] }}")
    assert sorted(line.split(": ")[1] for line in caught.value.problems) == [
        f"providers[1].routing.rules{place}"
        for place in ("[1].route", "[3]", "[4].route", "[5].implementation", "[5].route")
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "compact", "openai", "Local", "realtime_x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["rules", "route", "operation", "protocol", "implementation", "TransformTo", "destination", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(JSON | st.fixed_dictionaries({"rules": st.lists(st.builds(rule, JSON, JSON, JSON) | JSON, max_size=3)}))
def test_whatever_is_written_is_stored_readably_or_refused(value):
    try:
        stored = routing.document(value)
    except ValidationError:
        return
    assert (snapshot_loader.read_routing(stored) is None) == (stored == routing.DEFAULT)
    assert routing.document(json.loads(stored)) == stored
