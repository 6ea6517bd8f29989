"""What becomes of every operation in every protocol at every channel, with and without a routing document."""

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
P, LOCAL, NONE = "passed", "local", "refused"


def provider(channel: str, setting: str | None = None, routing: dict | None = None) -> Provider:
    return Provider(1, "main", channel, ProviderSettings(protocol=setting), (), routing)


def choose(found: Provider, operation: str, protocol: str, as_array: bool = False) -> Dispatch:
    return dispatch.choose(KINDS[found.channel], found, operation, protocol, as_array, PROTOCOLS)


def told(found: Provider, operation: str, protocol: str, as_array: bool = False) -> str:
    """The way in one word: passed, local, refused, or the protocol into which it is translated."""
    try:
        transport = choose(found, operation, protocol, as_array)
    except Unsupported:
        return NONE
    if transport.how == "local":
        return LOCAL
    if transport.how == "passthrough":
        assert transport == Dispatch("passthrough", operation, protocol)
        return P
    return transport.protocol


# channel, its setting: a generating call (chat, responses, claude, gemini), a count (responses, claude, gemini),
# embeddings (openai, gemini)
TABLE = [
    ("openai", None, (P, P, RESPONSES, RESPONSES), (P, RESPONSES, RESPONSES), (P, CHAT)),
    # chat is translated: Anthropic and Google are asked on paths of their own, which cannot read it
    ("anthropic", None, (CLAUDE, CLAUDE, P, CLAUDE), (CLAUDE, P, CLAUDE), (NONE, NONE)),
    ("aistudio", None, (GEMINI, GEMINI, GEMINI, P), (GEMINI, GEMINI, P), (GEMINI, P)),
    ("vertex", None, (GEMINI, GEMINI, GEMINI, P), (GEMINI, GEMINI, P), (NONE, NONE)),
    ("vertexexpress", None, (GEMINI, GEMINI, GEMINI, P), (GEMINI, GEMINI, P), (NONE, NONE)),
    ("deepseek", None, (P, CHAT, P, CHAT), (LOCAL, LOCAL, LOCAL), (NONE, NONE)),
    ("groq", None, (P, P, CHAT, CHAT), (LOCAL, LOCAL, LOCAL), (NONE, NONE)),
    ("openrouter", None, (P, P, P, RESPONSES), (LOCAL, LOCAL, LOCAL), (P, CHAT)),
    ("nvidia", None, (P, CHAT, CHAT, CHAT), (LOCAL, LOCAL, LOCAL), (P, CHAT)),
    ("custom", None, (P, P, P, P), (P, P, P), (P, P)),
    ("custom", "openai", (P, P, CHAT, CHAT), (P, RESPONSES, RESPONSES), (P, CHAT)),
    ("custom", "openai_chat", (P, CHAT, CHAT, CHAT), (LOCAL, LOCAL, LOCAL), (P, CHAT)),
    ("custom", "openai_responses", (RESPONSES, P, RESPONSES, RESPONSES), (P, RESPONSES, RESPONSES), (P, CHAT)),
    ("custom", "anthropic", (CLAUDE, CLAUDE, P, CLAUDE), (CLAUDE, P, CLAUDE), (NONE, NONE)),
    ("custom", "gemini", (GEMINI, GEMINI, GEMINI, P), (GEMINI, GEMINI, P), (GEMINI, P)),
    ("demo", None, (P, P, P, P), (LOCAL, LOCAL, LOCAL), (NONE, NONE)),
]


def test_every_channel_stands_in_the_table():
    assert {row[0] for row in TABLE} == set(KINDS)
    assert {row[1] for row in TABLE if row[0] == "custom"} == {None, *KINDS["custom"].protocol_lanes}


@pytest.mark.parametrize(("channel", "setting", "generates", "counts", "embeds"), TABLE)
def test_what_a_channel_does_by_default(channel, setting, generates, counts, embeds):
    found = provider(channel, setting)
    for operation in (GENERATE, STREAM):
        assert tuple(told(found, operation, protocol) for protocol in ALL) == generates
    assert told(found, STREAM, GEMINI, as_array=True) == generates[-1]
    assert tuple(told(found, COUNT, protocol) for protocol in (RESPONSES, CLAUDE, GEMINI)) == counts
    assert tuple(told(found, EMBED, protocol) for protocol in (CHAT, GEMINI)) == embeds
    assert told(found, EMBED_BATCH, GEMINI) == embeds[-1]


@pytest.mark.parametrize(("channel", "setting"), [row[:2] for row in TABLE])
def test_a_translated_call_keeps_its_operation_and_leads_to_a_lane(channel, setting):
    found, kind = provider(channel, setting), KINDS[channel]
    for name, protocol in PROTOCOLS.items():
        for operation in protocol.CODECS:
            if told(found, operation, name) in (P, LOCAL, NONE):
                continue
            transport = choose(found, operation, name)
            assert kind.lane(transport.operation, transport.protocol, setting) is not None
            assert transport.operation in PROTOCOLS[transport.protocol].CODECS
            if operation in (GENERATE, STREAM, COUNT):
                assert transport.operation == operation


@pytest.mark.parametrize(
    ("channel", "operation", "protocol", "transport"),
    [
        # Gemini has an operation for one text and one for many: a list of one is a list too
        ("aistudio", EMBED, CHAT, Dispatch("transform", EMBED_BATCH, GEMINI)),
        ("openai", EMBED, GEMINI, Dispatch("transform", EMBED, CHAT)),
        ("openai", EMBED_BATCH, GEMINI, Dispatch("transform", EMBED, CHAT)),
        ("aistudio", EMBED_BATCH, GEMINI, Dispatch("passthrough", EMBED_BATCH, GEMINI)),
    ],
)
def test_one_text_and_many(channel, operation, protocol, transport):
    assert choose(provider(channel), operation, protocol) == transport


def test_a_refusal_names_the_provider_the_operation_and_the_protocol():
    with pytest.raises(Unsupported, match="'main' cannot serve embeddings for clients that speak openai_chat"):
        choose(provider("anthropic"), EMBED, CHAT)


# -- routing documents ---------------------------------------------------------------------------------------------

TRANSFORM = "transform"
PASS = Dispatch("passthrough")
# channel, the document, a call, whether as an array, and its way; None where it is refused
DOCUMENTS = [
    # a document replaces the whole table
    ("openai", {("generate_content", "openai_chat_completions"): PASS}, GENERATE, CHAT, False, ("pass",)),
    ("openai", {("generate_content", "openai_chat_completions"): PASS}, STREAM, CHAT, False, None),
    ("openai", {("generate_content", "openai_chat_completions"): PASS}, GENERATE, RESPONSES, False, None),
    ("openai", {("generate_content", "openai_chat_completions"): PASS}, COUNT, RESPONSES, False, None),
    ("openai", {("generate_content", "openai_chat_completions"): Dispatch("unsupported")}, GENERATE, CHAT, False, None),
    # words of the document: claude, openai_response, openai
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
    # to the same route: nothing is translated
    (
        "openai",
        {("generate_content", "openai_response"): Dispatch(TRANSFORM, "generate_content", "openai_response")},
        *(GENERATE, RESPONSES, False, ("pass",)),
    ),
    # a whole reply that is made of a stream, in another protocol or in the same one
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
    # a stream is asked for as one whatever the document says
    (
        "openai",
        {("stream_generate_content", "claude"): Dispatch(TRANSFORM, "generate_content", "openai_response")},
        *(STREAM, CLAUDE, False, (STREAM, RESPONSES)),
    ),
    # Gemini's array has a name of its own, on either side
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
    # only counts can be answered here
    ("openai", {("count_tokens", "claude"): Dispatch("local")}, COUNT, CLAUDE, False, ("local",)),
    ("openai", {("generate_content", "claude"): Dispatch("local")}, GENERATE, CLAUDE, False, None),
    ("openai", {("embeddings", "openai"): Dispatch("local")}, EMBED, CHAT, False, None),
    # one rule for one text and for many
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
    # another operation than generation cannot become one, nor the other way round
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
    # words that this version does not serve
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
    # what the upstream does not speak
    ("openai", {("generate_content", "claude"): PASS}, GENERATE, CLAUDE, False, None),
    (
        "openai",
        {("generate_content", "claude"): Dispatch(TRANSFORM, "generate_content", "gemini")},
        *(GENERATE, CLAUDE, False, None),
    ),
]


@pytest.mark.parametrize(("channel", "document", "operation", "protocol", "as_array", "expected"), DOCUMENTS)
def test_what_a_document_says(channel, document, operation, protocol, as_array, expected):
    found = provider(channel, routing=document)
    if expected is None:
        with pytest.raises(Unsupported, match="'main'"):
            choose(found, operation, protocol, as_array)
        return
    transport = choose(found, operation, protocol, as_array)
    match expected:
        case ("pass",):
            assert transport == Dispatch("passthrough", operation, protocol)
        case ("local",):
            assert transport == Dispatch("local")
        case ("batch",):
            assert transport == Dispatch(TRANSFORM, EMBED_BATCH, GEMINI)
        case _:
            assert transport == Dispatch(TRANSFORM, *expected)


def read(routes) -> dict:
    """A preset as the snapshot holds it."""

    def transport(word) -> Dispatch:
        if isinstance(word, str):
            return Dispatch(word.lower())
        destination = word["TransformTo"]["destination"]
        return Dispatch(TRANSFORM, destination["operation"], destination["protocol"])

    assert transform_to("a", "b") == {"TransformTo": {"destination": {"operation": "a", "protocol": "b"}}}
    return {route: transport(word) for route, word in routes.items()}


@pytest.mark.parametrize(
    ("preset", "channel", "generates", "counts", "embeds"),
    [
        ("openai-like", "openai", (P, P, RESPONSES, RESPONSES), (P, RESPONSES, RESPONSES), (P, CHAT)),
        ("anthropic-like", "anthropic", (CLAUDE, CLAUDE, P, CLAUDE), (CLAUDE, P, CLAUDE), (NONE, NONE)),
        ("gemini-like", "aistudio", (GEMINI, GEMINI, GEMINI, P), (GEMINI, GEMINI, P), (GEMINI, P)),
        ("chat-completions-only", "groq", (P, CHAT, CHAT, CHAT), (LOCAL, LOCAL, LOCAL), (NONE, NONE)),
        ("response-only", "openai", (RESPONSES, P, RESPONSES, RESPONSES), (LOCAL, LOCAL, LOCAL), (NONE, NONE)),
        ("claude-only", "deepseek", (CLAUDE, CLAUDE, P, CLAUDE), (LOCAL, LOCAL, LOCAL), (NONE, NONE)),
        ("gemini-only", "custom", (GEMINI, GEMINI, GEMINI, P), (LOCAL, LOCAL, LOCAL), (NONE, P)),
    ],
)
def test_every_preset(preset, channel, generates, counts, embeds):
    found = provider(channel, routing=read(PRESETS[preset]))
    for operation in (GENERATE, STREAM):
        assert tuple(told(found, operation, protocol) for protocol in ALL) == generates
    assert told(found, STREAM, GEMINI, as_array=True) == generates[-1]
    assert tuple(told(found, COUNT, protocol) for protocol in (RESPONSES, CLAUDE, GEMINI)) == counts
    assert tuple(told(found, EMBED, protocol) for protocol in (CHAT, GEMINI)) == embeds
