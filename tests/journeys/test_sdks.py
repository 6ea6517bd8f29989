"""The vendors' own SDKs work through gproxy as with their vendor."""

import asyncio

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types

from tests.gateway import ADMIN
from tests.vendor import COMPLETION_TOKENS, PROMPT_TOKENS, WORDS, refuses, streams

TEXT = "".join(WORDS)
HELLO = [{"role": "user", "content": "Hello"}]
CHAT, CLAUDE, GEMINI = (
    "openai-main/gpt-4.1-mini",
    "anthropic-main/claude-3-5-sonnet-latest",
    "vertex-main/gemini-1.5-flash",
)


@pytest.fixture(scope="module")
def openai_client(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=ADMIN, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def anthropic_client(gateway):
    with anthropic.Anthropic(base_url=gateway.url, api_key=ADMIN, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def genai_client(gateway):
    return genai.Client(api_key=ADMIN, http_options=genai_types.HttpOptions(base_url=gateway.url))


def test_chat_whole(openai_client):
    reply = openai_client.chat.completions.create(model=CHAT, messages=HELLO)
    assert reply.choices[0].message.content == TEXT
    assert (reply.model, reply.usage.total_tokens) == (CHAT, PROMPT_TOKENS + COMPLETION_TOKENS)
    assert reply.x_novel == {"kept": True}


@pytest.mark.parametrize("wants_usage", [False, True])
def test_chat_streamed(openai_client, wants_usage):
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    chunks = list(openai_client.chat.completions.create(model=CHAT, messages=HELLO, stream=True, **options))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert {c.model for c in chunks} == {CHAT}
    completion_tokens = [c.usage.completion_tokens for c in chunks if c.usage]
    assert completion_tokens == ([COMPLETION_TOKENS] if wants_usage else [])
    assert all(c.choices for c in chunks) is not wants_usage


def test_chat_accumulator(openai_client):
    with openai_client.chat.completions.stream(model=CHAT, messages=HELLO) as stream:
        assert stream.get_final_completion().choices[0].message.content == TEXT


def test_responses_whole_and_streamed(openai_client):
    assert openai_client.responses.create(model=CHAT, input="Hello").output_text == TEXT
    with openai_client.responses.stream(model=CHAT, input="Hello") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert ("".join(deltas), final.output_text, final.model) == (TEXT, TEXT, CHAT)
    assert final.usage.output_tokens == COMPLETION_TOKENS


def test_messages_whole_and_streamed(anthropic_client):
    reply = anthropic_client.messages.create(model=CLAUDE, max_tokens=256, messages=HELLO)
    assert (reply.content[0].text, reply.model) == (TEXT, CLAUDE)
    with anthropic_client.messages.stream(model=CLAUDE, max_tokens=256, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == TEXT
        final = stream.get_final_message()
    assert (final.model, final.usage.output_tokens) == (CLAUDE, COMPLETION_TOKENS)


def test_gemini_whole_and_streamed(genai_client):
    reply = genai_client.models.generate_content(model=GEMINI, contents="Hello")
    assert (reply.text, reply.model_version) == (TEXT, GEMINI)
    chunks = list(genai_client.models.generate_content_stream(model=GEMINI, contents="Hello"))
    assert "".join(chunk.text for chunk in chunks) == TEXT
    assert chunks[-1].usage_metadata.candidates_token_count == COMPLETION_TOKENS


def test_async_clients(gateway):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=ADMIN) as client:
            whole = await client.chat.completions.create(model=CHAT, messages=HELLO)
            stream = await client.chat.completions.create(model=CHAT, messages=HELLO, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=ADMIN) as client:
            async with client.messages.stream(model=CLAUDE, max_tokens=9, messages=HELLO) as events:
                claude = await events.get_final_text()
        google = genai.Client(api_key=ADMIN, http_options=genai_types.HttpOptions(base_url=gateway.url)).aio
        gemini = await google.models.generate_content(model=GEMINI, contents="Hello")
        streamed = await google.models.generate_content_stream(model=GEMINI, contents="Hello")
        parts = [chunk.text async for chunk in streamed]
        await google.aclose()
        return whole.choices[0].message.content, "".join(pieces), claude, gemini.text, "".join(parts)

    assert asyncio.run(ask()) == (TEXT,) * 5


def test_scoped_base_url(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/openai-main/v1", api_key=ADMIN) as client:
        assert client.chat.completions.create(model="gpt-4.1-mini", messages=HELLO).model == "gpt-4.1-mini"
        assert [m.id for m in client.models.list()] == ["chat-default", "gpt-4.1-mini"]
    with anthropic.Anthropic(base_url=f"{gateway.url}/anthropic-main", api_key=ADMIN) as client:
        assert "claude-3-5-sonnet-latest" in [m.id for m in client.models.list()]


def test_models_in_three_shapes(openai_client, anthropic_client, genai_client):
    everywhere = {"chat-default", "openai-main/gpt-4.1-mini", CLAUDE, GEMINI, "demo/demo-1"}
    assert everywhere <= {m.id for m in openai_client.models.list()}
    assert everywhere <= {m.id for m in anthropic_client.models.list()}
    assert everywhere <= {m.name.removeprefix("models/") for m in genai_client.models.list()}
    for name in everywhere:
        assert openai_client.models.retrieve(name).id == name
        assert anthropic_client.models.retrieve(name).id == name
        assert genai_client.models.get(model=name).name == f"models/{name}"


@pytest.mark.parametrize(
    ("status", "openai_error", "anthropic_error"),
    [
        (400, openai.BadRequestError, anthropic.BadRequestError),
        (401, openai.AuthenticationError, anthropic.AuthenticationError),
        (404, openai.NotFoundError, anthropic.NotFoundError),
        (429, openai.RateLimitError, anthropic.RateLimitError),
        (500, openai.InternalServerError, anthropic.InternalServerError),
    ],
)
def test_an_upstreams_error_is_the_sdks_own(
    gateway, vendor, openai_client, anthropic_client, genai_client, status, openai_error, anthropic_error
):
    model = f"says-{status}"
    vendor.scripts[model] = refuses(status, f"vendor says {status}", {"retry-after": "7"})
    with pytest.raises(openai_error, match=f"vendor says {status}") as caught:
        openai_client.chat.completions.create(model=f"openai-main/{model}", messages=HELLO)
    assert caught.value.response.headers["retry-after"] == "7"
    gateway.heal()
    with pytest.raises(openai_error):
        openai_client.responses.create(model=f"openai-main/{model}", input="Hello", stream=True)
    gateway.heal()
    with pytest.raises(anthropic_error, match=f"vendor says {status}"):
        anthropic_client.messages.create(model=f"anthropic-main/{model}", max_tokens=9, messages=HELLO)
    with pytest.raises(genai_errors.APIError) as caught:
        genai_client.models.generate_content(model=f"vertex-main/{model}", contents="Hello")
    assert caught.value.code == status
    gateway.heal()


def test_our_own_errors_are_the_sdks_own(gateway, openai_client, anthropic_client, genai_client):
    with pytest.raises(openai.BadRequestError, match="provider prefix"):
        openai_client.chat.completions.create(model="nowhere", messages=HELLO)
    with pytest.raises(openai.NotFoundError, match="not_found"):
        openai_client.chat.completions.create(model="nowhere/gpt", messages=HELLO)
    with pytest.raises(anthropic.NotFoundError, match="not_found"):
        anthropic_client.messages.create(model="nowhere/claude", max_tokens=9, messages=HELLO)
    with pytest.raises(genai_errors.ClientError, match="not_found"):
        genai_client.models.generate_content(model="nowhere/gemini", contents="Hello")
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError, match="unauthorized"):
            stranger.models.list()
    with pytest.raises(openai.APIStatusError, match="unsupported") as caught:
        openai_client.with_options(max_retries=0).images.generate(model=CHAT, prompt="A lighthouse")
    assert caught.value.status_code == 501


@pytest.mark.parametrize("end", ["clean", "reset", "close", "hang"])
def test_a_cut_stream_raises_in_every_sdk(vendor, openai_client, anthropic_client, genai_client, end):
    """For every cause the stream ends with an error event, never with a complete end."""
    model = f"cut-by-{end}"
    vendor.scripts[model] = streams(4, end)
    with pytest.raises(openai.APIError, match="upstream_"):
        list(openai_client.chat.completions.create(model=f"openai-main/{model}", messages=HELLO, stream=True))
    with pytest.raises(openai.APIError, match="upstream_"):
        list(openai_client.responses.create(model=f"openai-main/{model}", input="Hello", stream=True))
    with pytest.raises(anthropic.APIStatusError, match="upstream_"):
        with anthropic_client.messages.stream(model=f"anthropic-main/{model}", max_tokens=9, messages=HELLO) as stream:
            list(stream)
    with pytest.raises(genai_errors.APIError, match="upstream_"):
        list(genai_client.models.generate_content_stream(model=f"vertex-main/{model}", contents="Hello"))
