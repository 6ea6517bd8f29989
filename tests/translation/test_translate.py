"""Translation between two protocols: requests, losses, fetched files, errors, replies and streams."""

import base64
import json
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest

from gproxy import channels, protocols
from gproxy.channels.kind import COUNT, EMBED, EMBED_BATCH, GENERATE, STREAM
from gproxy.errors import BadRequest, ClientDisconnected, OverQuota, UpstreamError, UpstreamTimeout
from gproxy.protocols import hub
from gproxy.protocols.signatures import wrap
from gproxy.relay import translated_stream
from gproxy.relay.stream import NO_END, StreamedCall
from gproxy.snapshot import Provider, ProviderSettings
from gproxy.translation import translate
from gproxy.upstream.images import FileContent
from tests.sampled import documents, payloads, request_head, sample

KINDS = channels.load()
PROTOCOLS = protocols.load()
CHAT, RESPONSES, CLAUDE, GEMINI = "openai_chat", "openai_responses", "anthropic", "gemini"
# By protocol, a channel that serves it and a model there.
HOMES = {
    CHAT: ("nvidia", "llama-3.3-70b"),
    RESPONSES: ("openai", "gpt-4.1"),
    CLAUDE: ("anthropic", "claude-sonnet-4-5"),
    GEMINI: ("aistudio", "gemini-2.5-flash"),
}
PAIRS = pytest.mark.parametrize(
    ("client", "upstream"), [(client, upstream) for client in HOMES for upstream in HOMES if client != upstream]
)
PNG = base64.b64encode(b"\x89PNG").decode()
URL = "https://example.com/a.png"


class TtlStore(dict):
    """A TTL store of one process, without expiry."""

    def put(self, user: int, call_id: str, value: bytes) -> bool:
        self[user, call_id] = value
        return True

    def find(self, user: int, call_id: str) -> bytes | None:
        return self.get((user, call_id))


def hello(client: str, **more) -> dict:
    return {
        CHAT: {"model": "requested", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 99},
        RESPONSES: {"model": "requested", "input": "Hi", "max_output_tokens": 99},
        CLAUDE: {"model": "requested", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]},
        GEMINI: {"contents": [{"parts": [{"text": "Hi"}]}], "generationConfig": {"maxOutputTokens": 99}},
    }[client] | more


def prepare(
    client: str, upstream: str, body, operation=GENERATE, upstream_operation=None, ttl_store=None, user=1, **settings
):
    channel, model = HOMES[upstream]
    found = Provider(1, "main", channel, ProviderSettings(**settings), ())
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return translate.prepare(
        translate.ClientRequest(PROTOCOLS[client], operation, data, user),
        translate.UpstreamTarget(PROTOCOLS[upstream], upstream_operation or operation, KINDS[channel], found, model),
        TtlStore() if ttl_store is None else ttl_store,
    )


def context(translation):
    return translation.context("requested", "req_1", True)


# -- requests ------------------------------------------------------------------------------------------------------


@PAIRS
@pytest.mark.parametrize("operation", [GENERATE, STREAM])
def test_a_plain_request_is_translated_without_loss(client, upstream, operation):
    body = hello(client)
    translation = prepare(client, upstream, body, operation)
    sent = json.loads(translation.body)
    assert translation.losses == ()
    assert translation.urls == ()
    assert translation.label == f"{client}->{upstream}"
    assert "Hi" in json.dumps(sent)
    assert "99" in json.dumps(sent)
    if upstream == GEMINI:  # the path has the model and the operation
        assert not {"model", "stream"} & sent.keys()
    else:
        assert sent["model"] == HOMES[upstream][1]
        assert sent.get("stream", False) is (operation == STREAM)


@PAIRS
@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b"", b'{"messages": 7, "input": 7, "contents": 7}'])
def test_an_unreadable_body_is_a_bad_request(client, upstream, body):
    with pytest.raises(BadRequest):
        prepare(client, upstream, body)


def test_a_whole_reply_may_be_requested_as_a_stream():
    translation = prepare(CLAUDE, RESPONSES, hello(CLAUDE), GENERATE, upstream_operation=STREAM)
    assert json.loads(translation.body)["stream"] is True


@pytest.mark.parametrize(
    ("client", "upstream", "more", "lost"),
    [
        (CHAT, CLAUDE, {"seed": 7, "x_novel": 1}, ("seed", "x_novel")),
        (RESPONSES, CLAUDE, {"truncation": "auto"}, ("truncation",)),
        (CLAUDE, CHAT, {"top_k": 5}, ("top_k",)),
        (CHAT, GEMINI, {"user": "u-1"}, ("user",)),
        (GEMINI, CLAUDE, {"safetySettings": [{}]}, ("safetySettings",)),
    ],
)
def test_losses_are_listed_by_field_or_refused_with_strict_translation(client, upstream, more, lost):
    assert prepare(client, upstream, hello(client, **more)).losses == lost
    with pytest.raises(BadRequest) as refused:
        prepare(client, upstream, hello(client, **more), strict_translation=True)
    assert f"{', '.join(lost)}: cannot be translated to {upstream} without loss" in refused.value.message
    assert "strict_translation" in refused.value.message
    assert prepare(client, upstream, hello(client), strict_translation=True).losses == ()


def test_counts_and_embeddings_are_translated():
    counted = prepare(GEMINI, CLAUDE, hello(GEMINI), COUNT)
    assert json.loads(counted.body).keys() == {"model", "messages"}
    embedded = prepare(CHAT, GEMINI, {"model": "requested", "input": ["a", "b"]}, EMBED, upstream_operation=EMBED_BATCH)
    assert len(json.loads(embedded.body)["requests"]) == 2
    assert embedded.put_state is None
    body, losses = translate.translate_reply(
        embedded, b'{"embeddings": [{"values": [0.5]}, {"values": [1]}]}', context(embedded)
    )
    assert [row["embedding"] for row in json.loads(body)["data"]] == [[0.5], [1]]
    assert losses == ()
    with pytest.raises(BadRequest, match="token arrays"):
        prepare(CHAT, GEMINI, {"model": "requested", "input": [1, 2]}, EMBED, upstream_operation=EMBED_BATCH)


def test_a_target_has_the_capabilities_of_its_model_and_channel():
    translation = prepare(CHAT, CLAUDE, hello(CHAT), STREAM)
    target = translation.target
    assert (target.provider, target.model, target.is_stream) == ("main/anthropic", "claude-sonnet-4-5", True)
    assert (target.max_output, target.budgets) == (64_000, True)
    assert "one_of_temperature_and_top_p" in target.traits
    nvidia = prepare(CLAUDE, CHAT, hello(CLAUDE)).target
    assert nvidia.traits == KINDS["nvidia"].traits
    assert nvidia.refused == KINDS["nvidia"].refused
    assert not nvidia.is_stream


# -- files by URL --------------------------------------------------------------------------------------------------


def image(client: str, url: str) -> dict:
    part = {
        CHAT: {"type": "image_url", "image_url": {"url": url}},
        RESPONSES: {"type": "input_image", "image_url": url},
        CLAUDE: {"type": "image", "source": {"type": "url", "url": url}},
        GEMINI: {"fileData": {"fileUri": url, "mimeType": "image/png"}},
    }[client]
    if client == GEMINI:
        return hello(client, contents=[{"parts": [part]}])
    turn = [{"role": "user", "content": [part]}]
    return hello(client, **{"input" if client == RESPONSES else "messages": turn})


@pytest.mark.parametrize(
    ("client", "upstream", "url", "opens"),
    [
        (CHAT, CLAUDE, URL, True),
        (CHAT, RESPONSES, URL, True),
        (CLAUDE, CHAT, URL, True),
        (GEMINI, CLAUDE, URL, True),
        (CHAT, GEMINI, URL, False),
        (CLAUDE, GEMINI, URL, False),
        (RESPONSES, GEMINI, URL, False),
        # URLs that Google can open itself
        (CHAT, GEMINI, "gs://bucket/a.png", True),
        (CHAT, GEMINI, "https://generativelanguage.googleapis.com/v1beta/files/a", True),
        (CHAT, GEMINI, "https://youtu.be/x", True),
        (CHAT, GEMINI, "https://youtu.be.example.com/x", False),
        (CHAT, GEMINI, f"data:image/png;base64,{PNG}", True),
    ],
)
def test_which_urls_an_upstream_opens_itself(client, upstream, url, opens):
    if opens:
        translation = prepare(client, upstream, image(client, url))
        assert translation.urls == ()
        assert (PNG if url.startswith("data:") else url) in translation.body.decode()
    else:
        with pytest.raises(BadRequest, match="fetch_images") as refused:
            prepare(client, upstream, image(client, url))
        assert refused.value.message.startswith(f"invalid_request: {PROTOCOLS[client].NAMES['image']}: ")
        assert url not in refused.value.message
        translation = prepare(client, upstream, image(client, url), fetch_images=True)
        assert (translation.urls, translation.body) == ((url,), b"")


def test_the_url_of_a_document_is_not_an_image_of_chat():
    document = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    body = hello(CLAUDE, messages=[{"role": "user", "content": [document]}])
    assert prepare(CLAUDE, CHAT, body, fetch_images=True).urls == ("https://example.com/a.pdf",)
    assert prepare(CLAUDE, RESPONSES, body, fetch_images=True).urls == ()


class Fetcher:
    """Returns files by the last segment of their URL."""

    def __init__(self, **found: FileContent):
        self.found, self.requested = found, []

    def fetch(self, url: str, watch) -> FileContent:
        self.requested.append(url)
        with watch:
            name = url.rpartition("/")[2]
            if name not in self.found:
                raise BadRequest("image_url: the host answered 404")
            return self.found[name]


def with_images(*urls: str) -> dict:
    """Returns a request with these images in a user's turn, and the first one again in a tool result."""
    parts = [{"type": "image", "source": {"type": "url", "url": url}} for url in urls]
    result = {"type": "tool_result", "tool_use_id": "t", "content": parts[:1]}
    return hello(
        CLAUDE,
        messages=[
            {"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]},
            {"role": "user", "content": [result]},
        ],
    )


def test_each_url_is_fetched_once_and_its_data_sent():
    translation = prepare(CLAUDE, GEMINI, with_images(f"{URL}/one", f"{URL}/two", f"{URL}/one"), fetch_images=True)
    assert translation.urls == (f"{URL}/one", f"{URL}/two")
    one, two = FileContent("image/png", b"\x89PNG"), FileContent("application/pdf", b"%PDF")
    fetcher = Fetcher(one=one, two=two)
    fetched = translate.fetch_files(translation, fetcher, nullcontext())
    assert fetcher.requested == [f"{URL}/one", f"{URL}/two"]
    assert fetched.urls == ()
    assert translation.urls
    sent = json.loads(translate.write_body(fetched, False).body)
    inline = [part["inlineData"] for turn in sent["contents"] for part in turn["parts"] if "inlineData" in part]
    png = {"mimeType": "image/png", "data": PNG}
    pdf = {"mimeType": "application/pdf", "data": base64.b64encode(b"%PDF").decode()}
    assert inline == [png, pdf, png, png]
    assert URL not in json.dumps(sent)


@pytest.mark.parametrize("client", [CHAT, RESPONSES, CLAUDE])
def test_a_failed_fetch_names_the_clients_field(client):
    translation = prepare(client, GEMINI, image(client, URL), fetch_images=True)
    with pytest.raises(BadRequest) as refused:
        translate.fetch_files(translation, Fetcher(), nullcontext())
    name = PROTOCOLS[client].NAMES["image"]
    assert refused.value.message == f"invalid_request: {name}: the host answered 404"


def test_a_disconnect_ends_the_fetching():
    class DisconnectedWatch:
        def __enter__(self):
            raise ClientDisconnected

        def __exit__(self, *_):
            pass

    translation = prepare(CHAT, GEMINI, image(CHAT, URL), fetch_images=True)
    with pytest.raises(ClientDisconnected):
        translate.fetch_files(translation, Fetcher(), DisconnectedWatch())


def test_the_number_of_urls_to_fetch_is_limited():
    urls = [f"{URL}/{i}" for i in range(translate.MAX_URLS + 1)]
    few = [urls[0], *urls[: translate.MAX_URLS - 2]]  # and one in the tool result
    assert len(prepare(CLAUDE, GEMINI, with_images(*few), fetch_images=True).urls) == translate.MAX_URLS - 2
    for fetches in (True, False):
        with pytest.raises(BadRequest) as refused:
            prepare(CLAUDE, GEMINI, with_images(*urls), fetch_images=fetches)
        assert refused.value.message.startswith("invalid_request: messages.content.image: more than 20 URLs")
    # an upstream that opens URLs itself may get any number
    assert prepare(CLAUDE, CHAT, with_images(*urls)).urls == ()


def test_the_total_size_of_the_files_of_a_request_is_limited(monkeypatch):
    assert translate.MAX_FETCHED_BYTES == 50 * 1024 * 1024
    monkeypatch.setattr(translate, "MAX_FETCHED_BYTES", 12)
    translation = prepare(CLAUDE, GEMINI, with_images(f"{URL}/one", f"{URL}/two", f"{URL}/three"), fetch_images=True)
    six, seven = FileContent("image/png", b"123456"), FileContent("image/png", b"1234567")
    fetcher = Fetcher(one=six, two=seven, three=six)
    with pytest.raises(BadRequest, match=r"messages\.content\.image: more than 12 bytes in all"):
        translate.fetch_files(translation, fetcher, nullcontext())
    assert fetcher.requested == [f"{URL}/one", f"{URL}/two"]  # the third one is not requested
    few = prepare(CLAUDE, GEMINI, with_images(f"{URL}/one", f"{URL}/two"), fetch_images=True)
    assert translate.fetch_files(few, Fetcher(one=six, two=six), nullcontext()).urls == ()


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"overloaded", ": overloaded"),
        (b"<html><head><title>502 Bad Gateway</title></head>\n<body>nginx</body></html>", ": 502 Bad Gateway nginx"),
        (b"<style>b { color: red }</style><SCRIPT>alert(1)</SCRIPT ><p>a &amp; b</p>", None),
        (b"<script>alert('<b>')</script><p>out of order</p>", ": out of order"),
        ("größe \xa0 x".encode(), ": größe x"),
        (b"\xff\xfe", ": \ufffd\ufffd"),
        (b"a &lt;b&gt; c", ": a <b> c"),
        (b"x" * 10_000, ": " + "x" * 500),
        (b"<" * 10_000, None),
        (b"<p>" + b" \n" * 3000 + b"late</p>", ": late"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_error_body_without_json_stays_readable(body, text):
    message = translate.readable_error(502, body)
    assert message.startswith("the upstream answered 502")
    assert len(message) <= 600
    if text is not None:
        assert message == f"the upstream answered 502{text}"


ERRORS = {
    CHAT: {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}},
    RESPONSES: {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}},
    CLAUDE: {"type": "error", "error": {"type": "invalid_request_error", "message": "too long"}},
    GEMINI: {"error": {"code": 400, "message": "too long", "status": "INVALID_ARGUMENT"}},
}


@PAIRS
def test_an_upstreams_error_gets_the_clients_shape(client, upstream):
    translation = prepare(client, upstream, hello(client))
    error = json.loads(translate.error_body(translation, 400, json.dumps(ERRORS[upstream]).encode(), "req_1"))
    assert error["error"]["message"] == "too long"
    kind = error["error"].get("type") or error["error"]["status"]
    assert kind in ("invalid_request_error", "INVALID_ARGUMENT")
    assert "req_1" in json.dumps(error)
    if client == GEMINI:
        assert error["error"]["code"] == 400


@PAIRS
@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"<html><h1>Bad Gateway</h1></html>", "the upstream answered 502: Bad Gateway"),
        (b"", "the upstream answered 502"),
        (b"{}", "the upstream answered 502: {}"),
        (b'{"detail": "no"}', 'the upstream answered 502: {"detail": "no"}'),
        (b"[7]", "the upstream answered 502: [7]"),
        (b"[" * 100_000, "the upstream answered 502: ["),
        (b'{"error": {"message": 7}}', "the upstream answered 502: {"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_error_that_is_not_of_the_upstreams_protocol_becomes_text(client, upstream, body, word):
    translation = prepare(client, upstream, hello(client))
    error = json.loads(translate.error_body(translation, 502, body, "req_1"))["error"]
    assert error["message"].startswith(word)
    assert "upstream_error" in json.dumps(error)


def test_an_error_of_gemini_may_be_an_array():
    translation = prepare(CHAT, GEMINI, hello(CHAT))
    body = json.dumps([ERRORS[GEMINI]]).encode()
    assert json.loads(translate.error_body(translation, 400, body, "req_1"))["error"]["message"] == "too long"


# -- whole replies -------------------------------------------------------------------------------------------------

# A whole reply translated to a whole reply, and to the stream that its client requested.
TRANSLATORS = (translate.translate_reply, lambda *given: translated_stream.WholeReplyStream(*given, False))


@PAIRS
def test_a_whole_reply_has_the_clients_model_name(client, upstream):
    translation = prepare(client, upstream, hello(client))
    body, _ = translate.translate_reply(translation, sample(upstream, "reply.json"), context(translation))
    reply = json.loads(body)
    assert reply[PROTOCOLS[client].MODEL_FIELD] == "requested"
    usage, _ = PROTOCOLS[client].read_whole(body)
    before, _ = PROTOCOLS[upstream].read_whole(sample(upstream, "reply.json"))
    assert (usage.prompt_tokens, usage.output_tokens) == (before.prompt_tokens, before.output_tokens)


@PAIRS
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"7", b"[" * 100_000], ids=lambda body: body[:9])
def test_a_reply_that_is_not_a_json_object_is_an_upstream_error(client, upstream, body):
    translation = prepare(client, upstream, hello(client))
    with pytest.raises(UpstreamError, match="cannot be translated"):
        translate.translate_reply(translation, body, context(translation))
    with pytest.raises(UpstreamError, match="cannot be translated"):
        translated_stream.WholeReplyStream(translation, body, context(translation), False)


@PAIRS
@pytest.mark.parametrize("body", [b"{}", b'{"choices": 7, "output": 7, "content": 7, "candidates": 7, "usage": 7}'])
def test_an_empty_reply_is_still_a_reply(client, upstream, body):
    translation = prepare(client, upstream, hello(client))
    if upstream == GEMINI:  # which gives a reason when it answers nothing
        for translator in TRANSLATORS:
            with pytest.raises(UpstreamError) as failed:
                translator(translation, body, context(translation))
            assert failed.value.message == "the upstream sent no answer"
        return
    found, _ = translate.translate_reply(translation, body, context(translation))
    assert json.loads(found)[PROTOCOLS[client].MODEL_FIELD] == "requested"


@PAIRS
def test_a_reply_cut_inside_an_emoji_loses_only_the_emoji(client, upstream):
    text = {
        CHAT: {"choices": [{"index": 0, "message": {"content": "so \ud83d"}, "finish_reason": "length"}]},
        RESPONSES: {"output": [{"type": "message", "content": [{"type": "output_text", "text": "so \ud83d"}]}]},
        CLAUDE: {"content": [{"type": "text", "text": "so \ud83d"}], "stop_reason": "max_tokens"},
        GEMINI: {"candidates": [{"content": {"parts": [{"text": "so \ud83d"}]}, "finishReason": "MAX_TOKENS"}]},
    }[upstream]
    translation = prepare(client, upstream, hello(client))
    assert b'"so ?"' in translate.translate_reply(translation, json.dumps(text).encode(), context(translation))[0]


def test_a_signature_of_a_call_is_stored_under_the_id_that_the_client_sees():
    ttl_store = TtlStore()
    translation = prepare(CHAT, GEMINI, hello(CHAT), ttl_store=ttl_store, user=7)
    call = {"functionCall": {"id": "c.1", "name": "f", "args": {}}, "thoughtSignature": "S"}
    reply = {"candidates": [{"content": {"parts": [call]}, "finishReason": "STOP"}]}
    body, _ = translate.translate_reply(translation, json.dumps(reply).encode(), context(translation))
    call_sent = json.loads(body)["choices"][0]["message"]["tool_calls"][0]
    assert list(ttl_store) == [(7, call_sent["id"])]
    call_sent = {key: value for key, value in call_sent.items() if key != "extra_content"}  # most clients drop it
    answered = hello(
        CHAT,
        messages=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [call_sent]},
            {"role": "tool", "tool_call_id": call_sent["id"], "content": "42"},
        ],
    )
    assert '"thoughtSignature":"S"' in prepare(CHAT, GEMINI, answered, ttl_store=ttl_store, user=7).body.decode()
    # neither another user's request nor another vendor gets it
    assert '"thoughtSignature":"S"' not in prepare(CHAT, GEMINI, answered, ttl_store=ttl_store, user=8).body.decode()
    assert '"S"' not in prepare(CHAT, CLAUDE, answered, ttl_store=ttl_store, user=7).body.decode()


def test_a_signature_is_stored_under_a_rewritten_call_id():
    ttl_store = TtlStore()
    translation = prepare(CLAUDE, GEMINI, hello(CLAUDE), ttl_store=ttl_store)
    call = {"functionCall": {"id": "c.1", "name": "f", "args": {}}, "thoughtSignature": "S"}
    reply = {"candidates": [{"content": {"parts": [call]}, "finishReason": "STOP"}]}
    content = json.loads(translate.translate_reply(translation, json.dumps(reply).encode(), context(translation))[0])[
        "content"
    ]
    (call_sent,) = [block for block in content if block["type"] == "tool_use"]
    assert call_sent["id"] != "c.1"
    assert list(ttl_store) == [(1, call_sent["id"])]


def test_a_wrapped_signature_is_unwrapped_only_for_its_own_provider():
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": wrap(hub.Signature("main/gemini", "S"))},
        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    ]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": blocks}]
    turns.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "42"}]})
    mine = prepare(CLAUDE, GEMINI, hello(CLAUDE, messages=turns))
    assert '"thoughtSignature":"S"' in mine.body.decode()
    # neither another provider's signature, nor this provider's signature in another protocol
    for origin in ("second/gemini", "main/openai_chat", "main"):
        blocks[0]["signature"] = wrap(hub.Signature(origin, "S"))
        others = prepare(CLAUDE, GEMINI, hello(CLAUDE, messages=turns))
        assert '"S"' not in others.body.decode()
        assert others.losses


# -- streams -------------------------------------------------------------------------------------------------------


class Exchange:
    """An upstream's response in pieces, which ends normally or with an exception."""

    status, is_stream = 200, True

    def __init__(self, *pieces: bytes, end: Exception | BaseException | None = None):
        self.pieces, self.end, self.is_closed = pieces, end, False

    def chunks(self, watch):
        yield from self.pieces
        if self.end is not None:
            raise self.end

    def masked(self, data: bytes) -> bytes:
        return data

    def limit_idle(self, idle_s: float | None) -> None:
        """Does nothing: there is no wait."""

    def close(self) -> None:
        self.is_closed = True


class Settlement:
    """Records how a call was settled. `covered_bytes`: the text that the reservation covers; `exceeds`: the results of
    the checks beyond it."""

    def __init__(self, covered_bytes: float = math.inf, exceeds: tuple[bool, ...] = ()):
        self.covered_bytes, self._exceeds = covered_bytes, list(exceeds)
        self.reservation = self
        self.ends: list[tuple] = []
        self.losses: list[str] = []
        self.has_first_byte = False

    @property
    def is_settled(self) -> bool:
        return bool(self.ends)

    def record_first_byte(self, text_bytes: int = 0) -> None:
        self.has_first_byte = True

    def settle_complete(self, status, usage, text_bytes):
        self.ends.append(("complete", status, usage, text_bytes))

    def settle_failed(self, status, usage, text_bytes):
        self.ends.append(("failed", status, usage, text_bytes))

    def settle_disconnected(self, usage, text_bytes, is_complete=False):
        self.ends.append(("disconnected", usage, text_bytes))

    def exceeds_quota(self, usage, text_bytes) -> bool:
        assert text_bytes > self.covered_bytes
        self.covered_bytes = text_bytes
        return self._exceeds.pop(0)

    def exhausted(self) -> OverQuota:
        return OverQuota("the quota is spent")


class Watch:
    is_closed = False

    def close(self):
        self.is_closed = True


class Stream:
    def __init__(self, client: str, upstream: str, exchange: Exchange, as_array: bool = False, settlement=None):
        self.settlement, self.exchange, self.disconnects, self.watch = settlement or Settlement(), exchange, [], Watch()
        translation = prepare(client, upstream, hello(client), STREAM)
        call = StreamedCall(
            exchange, self.settlement, self.watch, "req_1", as_array, 0.0, lambda: self.disconnects.append(1)
        )
        self.stream = translated_stream.TranslatedStream(call, translation, request_head(), context(translation))

    def all(self) -> bytes:
        return b"".join(self.stream.frames())


@PAIRS
def test_a_stream_that_exceeds_the_quota_ends_with_an_error(client, upstream):
    """The text that the reservation covers is forwarded; the event beyond it is not."""
    pieces = [event + b"\n\n" for event in sample(upstream, "text.sse").strip().split(b"\n\n")]
    whole = Stream(client, upstream, Exchange(*pieces)).all()
    found = Stream(client, upstream, Exchange(*pieces), settlement=Settlement(1, (False, True)))
    sent = found.all()
    assert b"quota_exceeded" in sent
    assert len(sent) < len(whole)
    (how, status, _, size), *_ = found.settlement.ends
    assert (how, status) == ("failed", 402)
    assert size > 1
    ended = PROTOCOLS[client].Stream(None, request_head())
    for data in payloads(sent):
        ended.observe(data)
    assert ended.has_failed or not ended.is_terminal


@PAIRS
def test_a_stream_is_settled_before_its_terminal_event_is_sent(client, upstream):
    found = Stream(client, upstream, Exchange(sample(upstream, "text.sse")))
    for piece in found.stream.frames():
        sent = [data for data in payloads(piece) if data]
        ended = PROTOCOLS[client].Stream(None, request_head())
        for data in sent:
            ended.observe(data)
        assert found.settlement.is_settled or not ended.is_terminal
    ((how, status, usage, size),) = set(found.settlement.ends)
    assert (how, status) == ("complete", 200)
    assert usage.output_tokens > 0
    assert size >= 15
    assert found.settlement.has_first_byte
    found.stream.close()
    assert found.exchange.is_closed
    assert found.watch.is_closed
    assert found.disconnects == []


@PAIRS
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_chunks_of_a_stream_do_not_change_the_result(client, upstream, size):
    body = sample(upstream, "text.sse")
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    whole, again = (Stream(client, upstream, exchange).all() for exchange in (Exchange(body), Exchange(*pieces)))
    assert [_timeless(document) for document in documents(again)] == [_timeless(one) for one in documents(whole)]


def _timeless(document: dict) -> dict:
    """Returns the document without its creation time."""
    found = {key: value for key, value in document.items() if key not in ("created", "created_at")}
    return {key: _timeless(value) if isinstance(value, dict) else value for key, value in found.items()}


@PAIRS
@pytest.mark.parametrize(
    ("stream", "end"),
    [
        ("cut.sse", None),
        ("cut.sse", UpstreamError("reset")),
        ("cut.sse", UpstreamTimeout("silence")),
        ("error.sse", None),
    ],
)
def test_a_cut_stream_ends_with_an_error_and_is_billed_for_the_delivered_text(client, upstream, stream, end):
    found = Stream(client, upstream, Exchange(sample(upstream, stream), end=end))
    body = found.all()
    reader = PROTOCOLS[client].Stream(None, request_head())
    for data in payloads(body):
        reader.observe(data)
    assert reader.has_failed
    how, *_, size = found.settlement.ends[0]
    assert how == "failed"
    assert size > 0


@PAIRS
def test_a_disconnect_is_counted_once_and_billed(client, upstream):
    found = Stream(client, upstream, Exchange(sample(upstream, "cut.sse"), end=ClientDisconnected()))
    found.all()
    found.stream.close()
    assert [end[0] for end in found.settlement.ends] == ["disconnected"]
    assert found.settlement.ends[0][-1] > 0
    assert found.disconnects == [1]
    assert found.exchange.is_closed


def test_a_stream_that_is_closed_unread_is_settled():
    found = Stream(CHAT, CLAUDE, Exchange(sample(CLAUDE, "text.sse")))
    found.stream.close()
    assert [end[0] for end in found.settlement.ends] == ["disconnected"]
    assert found.disconnects == [1]


def test_an_upstream_that_does_not_close_after_its_terminal_event_has_not_failed():
    found = Stream(CHAT, GEMINI, Exchange(sample(GEMINI, "text.sse"), end=UpstreamTimeout("silence")))
    body = found.all()
    assert found.settlement.ends[0][0] == "complete"
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("upstream", [CHAT, RESPONSES, CLAUDE])
def test_a_stream_may_be_one_json_array(upstream):
    body = Stream(GEMINI, upstream, Exchange(sample(upstream, "text.sse")), as_array=True).all()
    chunks = json.loads(body)
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    cut = Stream(GEMINI, upstream, Exchange(sample(upstream, "cut.sse")), as_array=True).all()
    assert "error" in json.loads(cut)[-1]


@PAIRS
def test_a_whole_reply_is_built_from_a_stream(client, upstream):
    found = Stream(client, upstream, Exchange(sample(upstream, "text.sse")))
    translation = prepare(client, upstream, hello(client), GENERATE, upstream_operation=STREAM)
    body, _ = translate.fold_stream(translation, found.stream.events(), context(translation), found.stream.losses)
    usage, fields = PROTOCOLS[client].read_whole(body)
    assert bytes(fields[PROTOCOLS[client].MODEL_FIELD]) == b'"requested"'
    assert usage.output_tokens == found.settlement.ends[0][2].output_tokens
    broken = Stream(client, upstream, Exchange(sample(upstream, "cut.sse")))
    with pytest.raises(UpstreamError) as failed:
        translate.fold_stream(translation, broken.stream.events(), context(translation), broken.stream.losses)
    assert failed.value.message.endswith(NO_END)
    assert broken.settlement.ends[0][0] == "failed"


@PAIRS
def test_a_stream_is_built_from_a_whole_reply(client, upstream):
    translation = prepare(client, upstream, hello(client), STREAM)
    found = translated_stream.WholeReplyStream(translation, sample(upstream, "reply.json"), context(translation), False)
    reader = PROTOCOLS[client].Stream(None, request_head())
    for data in payloads(b"".join(found.frames())):
        reader.observe(data)
    assert reader.is_terminal
    assert not reader.has_failed
    found.close()
    with pytest.raises(UpstreamError, match="cannot be translated"):
        translated_stream.WholeReplyStream(translation, b"<html>", context(translation), False)


# -- replies that report failures, and unexpected replies ----------------------------------------------------------


def sse_of(*events: dict) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def chat_body(**choice) -> dict:
    return {"id": "c", "model": "m", "choices": [{"index": 0, **choice}]}


SLOW = {"code": 429, "message": "slow down"}
MALFORMED = {
    "content": {"parts": [{"text": "so"}]},
    "finishReason": "MALFORMED_FUNCTION_CALL",
    "finishMessage": "Malformed function call: f(",
}
# the upstream, its whole reply, its stream, and the client's error
FAILURES = {
    "chat says why": (
        CHAT,
        chat_body(message={"content": "so"}, finish_reason="error", error=SLOW),
        [chat_body(delta={"content": "so"}), chat_body(delta={}, finish_reason="error", error=SLOW)],
        (429, "api_error", "slow down"),
    ),
    "chat does not say why": (
        CHAT,
        chat_body(message={"content": "so"}, finish_reason="error"),
        [chat_body(delta={"content": "so"}), chat_body(delta={}, finish_reason="error")],
        (502, "upstream_error", "the upstream reported a failure without a reason"),
    ),
    "responses": (
        RESPONSES,
        {"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow down"}, "output": []},
        [
            {"type": "response.created", "response": {"id": "r"}},
            {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "so"},
            {
                "type": "response.failed",
                "response": {"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow down"}},
            },
        ],
        (429, "rate_limit_exceeded", "slow down"),
    ),
    "gemini": (
        GEMINI,
        {"candidates": [MALFORMED]},
        [{"candidates": [{"content": {"parts": [{"text": "so"}]}}]}, {"candidates": [MALFORMED]}],
        (502, "MALFORMED_FUNCTION_CALL", "Malformed function call: f("),
    ),
    "gemini does not say why": (
        GEMINI,
        {"candidates": [{"finishReason": "UNEXPECTED_TOOL_CALL"}]},
        [{"candidates": [{"finishReason": "UNEXPECTED_TOOL_CALL"}]}],
        (502, "UNEXPECTED_TOOL_CALL", "the model's answer is unusable: UNEXPECTED_TOOL_CALL"),
    ),
    "gemini says nothing": (
        GEMINI,
        {"usageMetadata": {"promptTokenCount": 5}},
        [{"usageMetadata": {"promptTokenCount": 5}}],
        (502, "upstream_error", "the upstream sent no answer"),
    ),
    "gemini says nothing of its prompt": (
        GEMINI,
        {"candidates": [], "promptFeedback": {}},
        [{"candidates": [], "promptFeedback": {}}],
        (502, "upstream_error", "the upstream sent no answer"),
    ),
}
# A stream without content has no terminal event either, and that is detected first.
WITHOUT_END = {"the upstream sent no answer": f"upstream_error: {NO_END}"}
EACH_FAILURE = pytest.mark.parametrize(
    ("client", "upstream", "whole", "events", "error"),
    [(client, *row) for row in FAILURES.values() for client in HOMES if client != row[0]],
)


def error_of(failed) -> tuple[int, str, str]:
    return failed.value.status, failed.value.code, failed.value.message


@EACH_FAILURE
def test_a_whole_reply_that_reports_a_failure_is_an_error(client, upstream, whole, events, error):
    translation = prepare(client, upstream, hello(client))
    for translator in TRANSLATORS:
        with pytest.raises(UpstreamError) as failed:
            translator(translation, json.dumps(whole).encode(), context(translation))
        assert error_of(failed) == error


@EACH_FAILURE
def test_a_stream_that_reports_a_failure_ends_with_an_error(client, upstream, whole, events, error):
    for end in (b"", b"data: [DONE]\n\n"):
        found = Stream(client, upstream, Exchange(sse_of(*events) + (end if upstream == CHAT else b"")))
        body = found.all()
        found.stream.close()
        assert {how for how, *_ in found.settlement.ends} == {"failed"}
        assert found.disconnects == []
        reader = PROTOCOLS[client].Stream(None, request_head())
        for data in payloads(body):
            reader.observe(data)
        assert reader.has_failed
        assert json.dumps(WITHOUT_END.get(error[2], error[2])).encode() in body


@EACH_FAILURE
def test_a_failure_in_a_stream_read_as_a_whole_reply_keeps_its_message(client, upstream, whole, events, error):
    found = Stream(client, upstream, Exchange(sse_of(*events)))
    translation = prepare(client, upstream, hello(client), GENERATE, upstream_operation=STREAM)
    with pytest.raises(UpstreamError) as failed:
        translate.fold_stream(translation, found.stream.events(), context(translation), found.stream.losses)
    assert error_of(failed) == (*error[:2], WITHOUT_END.get(error[2], error[2]))
    assert {how for how, *_ in found.settlement.ends} == {"failed"}


@PAIRS
def test_an_error_event_in_a_stream_read_as_a_whole_reply_keeps_status_code_and_message(client, upstream):
    stream = sample(upstream, "error.sse")
    documents_ = [document.get("response", document) for document in documents(stream)]
    (error,) = [found for document in documents_ if (found := PROTOCOLS[upstream].read_error(0, document))][:1]
    found = Stream(client, upstream, Exchange(stream))
    translation = prepare(client, upstream, hello(client), GENERATE, upstream_operation=STREAM)
    with pytest.raises(UpstreamError) as failed:
        translate.fold_stream(translation, found.stream.events(), context(translation), found.stream.losses)
    assert error_of(failed) == error
    assert found.settlement.ends[0][0] == "failed"


@pytest.mark.parametrize("client", [CHAT, RESPONSES, CLAUDE])
def test_a_reply_withheld_for_another_reason_counts_as_filtered(client):
    reply = {"candidates": [{"content": {"parts": [{"text": "so"}]}, "finishReason": "OTHER"}]}
    translation = prepare(client, GEMINI, hello(client))
    body, _ = translate.translate_reply(translation, json.dumps(reply).encode(), context(translation))
    word = {CHAT: '"finish_reason":"content_filter"', RESPONSES: '"reason":"content_filter"'}
    assert word.get(client, '"stop_reason":"refusal"') in body.decode()
    found = Stream(client, GEMINI, Exchange(sse_of(reply)))
    assert word.get(client, '"stop_reason":"refusal"') in found.all().decode()
    assert found.settlement.ends[0][0] == "complete"


def deep(levels: int) -> dict:
    found: dict = {}
    for _ in range(levels):
        found = {"a": found}
    return found


# JSON that can be read and is nested too deeply to be written.
TOO_DEEP = {
    CHAT: (
        chat_body(message={"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": deep(600)}}]}),
        [
            chat_body(delta={"content": "so"}),
            chat_body(delta={"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": deep(600)}}]}),
        ],
    ),
    CLAUDE: (
        {"content": [{"type": "tool_use", "id": "a", "name": "f", "input": deep(600)}]},
        [
            {"type": "message_start", "message": {"id": "m"}},
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "tool_use", "id": "a", "name": "f", "input": deep(600)},
            },
        ],
    ),
    GEMINI: (
        {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": deep(600)}}]}}]},
        [
            {"candidates": [{"content": {"parts": [{"text": "so"}]}}]},
            {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": deep(600)}}]}}]},
        ],
    ),
}


@pytest.mark.parametrize(
    ("client", "upstream"), [(client, upstream) for upstream in TOO_DEEP for client in HOMES if client != upstream]
)
def test_a_reply_that_cannot_be_written_is_an_upstream_error_and_not_a_disconnect(client, upstream):
    whole, events = TOO_DEEP[upstream]
    translation = prepare(client, upstream, hello(client))
    for translator in TRANSLATORS:
        with pytest.raises(UpstreamError) as failed:
            translator(translation, json.dumps(whole).encode(), context(translation))
        assert "cannot be translated: " in failed.value.message
        assert error_of(failed)[:2] == (502, "upstream_error")
    check_broken(Stream(client, upstream, Exchange(sse_of(*events))), client)


def check_broken(found: Stream, client: str) -> None:
    """Asserts that the stream ends with an error event and is settled as failed."""
    body = found.all()
    found.stream.close()
    assert {how for how, *_ in found.settlement.ends} == {"failed"}
    assert found.disconnects == []
    reader = PROTOCOLS[client].Stream(None, request_head())
    for data in payloads(body):
        reader.observe(data)
    assert reader.has_failed
    assert b"cannot be translated: " in body


class FailingProtocol:
    """Wraps a protocol so that its stream functions of these names raise `fault` after three events."""

    def __init__(self, module, *names: str, fault: Exception):
        self._module, self._names, self._fault = module, names, fault

    def __getattr__(self, name: str):
        return self._fail_after_three if name in self._names else getattr(self._module, name)

    def _fail_after_three(self, events, *_):
        for at, event in enumerate(events):
            if at == 3:
                raise self._fault
            yield event if self._names == ("read_stream",) else b"data: {}\n\n"


FAULTS = pytest.mark.parametrize(
    "fault", [RecursionError(), KeyError("secret"), TypeError("secret"), BadRequest("place: odd"), ValueError("secret")]
)


@FAULTS
def test_every_exception_in_translating_a_whole_reply_becomes_an_upstream_error(fault):
    def fail(*_):
        raise fault

    translation = prepare(CHAT, CLAUDE, hello(CHAT))
    body = sample(CLAUDE, "reply.json")
    for failing in (
        replace(translation, upstream_codec=translation.upstream_codec._replace(read_reply=fail)),
        replace(translation, client_codec=translation.client_codec._replace(write_reply=fail)),
        replace(
            translation,
            put_state=fail,
            upstream_codec=translation.upstream_codec._replace(read_reply=lambda *_: SEALED),
        ),
    ):
        with pytest.raises(UpstreamError) as failed:
            translate.translate_reply(failing, body, context(failing))
        assert "cannot be translated: " in failed.value.message
        assert "secret" not in failed.value.message
        assert error_of(failed)[:2] == (502, "upstream_error")


SEALED = hub.Reply(
    "r", "m", (hub.Answer((hub.ToolCall("a", "f", "{}", signature=hub.Signature("main/anthropic", "S")),), "tools"),)
)


@FAULTS
@pytest.mark.parametrize("side", ["read_stream", "write_stream"])
@pytest.mark.parametrize("client", [CHAT, RESPONSES, GEMINI])
def test_every_exception_in_translating_a_stream_becomes_an_error_event(client, side, fault):
    exchange, settlement, disconnects = Exchange(sample(CLAUDE, "text.sse")), Settlement(), []
    translation = prepare(client, CLAUDE, hello(client), STREAM)
    ends = {"read_stream": "upstream", "write_stream": "client"}
    failing = replace(translation, **{ends[side]: FailingProtocol(getattr(translation, ends[side]), side, fault=fault)})
    call = StreamedCall(exchange, settlement, Watch(), "req_1", False, 0.0, lambda: disconnects.append(1))
    stream = translated_stream.TranslatedStream(call, failing, request_head(), context(translation))
    body = b"".join(stream.frames())
    stream.close()
    assert b"cannot be translated: " in body
    assert b"secret" not in body
    assert disconnects == []
    assert {how for how, *_ in settlement.ends} == {"failed"}


@FAULTS
def test_every_exception_in_a_stream_read_as_a_whole_reply_becomes_an_upstream_error(fault):
    exchange, settlement = Exchange(sample(CLAUDE, "text.sse")), Settlement()
    translation = prepare(CHAT, CLAUDE, hello(CHAT), GENERATE, upstream_operation=STREAM)
    failing = replace(translation, upstream=FailingProtocol(translation.upstream, "read_stream", fault=fault))
    call = StreamedCall(exchange, settlement, Watch(), "req_1", False, 0.0, lambda: None)
    stream = translated_stream.TranslatedStream(call, failing, request_head(), context(translation))
    with pytest.raises(UpstreamError) as failed:
        translate.fold_stream(failing, stream.events(), context(translation), stream.losses)
    assert "cannot be translated: " in failed.value.message
    assert "secret" not in failed.value.message
    assert {how for how, *_ in settlement.ends} == {"failed"}


def test_a_disconnect_in_the_middle_of_a_stream_is_not_an_error():
    found = Stream(CHAT, CLAUDE, Exchange(sample(CLAUDE, "cut.sse"), end=ClientDisconnected()))
    body = found.all()
    assert b"error" not in body
    assert [end[0] for end in found.settlement.ends] == ["disconnected"]


def test_the_context_of_a_reply_contains_only_what_it_needs():
    translation = prepare(RESPONSES, CLAUDE, hello(RESPONSES, instructions="be brief", temperature=0.5))
    found = context(translation)
    assert (found.name, found.provider, found.request_id) == ("requested", "main/anthropic", "req_1")
    assert found.wants_usage
    assert found.request.turns == ()
    assert "input" not in found.body
    assert found.body["temperature"] == 0.5
    assert found.created > 1_700_000_000


@pytest.mark.parametrize(("depth", "is_translated"), [(200, True), (400, False), (900, False)])
def test_a_field_nested_too_deeply_is_refused_by_name(depth, is_translated):
    deep = json.loads('{"a":' * depth + "1" + "}" * depth)
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": deep}
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": [call]}]
    body = json.dumps({"model": "m", "max_tokens": 5, "messages": messages}).encode()
    if is_translated:
        assert body.count(b'{"a"') == prepare(CLAUDE, GEMINI, body).body.count(b'{"a"')
    else:
        with pytest.raises(BadRequest, match="messages: nested too deeply"):
            prepare(CLAUDE, GEMINI, body)
