"""Every lane of every kind: the URL that it calls and the header that carries its key."""

from dataclasses import replace

import pytest

from gproxy import channels, protocols
from gproxy.channels.kind import COUNT, EMBED, EMBED_BATCH, GENERATE, GET_MODEL, LIST_MODELS, STREAM
from gproxy.relay import endpoints
from gproxy.snapshot import Credential, Provider, ProviderSettings, ServiceAccount

KINDS = channels.load()
PROTOCOLS = protocols.load()
SECRET = "sk-secret-0123456789"
MODEL = "vendor/model:free"
BEARER = {"Authorization": f"Bearer {SECRET}"}
X_API_KEY = {"x-api-key": SECRET, "anthropic-version": "2023-06-01"}
X_GOOG = {"x-goog-api-key": SECRET}
EXPRESS = "https://aiplatform.googleapis.com/v1beta1/publishers/google/models"
EUROPE = "https://europe-west4-aiplatform.googleapis.com"
VERTEX = f"{EUROPE}/v1beta1/projects/acme-1/locations/europe-west4/publishers/google/models"
GEMINI = "https://generativelanguage.googleapis.com/v1beta/models"

LANES = {
    ("openai", GENERATE, "openai_chat"): ("https://api.openai.com/v1/chat/completions", BEARER),
    ("openai", STREAM, "openai_chat"): ("https://api.openai.com/v1/chat/completions", BEARER),
    ("openai", GENERATE, "openai_responses"): ("https://api.openai.com/v1/responses", BEARER),
    ("openai", STREAM, "openai_responses"): ("https://api.openai.com/v1/responses", BEARER),
    ("openai", COUNT, "openai_responses"): ("https://api.openai.com/v1/responses/input_tokens", BEARER),
    ("openai", EMBED, "openai_chat"): ("https://api.openai.com/v1/embeddings", BEARER),
    ("openai", LIST_MODELS, "openai_chat"): ("https://api.openai.com/v1/models", BEARER),
    ("openai", GET_MODEL, "openai_chat"): ("https://api.openai.com/v1/models/vendor/model:free", BEARER),
    ("anthropic", GENERATE, "anthropic"): ("https://api.anthropic.com/v1/messages", X_API_KEY),
    ("anthropic", STREAM, "anthropic"): ("https://api.anthropic.com/v1/messages", X_API_KEY),
    ("anthropic", COUNT, "anthropic"): ("https://api.anthropic.com/v1/messages/count_tokens", X_API_KEY),
    ("anthropic", LIST_MODELS, "anthropic"): ("https://api.anthropic.com/v1/models", X_API_KEY),
    ("anthropic", GET_MODEL, "anthropic"): ("https://api.anthropic.com/v1/models/vendor/model:free", X_API_KEY),
    ("aistudio", GENERATE, "gemini"): (f"{GEMINI}/vendor/model:free:generateContent", X_GOOG),
    ("aistudio", STREAM, "gemini"): (f"{GEMINI}/vendor/model:free:streamGenerateContent?alt=sse", X_GOOG),
    ("aistudio", COUNT, "gemini"): (f"{GEMINI}/vendor/model:free:countTokens", X_GOOG),
    ("aistudio", EMBED, "gemini"): (f"{GEMINI}/vendor/model:free:embedContent", X_GOOG),
    ("aistudio", EMBED_BATCH, "gemini"): (f"{GEMINI}/vendor/model:free:batchEmbedContents", X_GOOG),
    ("vertexexpress", GENERATE, "gemini"): (f"{EXPRESS}/vendor/model:free:generateContent", X_GOOG),
    ("vertexexpress", STREAM, "gemini"): (f"{EXPRESS}/vendor/model:free:streamGenerateContent?alt=sse", X_GOOG),
    ("vertexexpress", COUNT, "gemini"): (f"{EXPRESS}/vendor/model:free:countTokens", X_GOOG),
    ("vertex", GENERATE, "gemini"): (f"{VERTEX}/vendor/model:free:generateContent", BEARER),
    ("vertex", STREAM, "gemini"): (f"{VERTEX}/vendor/model:free:streamGenerateContent?alt=sse", BEARER),
    ("vertex", COUNT, "gemini"): (f"{VERTEX}/vendor/model:free:countTokens", BEARER),
    ("vertex", LIST_MODELS, "gemini"): (f"{EUROPE}/v1beta1/publishers/google/models", BEARER),
    ("vertex", GET_MODEL, "gemini"): (f"{EUROPE}/v1beta1/publishers/google/models/vendor/model:free", BEARER),
    ("aistudio", LIST_MODELS, "gemini"): (GEMINI, X_GOOG),
    ("aistudio", GET_MODEL, "gemini"): (f"{GEMINI}/vendor/model:free", X_GOOG),
    ("deepseek", GENERATE, "openai_chat"): ("https://api.deepseek.com/v1/chat/completions", BEARER),
    ("deepseek", STREAM, "openai_chat"): ("https://api.deepseek.com/v1/chat/completions", BEARER),
    ("deepseek", GENERATE, "anthropic"): ("https://api.deepseek.com/anthropic/v1/messages", X_API_KEY),
    ("deepseek", STREAM, "anthropic"): ("https://api.deepseek.com/anthropic/v1/messages", X_API_KEY),
    ("deepseek", LIST_MODELS, "openai_chat"): ("https://api.deepseek.com/v1/models", BEARER),
    ("deepseek", GET_MODEL, "openai_chat"): ("https://api.deepseek.com/v1/models/vendor/model:free", BEARER),
    ("groq", GENERATE, "openai_chat"): ("https://api.groq.com/openai/v1/chat/completions", BEARER),
    ("groq", STREAM, "openai_chat"): ("https://api.groq.com/openai/v1/chat/completions", BEARER),
    ("groq", GENERATE, "openai_responses"): ("https://api.groq.com/openai/v1/responses", BEARER),
    ("groq", STREAM, "openai_responses"): ("https://api.groq.com/openai/v1/responses", BEARER),
    ("groq", LIST_MODELS, "openai_chat"): ("https://api.groq.com/openai/v1/models", BEARER),
    ("groq", GET_MODEL, "openai_chat"): ("https://api.groq.com/openai/v1/models/vendor/model:free", BEARER),
    ("openrouter", GENERATE, "openai_chat"): ("https://openrouter.ai/api/v1/chat/completions", BEARER),
    ("openrouter", STREAM, "openai_chat"): ("https://openrouter.ai/api/v1/chat/completions", BEARER),
    ("openrouter", GENERATE, "openai_responses"): ("https://openrouter.ai/api/v1/responses", BEARER),
    ("openrouter", STREAM, "openai_responses"): ("https://openrouter.ai/api/v1/responses", BEARER),
    ("openrouter", GENERATE, "anthropic"): ("https://openrouter.ai/api/v1/messages", BEARER),
    ("openrouter", STREAM, "anthropic"): ("https://openrouter.ai/api/v1/messages", BEARER),
    ("openrouter", EMBED, "openai_chat"): ("https://openrouter.ai/api/v1/embeddings", BEARER),
    ("openrouter", LIST_MODELS, "openai_chat"): ("https://openrouter.ai/api/v1/models", BEARER),
    ("openrouter", GET_MODEL, "openai_chat"): ("https://openrouter.ai/api/v1/models/vendor/model:free", BEARER),
    ("nvidia", GENERATE, "openai_chat"): ("https://integrate.api.nvidia.com/v1/chat/completions", BEARER),
    ("nvidia", STREAM, "openai_chat"): ("https://integrate.api.nvidia.com/v1/chat/completions", BEARER),
    ("nvidia", EMBED, "openai_chat"): ("https://integrate.api.nvidia.com/v1/embeddings", BEARER),
    ("nvidia", LIST_MODELS, "openai_chat"): ("https://integrate.api.nvidia.com/v1/models", BEARER),
    ("nvidia", GET_MODEL, "openai_chat"): ("https://integrate.api.nvidia.com/v1/models/vendor/model:free", BEARER),
    ("custom", GENERATE, "openai_chat"): ("/v1/chat/completions", BEARER),
    ("custom", STREAM, "openai_chat"): ("/v1/chat/completions", BEARER),
    ("custom", GENERATE, "openai_responses"): ("/v1/responses", BEARER),
    ("custom", STREAM, "openai_responses"): ("/v1/responses", BEARER),
    ("custom", GENERATE, "anthropic"): ("/v1/messages", X_API_KEY),
    ("custom", STREAM, "anthropic"): ("/v1/messages", X_API_KEY),
    ("custom", GENERATE, "gemini"): ("/v1beta/models/vendor/model:free:generateContent", X_GOOG),
    ("custom", STREAM, "gemini"): ("/v1beta/models/vendor/model:free:streamGenerateContent?alt=sse", X_GOOG),
    ("custom", COUNT, "openai_responses"): ("/v1/responses/input_tokens", BEARER),
    ("custom", COUNT, "anthropic"): ("/v1/messages/count_tokens", X_API_KEY),
    ("custom", COUNT, "gemini"): ("/v1beta/models/vendor/model:free:countTokens", X_GOOG),
    ("custom", EMBED, "openai_chat"): ("/v1/embeddings", BEARER),
    ("custom", EMBED, "gemini"): ("/v1beta/models/vendor/model:free:embedContent", X_GOOG),
    ("custom", EMBED_BATCH, "gemini"): ("/v1beta/models/vendor/model:free:batchEmbedContents", X_GOOG),
    ("custom", LIST_MODELS, "openai_chat"): ("/v1/models", BEARER),
    ("custom", GET_MODEL, "openai_chat"): ("/v1/models/vendor/model:free", BEARER),
}
OF_A_PROJECT = Credential(1, 1, SECRET, account=ServiceAccount("acme-1", "robot@acme-1", "https://tokens"))
EVERY = [
    (kind, setting, key, lane)
    for kind in KINDS.values()
    for setting, lanes in ((None, kind.lanes), *kind.protocol_lanes.items())
    for key, lane in lanes.items()
]


def test_the_table_above_has_every_lane():
    found = {(kind.name, *key) for kind in KINDS.values() if not kind.responder for key in kind.lanes}
    assert found == set(LANES)


@pytest.mark.parametrize(("name", "operation", "protocol"), LANES)
def test_a_lane_has_exactly_this_url_and_key_header(name, operation, protocol):
    url, auth = LANES[name, operation, protocol]
    kind = KINDS[name]
    lane = kind.lane(operation, protocol)
    provider = Provider(1, "p", name, ProviderSettings(location="europe-west4"), ())
    endpoint = endpoints.build(provider, kind, lane, endpoints.path(lane.path, MODEL, ()), {})
    assert endpoints.with_project(endpoint, OF_A_PROJECT).url == url
    assert lane.auth(SECRET) == auth


@pytest.mark.parametrize(
    ("setting", "supported"),
    [
        (None, {"openai_chat", "openai_responses", "anthropic", "gemini"}),
        ("openai", {"openai_chat", "openai_responses"}),
        ("openai_chat", {"openai_chat"}),
        ("openai_responses", {"openai_responses"}),
        ("anthropic", {"anthropic"}),
        ("gemini", {"gemini"}),
    ],
)
def test_the_protocols_of_a_custom_upstream_by_its_setting(setting, supported):
    custom = KINDS["custom"]
    for operation in (GENERATE, STREAM):
        assert {name for name in PROTOCOLS if custom.lane(operation, name, setting)} == supported


@pytest.mark.parametrize(
    ("setting", "protocol", "auth"),
    [
        ("openai", "openai_chat", BEARER),
        ("openai_responses", "openai_responses", BEARER),
        ("anthropic", "anthropic", X_API_KEY),
        ("gemini", "gemini", X_GOOG),
    ],
)
def test_a_custom_upstream_gets_its_key_in_the_header_of_its_protocol(setting, protocol, auth):
    custom = KINDS["custom"]
    assert custom.lane(GENERATE, protocol, setting).auth(SECRET) == auth
    assert custom.lane(LIST_MODELS, custom.native_protocol(LIST_MODELS, setting), setting).auth(SECRET) == auth


@pytest.mark.parametrize(
    ("name", "setting", "native_protocol"),
    [
        ("openai", None, "openai_chat"),
        ("anthropic", None, "anthropic"),
        ("aistudio", None, "gemini"),
        ("deepseek", None, "openai_chat"),
        ("openrouter", None, "openai_chat"),
        ("demo", None, "openai_chat"),
        ("custom", None, "openai_chat"),
        ("custom", "anthropic", "anthropic"),
        ("custom", "gemini", "gemini"),
        ("custom", "openai_responses", "openai_chat"),
    ],
)
def test_models_are_listed_in_the_upstreams_own_protocol(name, setting, native_protocol):
    assert KINDS[name].native_protocol(LIST_MODELS, setting) == native_protocol
    assert KINDS[name].native_protocol(GET_MODEL, setting) == native_protocol


@pytest.mark.parametrize(("kind", "setting", "key", "lane"), EVERY)
def test_lanes_name_known_protocols_and_operations_and_never_a_key_in_the_url(kind, setting, key, lane):
    operation, protocol = key
    assert protocol in PROTOCOLS
    assert operation in (GENERATE, STREAM, COUNT, EMBED, EMBED_BATCH, LIST_MODELS, GET_MODEL)
    assert "key" not in lane.path
    if kind.responder is None:
        assert lane.path.startswith("/v1") or lane.path.startswith("/anthropic/v1")
        assert SECRET in "".join(lane.auth(SECRET).values())
    else:
        assert lane.auth(SECRET) == {}


@pytest.mark.parametrize(
    ("setting", "counts", "embeds"),
    [
        (None, {"openai_responses", "anthropic", "gemini"}, {"openai_chat", "gemini"}),
        ("openai", {"openai_responses"}, {"openai_chat"}),
        ("openai_chat", set(), {"openai_chat"}),
        ("openai_responses", {"openai_responses"}, {"openai_chat"}),
        ("anthropic", {"anthropic"}, set()),
        ("gemini", {"gemini"}, {"gemini"}),
    ],
)
def test_counts_and_embeddings_of_a_custom_upstream_by_its_setting(setting, counts, embeds):
    custom = KINDS["custom"]
    assert {name for name in PROTOCOLS if custom.lane(COUNT, name, setting)} == counts
    assert {name for name in PROTOCOLS if custom.lane(EMBED, name, setting)} == embeds
    assert {name for name in PROTOCOLS if custom.lane(EMBED_BATCH, name, setting)} == embeds & {"gemini"}


@pytest.mark.parametrize(
    ("name", "setting", "operation", "protocol"),
    [
        ("openai", None, GENERATE, "openai_responses"),
        ("openai", None, STREAM, "openai_responses"),
        ("openai", None, COUNT, "openai_responses"),
        ("openai", None, EMBED, "openai_chat"),
        ("openai", None, EMBED_BATCH, "openai_chat"),
        ("anthropic", None, GENERATE, "anthropic"),
        ("anthropic", None, COUNT, "anthropic"),
        ("anthropic", None, EMBED, None),
        ("aistudio", None, STREAM, "gemini"),
        ("aistudio", None, EMBED_BATCH, "gemini"),
        ("deepseek", None, GENERATE, "openai_chat"),
        ("deepseek", None, COUNT, None),
        ("groq", None, GENERATE, "openai_chat"),
        ("openrouter", None, GENERATE, "openai_responses"),
        ("nvidia", None, STREAM, "openai_chat"),
        # passed through and never translated, unless its setting names a protocol
        ("custom", None, GENERATE, None),
        ("custom", "openai", GENERATE, "openai_chat"),
        ("custom", "openai_chat", STREAM, "openai_chat"),
        ("custom", "openai_responses", GENERATE, "openai_responses"),
        ("custom", "anthropic", STREAM, "anthropic"),
        ("custom", "gemini", GENERATE, "gemini"),
        ("custom", "anthropic", EMBED, None),
        ("custom", "gemini", EMBED_BATCH, "gemini"),
        ("demo", None, GENERATE, None),
    ],
)
def test_the_protocol_into_which_a_call_is_translated(name, setting, operation, protocol):
    assert KINDS[name].destination(operation, setting) == protocol


def test_every_protocol_that_calls_are_translated_into_has_a_lane():
    for kind in KINDS.values():
        for setting in (None, *kind.protocol_lanes):
            for operation in (GENERATE, STREAM, COUNT, EMBED):
                destination = kind.destination(operation, setting)
                assert destination is None or kind.lane(operation, destination, setting), (kind.name, setting)


def test_every_kind_that_generates_also_streams():
    for kind, setting, (operation, protocol), _ in EVERY:
        if operation in (GENERATE, STREAM):
            assert kind.lane(GENERATE, protocol, setting), kind.name
            assert kind.lane(STREAM, protocol, setting), kind.name


def test_an_unsupported_protocol_has_no_lane():
    assert KINDS["openai"].lane(GENERATE, "anthropic") is None
    assert KINDS["anthropic"].lane(GENERATE, "openai_chat") is None
    assert KINDS["anthropic"].lane(EMBED, "openai_chat") is None
    assert KINDS["groq"].lane(EMBED, "openai_chat") is None
    assert KINDS["deepseek"].lane(COUNT, "anthropic") is None


def test_two_kinds_of_one_name_stop_the_start(monkeypatch):
    monkeypatch.setattr(channels.demo, "KIND", replace(channels.demo.KIND, name="openai"))
    with pytest.raises(RuntimeError, match="two channels are named 'openai'"):
        channels.load()


def test_every_base_url_is_https_and_without_version():
    for kind in KINDS.values():
        if kind.base_url:
            assert kind.base_url.startswith("https://")
            assert not kind.base_url.endswith(("/", "/v1", "/v1beta"))
    assert KINDS["custom"].base_url is None
