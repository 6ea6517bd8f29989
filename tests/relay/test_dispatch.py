"""Dispatch of every operation in every protocol at every channel, with and without a routing document."""

import pytest

from gproxy import channels, protocols
from gproxy.channels.kind import COUNT, EMBED, EMBED_BATCH, GENERATE, STREAM
from gproxy.config.routing import PRESETS, transform_to
from gproxy.errors import Unsupported
from gproxy.relay import dispatch
from gproxy.snapshot import Dispatch, Provider, ProviderSettings

KINDS = channels.load()
PROTOCOLS = protocols.load()
CHAT, RESPONSES, CLAUDE, GEMINI = "openai_chat", "openai_responses", "anthropic", "gemini"
ALL = (CHAT, RESPONSES, CLAUDE, GEMINI)
P, LOCAL, REFUSED = "passed", "local", "refused"


def provider(channel: str, setting: str | None = None, routing: dict | None = None) -> Provider:
    return Provider(1, "main", channel, ProviderSettings(protocol=setting), (), routing)


def choose(found: Provider, operation: str, protocol: str, as_array: bool = False) -> Dispatch:
    return dispatch.choose(KINDS[found.channel], found, operation, protocol, as_array, PROTOCOLS)


def outcome(found: Provider, operation: str, protocol: str, as_array: bool = False) -> str:
    """Returns the dispatch in one word: passed, local, refused, or the protocol into which the call is translated."""
    try:
        decision = choose(found, operation, protocol, as_array)
    except Unsupported:
        return REFUSED
    if decision.how == "local":
        return LOCAL
    if decision.how == "passthrough":
        assert decision == Dispatch("passthrough", operation, protocol)
        return P
    return decision.protocol


# channel, its setting: a generating call (chat, responses, claude, gemini), a count (responses, claude, gemini),
# embeddings (openai, gemini)
TABLE = [
    ("openai", None, (P, P, RESPONSES, RESPONSES), (P, RESPONSES, RESPONSES), (P, CHAT)),
    # chat is translated: the paths of Anthropic and Google cannot read a chat body
    ("anthropic", None, (CLAUDE, CLAUDE, P, CLAUDE), (CLAUDE, P, CLAUDE), (REFUSED, REFUSED)),
    ("aistudio", None, (GEMINI, GEMINI, GEMINI, P), (GEMINI, GEMINI, P), (GEMINI, P)),
    ("vertex", None, (GEMINI, GEMINI, GEMINI, P), (GEMINI, GEMINI, P), (REFUSED, REFUSED)),
    ("vertexexpress", None, (GEMINI, GEMINI, GEMINI, P), (GEMINI, GEMINI, P), (REFUSED, REFUSED)),
    ("deepseek", None, (P, CHAT, P, CHAT), (LOCAL, LOCAL, LOCAL), (REFUSED, REFUSED)),
    ("groq", None, (P, P, CHAT, CHAT), (LOCAL, LOCAL, LOCAL), (REFUSED, REFUSED)),
    ("openrouter", None, (P, P, P, RESPONSES), (LOCAL, LOCAL, LOCAL), (P, CHAT)),
    ("nvidia", None, (P, CHAT, CHAT, CHAT), (LOCAL, LOCAL, LOCAL), (P, CHAT)),
    ("custom", None, (P, P, P, P), (P, P, P), (P, P)),
    ("custom", "openai", (P, P, CHAT, CHAT), (P, RESPONSES, RESPONSES), (P, CHAT)),
    ("custom", "openai_chat", (P, CHAT, CHAT, CHAT), (LOCAL, LOCAL, LOCAL), (P, CHAT)),
    ("custom", "openai_responses", (RESPONSES, P, RESPONSES, RESPONSES), (P, RESPONSES, RESPONSES), (P, CHAT)),
    ("custom", "anthropic", (CLAUDE, CLAUDE, P, CLAUDE), (CLAUDE, P, CLAUDE), (REFUSED, REFUSED)),
    ("custom", "gemini", (GEMINI, GEMINI, GEMINI, P), (GEMINI, GEMINI, P), (GEMINI, P)),
    ("demo", None, (P, P, P, P), (LOCAL, LOCAL, LOCAL), (REFUSED, REFUSED)),
]


def test_the_table_has_every_channel_and_setting():
    assert {row[0] for row in TABLE} == set(KINDS)
    assert {row[1] for row in TABLE if row[0] == "custom"} == {None, *KINDS["custom"].protocol_lanes}


@pytest.mark.parametrize(("channel", "setting", "generates", "counts", "embeds"), TABLE)
def test_the_default_dispatch_of_a_channel(channel, setting, generates, counts, embeds):
    found = provider(channel, setting)
    for operation in (GENERATE, STREAM):
        assert tuple(outcome(found, operation, protocol) for protocol in ALL) == generates
    assert outcome(found, STREAM, GEMINI, as_array=True) == generates[-1]
    assert tuple(outcome(found, COUNT, protocol) for protocol in (RESPONSES, CLAUDE, GEMINI)) == counts
    assert tuple(outcome(found, EMBED, protocol) for protocol in (CHAT, GEMINI)) == embeds
    assert outcome(found, EMBED_BATCH, GEMINI) == embeds[-1]


@pytest.mark.parametrize(("channel", "setting"), [row[:2] for row in TABLE])
def test_a_translated_call_keeps_its_operation_and_leads_to_a_lane(channel, setting):
    found, kind = provider(channel, setting), KINDS[channel]
    for name, protocol in PROTOCOLS.items():
        for operation in protocol.CODECS:
            if outcome(found, operation, name) in (P, LOCAL, REFUSED):
                continue
            decision = choose(found, operation, name)
            assert kind.lane(decision.operation, decision.protocol, setting) is not None
            assert decision.operation in PROTOCOLS[decision.protocol].CODECS
            if operation in (GENERATE, STREAM, COUNT):
                assert decision.operation == operation


@pytest.mark.parametrize(
    ("channel", "operation", "protocol", "decision"),
    [
        # Gemini has an operation for one text and one for many; a list of one text counts as many
        ("aistudio", EMBED, CHAT, Dispatch("transform", EMBED_BATCH, GEMINI)),
        ("openai", EMBED, GEMINI, Dispatch("transform", EMBED, CHAT)),
        ("openai", EMBED_BATCH, GEMINI, Dispatch("transform", EMBED, CHAT)),
        ("aistudio", EMBED_BATCH, GEMINI, Dispatch("passthrough", EMBED_BATCH, GEMINI)),
    ],
)
def test_embeddings_of_one_text_and_of_many(channel, operation, protocol, decision):
    assert choose(provider(channel), operation, protocol) == decision


def test_the_error_names_the_provider_the_operation_and_the_protocol():
    with pytest.raises(Unsupported, match="'main' cannot serve embeddings for clients that use openai_chat"):
        choose(provider("anthropic"), EMBED, CHAT)


# -- routing documents ---------------------------------------------------------------------------------------------

TRANSFORM = "transform"
PASS = Dispatch("passthrough")
# channel, document, operation, protocol, as an array, expected dispatch (None: refused)
DOCUMENTS = [
    # a document replaces the whole table
    ("openai", {("generate_content", "openai_chat_completions"): PASS}, GENERATE, CHAT, False, ("pass",)),
    ("openai", {("generate_content", "openai_chat_completions"): PASS}, STREAM, CHAT, False, None),
    ("openai", {("generate_content", "openai_chat_completions"): PASS}, GENERATE, RESPONSES, False, None),
    ("openai", {("generate_content", "openai_chat_completions"): PASS}, COUNT, RESPONSES, False, None),
    ("openai", {("generate_content", "openai_chat_completions"): Dispatch("unsupported")}, GENERATE, CHAT, False, None),
    # names in documents: claude, openai_response, openai
    ("anthropic", {("generate_content", "claude"): PASS}, GENERATE, CLAUDE, False, ("pass",)),
    ("openai", {("count_tokens", "openai"): PASS}, COUNT, RESPONSES, False, ("pass",)),
    ("openai", {("count_tokens", "openai_response"): PASS}, COUNT, RESPONSES, False, None),
    ("openai", {("embeddings", "openai"): PASS}, EMBED, CHAT, False, ("pass",)),
    ("openai", {("embeddings", "openai_chat_completions"): PASS}, EMBED, CHAT, False, None),
    # a transform to another protocol
    (
        "openai",
        {("generate_content", "openai_response"): Dispatch(TRANSFORM, "generate_content", "openai_chat_completions")},
        *(GENERATE, RESPONSES, False, (GENERATE, CHAT)),
    ),
    (
        "openai",
        {
            ("stream_generate_content", "claude"): Dispatch(
                TRANSFORM, "stream_generate_content", "openai_chat_completions"
            )
        },
        *(STREAM, CLAUDE, False, (STREAM, CHAT)),
    ),
    # a transform to the same route is a passthrough
    (
        "openai",
        {("generate_content", "openai_response"): Dispatch(TRANSFORM, "generate_content", "openai_response")},
        *(GENERATE, RESPONSES, False, ("pass",)),
    ),
    # a whole reply that is built from a stream, in another protocol or in the same one
    (
        "openai",
        {("generate_content", "claude"): Dispatch(TRANSFORM, "stream_generate_content", "openai_response")},
        *(GENERATE, CLAUDE, False, (STREAM, RESPONSES)),
    ),
    (
        "openai",
        {("generate_content", "openai_response"): Dispatch(TRANSFORM, "stream_generate_content", "openai_response")},
        *(GENERATE, RESPONSES, False, (STREAM, RESPONSES)),
    ),
    # a stream is always requested as a stream
    (
        "openai",
        {("stream_generate_content", "claude"): Dispatch(TRANSFORM, "generate_content", "openai_response")},
        *(STREAM, CLAUDE, False, (STREAM, RESPONSES)),
    ),
    # Gemini's array has a name of its own, as source and as destination
    ("aistudio", {("stream_generate_content", "gemini"): PASS}, STREAM, GEMINI, True, None),
    ("aistudio", {("stream_generate_content", "gemini_ndjson"): PASS}, STREAM, GEMINI, False, None),
    ("aistudio", {("stream_generate_content", "gemini_ndjson"): PASS}, STREAM, GEMINI, True, ("pass",)),
    (
        "aistudio",
        {("stream_generate_content", "gemini_ndjson"): Dispatch(TRANSFORM, "stream_generate_content", "gemini")},
        *(STREAM, GEMINI, True, ("pass",)),
    ),
    (
        "aistudio",
        {("stream_generate_content", "claude"): Dispatch(TRANSFORM, "stream_generate_content", "gemini_ndjson")},
        *(STREAM, CLAUDE, False, (STREAM, GEMINI)),
    ),
    (
        "openai",
        {
            ("stream_generate_content", "gemini_ndjson"): Dispatch(
                TRANSFORM, "stream_generate_content", "openai_response"
            )
        },
        *(STREAM, GEMINI, True, (STREAM, RESPONSES)),
    ),
    # only counts can be answered locally
    ("openai", {("count_tokens", "claude"): Dispatch("local")}, COUNT, CLAUDE, False, ("local",)),
    ("openai", {("generate_content", "claude"): Dispatch("local")}, GENERATE, CLAUDE, False, None),
    ("openai", {("embeddings", "openai"): Dispatch("local")}, EMBED, CHAT, False, None),
    # one rule applies to one text and to many
    ("aistudio", {("embeddings", "gemini"): PASS}, EMBED_BATCH, GEMINI, False, ("pass",)),
    (
        "aistudio",
        {("embeddings", "openai"): Dispatch(TRANSFORM, "embeddings", "gemini")},
        EMBED,
        CHAT,
        False,
        ("batch",),
    ),
    (
        "openai",
        {("embeddings", "gemini"): Dispatch(TRANSFORM, "embeddings", "openai")},
        *(EMBED_BATCH, GEMINI, False, (EMBED, CHAT)),
    ),
    (
        "anthropic",
        {("count_tokens", "gemini"): Dispatch(TRANSFORM, "count_tokens", "claude")},
        *(COUNT, GEMINI, False, (COUNT, CLAUDE)),
    ),
    # a call that generates cannot become another operation, nor the reverse
    (
        "anthropic",
        {("count_tokens", "gemini"): Dispatch(TRANSFORM, "generate_content", "claude")},
        COUNT,
        GEMINI,
        False,
        None,
    ),
    (
        "openai",
        {("generate_content", "claude"): Dispatch(TRANSFORM, "embeddings", "openai")},
        GENERATE,
        CLAUDE,
        False,
        None,
    ),
    # operations and protocols that this version does not support
    (
        "openai",
        {("generate_content", "claude"): Dispatch(TRANSFORM, "compact", "openai")},
        GENERATE,
        CLAUDE,
        False,
        None,
    ),
    (
        "openai",
        {("generate_content", "claude"): Dispatch(TRANSFORM, "generate_content", "novel")},
        *(GENERATE, CLAUDE, False, None),
    ),
    # protocols that the upstream does not support
    ("openai", {("generate_content", "claude"): PASS}, GENERATE, CLAUDE, False, None),
    (
        "openai",
        {("generate_content", "claude"): Dispatch(TRANSFORM, "generate_content", "gemini")},
        *(GENERATE, CLAUDE, False, None),
    ),
]


@pytest.mark.parametrize(("channel", "document", "operation", "protocol", "as_array", "expected"), DOCUMENTS)
def test_dispatch_by_a_routing_document(channel, document, operation, protocol, as_array, expected):
    found = provider(channel, routing=document)
    if expected is None:
        with pytest.raises(Unsupported, match="'main'"):
            choose(found, operation, protocol, as_array)
        return
    decision = choose(found, operation, protocol, as_array)
    match expected:
        case ("pass",):
            assert decision == Dispatch("passthrough", operation, protocol)
        case ("local",):
            assert decision == Dispatch("local")
        case ("batch",):
            assert decision == Dispatch(TRANSFORM, EMBED_BATCH, GEMINI)
        case _:
            assert decision == Dispatch(TRANSFORM, *expected)


def read(routes) -> dict:
    """Returns a preset as the snapshot has it."""

    def decision(implementation) -> Dispatch:
        if isinstance(implementation, str):
            return Dispatch(implementation.lower())
        destination = implementation["TransformTo"]["destination"]
        return Dispatch(TRANSFORM, destination["operation"], destination["protocol"])

    assert transform_to("a", "b") == {"TransformTo": {"destination": {"operation": "a", "protocol": "b"}}}
    return {route: decision(implementation) for route, implementation in routes.items()}


@pytest.mark.parametrize(
    ("preset", "channel", "generates", "counts", "embeds"),
    [
        ("openai-like", "openai", (P, P, RESPONSES, RESPONSES), (P, RESPONSES, RESPONSES), (P, CHAT)),
        ("anthropic-like", "anthropic", (CLAUDE, CLAUDE, P, CLAUDE), (CLAUDE, P, CLAUDE), (REFUSED, REFUSED)),
        ("gemini-like", "aistudio", (GEMINI, GEMINI, GEMINI, P), (GEMINI, GEMINI, P), (GEMINI, P)),
        ("chat-completions-only", "groq", (P, CHAT, CHAT, CHAT), (LOCAL, LOCAL, LOCAL), (REFUSED, REFUSED)),
        ("response-only", "openai", (RESPONSES, P, RESPONSES, RESPONSES), (LOCAL, LOCAL, LOCAL), (REFUSED, REFUSED)),
        ("claude-only", "deepseek", (CLAUDE, CLAUDE, P, CLAUDE), (LOCAL, LOCAL, LOCAL), (REFUSED, REFUSED)),
        ("gemini-only", "custom", (GEMINI, GEMINI, GEMINI, P), (LOCAL, LOCAL, LOCAL), (REFUSED, P)),
    ],
)
def test_dispatch_by_every_preset(preset, channel, generates, counts, embeds):
    found = provider(channel, routing=read(PRESETS[preset]))
    for operation in (GENERATE, STREAM):
        assert tuple(outcome(found, operation, protocol) for protocol in ALL) == generates
    assert outcome(found, STREAM, GEMINI, as_array=True) == generates[-1]
    assert tuple(outcome(found, COUNT, protocol) for protocol in (RESPONSES, CLAUDE, GEMINI)) == counts
    assert tuple(outcome(found, EMBED, protocol) for protocol in (CHAT, GEMINI)) == embeds
