"""Routing documents: presets and overrides, their stored form, and the errors of wrong documents."""

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
MODEL_LISTS, STREAM = "model_list model_get count_tokens", "stream_generate_content"
IMAGES = "create_image stream_create_image create_image_edit stream_create_image_edit"
LOCAL = {MODEL_LISTS: "openai L, claude L, gemini L"}

# Preset: operations: each protocol with its dispatch: P(assthrough), L(ocal) or the destination.
EXPANDED = {
    "openai-like": {
        MODEL_LISTS: "openai P, claude openai, gemini openai",
        "generate_content": "chat P, resp P, claude resp, gemini resp",
        STREAM: "chat P, resp P, claude resp, gemini resp, ndjson resp",
        IMAGES: "openai P",
        "embeddings": "openai P, gemini openai",
        "compact openai_response_websocket": "openai P",
        "gemini_live": f"gemini {STREAM}/resp",
    },
    "anthropic-like": {
        MODEL_LISTS: "openai claude, claude P, gemini claude",
        "generate_content": "chat claude, resp claude, claude P, gemini claude",
        STREAM: "chat claude, resp claude, claude P, gemini claude, ndjson claude",
        "compact": "openai generate_content/claude",
        "openai_response_websocket": f"openai {STREAM}/claude",
        "gemini_live": f"gemini {STREAM}/claude",
    },
    "gemini-like": {
        MODEL_LISTS: "openai gemini, claude gemini, gemini P",
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


def dispatches(table: dict[str, str]) -> dict[tuple[str, str], Dispatch]:
    found = {}
    for operations, row in table.items():
        for operation in operations.split():
            for protocol, target in (cell.split() for cell in row.split(", ")):
                found[operation, NAMES.get(protocol, protocol)] = dispatch(operation, target)
    return found


def dispatch(operation: str, target: str) -> Dispatch:
    if target in ("P", "L"):
        return Dispatch({"P": "passthrough", "L": "local"}[target])
    *other, protocol = target.split("/")
    return Dispatch("transform", other[0] if other else operation, NAMES.get(protocol, protocol))


def rule(operation: str, protocol: str, implementation="Passthrough") -> dict:
    return {"route": {"operation": operation, "protocol": protocol}, "implementation": implementation}


def transform_to(operation: str, protocol: str, tag: str = "TransformTo") -> dict:
    return {tag: {"destination": {"operation": operation, "protocol": protocol}}}


def read(written: str) -> str:
    """Returns the stored form of a provider's `routing` in a seed."""
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
    assert found == dispatches(EXPANDED[name])


@pytest.mark.parametrize("name", EXPANDED)
def test_an_expanded_preset_is_a_document_itself(name):
    stored = routing.stored_json(name)
    assert routing.stored_json(json.loads(stored)) == stored


@pytest.mark.parametrize("name", EXPANDED)
def test_a_preset_transforms_only_to_what_it_passes_through(name):
    found = dispatches(EXPANDED[name])
    # Every target of a transform must itself be passed through.
    targets = {(one.operation, one.protocol) for one in found.values() if one.how == "transform"}
    assert {target for target in targets if found[target] != Dispatch("passthrough")} == set()


@pytest.mark.parametrize("value", [None, "", {}, {"rules": []}, {"rules": [rule("realtime_websocket", "openai")]}])
def test_an_empty_document_means_the_channels_own_table(value):
    assert routing.stored_json(value) == "{}"


@pytest.mark.parametrize("written", ["", 'routing = ""', "routing = {}", "routing = { rules = [] }"])
def test_an_empty_routing_in_a_seed_means_the_channels_own_table(written):
    assert read(written) == "{}"


def test_a_null_means_the_channels_own_table():
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
        [rule("compact", "openai", transform_to("generate_content", "claude", "transformto"))],
        [rule("compact", "openai", transform_to("generate_content", "claude"))],
    ),
    # sorted by operation, then by protocol
    (
        [rule("model_list", "openai"), rule("compact", "openai"), rule("model_list", "claude")],
        [rule("compact", "openai"), rule("model_list", "claude"), rule("model_list", "openai")],
    ),
    # for any order of the keys
    (
        [
            rule("model_list", "claude"),
            {"implementation": "Local", "route": {"protocol": "openai", "operation": "embeddings"}},
        ],
        [rule("embeddings", "openai", "Local"), rule("model_list", "claude")],
    ),
    # rules of operations that no longer exist are dropped, even if they are wrong otherwise
    (
        [
            rule("realtime_websocket", "openai_realtime", "Teleport"),
            rule("realtime_websocket", "openai_realtime"),
            rule("gemini_live", "gemini", transform_to("realtime_websocket", "openai")),
            rule("compact", "openai"),
        ],
        [rule("compact", "openai")],
    ),
]


@pytest.mark.parametrize(("written", "stored"), OVERRIDES)
def test_an_override_is_stored_in_normal_form(written, stored):
    before = json.dumps(written)
    assert json.loads(routing.stored_json({"rules": written})) == {"rules": stored}
    assert json.dumps(written) == before


@pytest.mark.parametrize("operation", routing.OPERATIONS)
@pytest.mark.parametrize("protocol", routing.PROTOCOLS)
def test_every_operation_and_protocol_is_accepted(operation, protocol):
    rules = [rule(operation, protocol, transform_to(operation, protocol))]
    assert json.loads(routing.stored_json({"rules": rules})) == {"rules": rules}


ROUTE = 'route = { operation = "compact", protocol = "openai" }'
FINE = f'{{ {ROUTE}, implementation = "Local" }}'


def implemented(implementation: str) -> str:
    return f"routing = {{ rules = [{{ {ROUTE}, implementation = {implementation} }}] }}"


def routed(route: str) -> str:
    return f'routing = {{ rules = [{{ route = {route}, implementation = "Local" }}] }}'


# written, the only problem
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
            routed(f'{{ operation = "generate_content", protocol = "{setting}" }}'),
            f"routing.rules[1].route.protocol: unknown protocol '{setting}'; did you mean '{name}'?",
        )
        for setting, name in (
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
def test_a_wrong_document_is_reported_with_its_place(written, problem):
    with pytest.raises(StartupError) as caught:
        read(written)
    assert caught.value.problems == [f"gproxy.toml: providers[1].{problem}"]


def test_an_unknown_tag_is_reported_with_a_suggestion():
    with pytest.raises(StartupError) as caught:
        read(implemented('{ Transform = { destination = { operation = "compact", protocol = "openai" } } }'))
    place = "gproxy.toml: providers[1].routing.rules[1].implementation"
    assert sorted(caught.value.problems) == [
        f"{place}.Transform: unknown key; did you mean 'TransformTo'?",
        f"{place}.TransformTo: missing; add it",
    ]


def test_all_mistakes_of_a_document_are_reported_at_once():
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
def test_any_document_is_stored_readably_or_refused(value):
    try:
        stored = routing.stored_json(value)
    except ValidationError:
        return
    assert (snapshot_loader.read_routing(stored) is None) == (stored == routing.DEFAULT)
    assert routing.stored_json(json.loads(stored)) == stored
