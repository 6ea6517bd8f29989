"""A call between two protocols: what is sent, what it lost, and what its reply becomes."""

import base64
import json
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest

from gproxy import channels, protocols
from gproxy.channels.kind import COUNT, EMBED, EMBED_BATCH, GENERATE, STREAM
from gproxy.errors import BadRequest, ClientDisconnected, OverQuota, UpstreamError, UpstreamTimeout
from gproxy.protocols.hub import Answer, Reply, Signature, ToolCall
from gproxy.protocols.signatures import wrap
from gproxy.relay import translated_stream
from gproxy.relay.passthrough_stream import NO_END
from gproxy.snapshot import Dispatch, Provider, ProviderSettings
from gproxy.translation import translate
from gproxy.upstream.images import Fetched
from tests.sampled import asking, documents, payloads, sample

KINDS = channels.load()
PROTOCOLS = protocols.load()
CHAT, RESPONSES, CLAUDE, GEMINI = "openai_chat", "openai_responses", "anthropic", "gemini"
# A channel that speaks it, and a model there.
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


class Kept(dict):
    """Keepsakes of one process."""

    def put(self, user: int, call_id: str, value: bytes) -> bool:
        self[user, call_id] = value
        return True

    def find(self, user: int, call_id: str) -> bytes | None:
        return self.get((user, call_id))


def hello(client: str, **more) -> dict:
    return {
        CHAT: {"model": "asked", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 99},
        RESPONSES: {"model": "asked", "input": "Hi", "max_output_tokens": 99},
        CLAUDE: {"model": "asked", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]},
        GEMINI: {"contents": [{"parts": [{"text": "Hi"}]}], "generationConfig": {"maxOutputTokens": 99}},
    }[client] | more


def plan(client: str, upstream: str, body, operation=GENERATE, far=None, kept=None, user=1, **settings):
    channel, model = HOMES[upstream]
    found = Provider(1, "main", channel, ProviderSettings(**settings), ())
    way = Dispatch("transform", far or operation, upstream)
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    kept = Kept() if kept is None else kept
    return translate.plan(
        PROTOCOLS[client], PROTOCOLS[upstream], operation, way, KINDS[channel], found, model, sent, kept, user
    )


def context(made):
    return made.context("asked", "req_1", True)


# -- requests ------------------------------------------------------------------------------------------------------


@PAIRS
@pytest.mark.parametrize("operation", [GENERATE, STREAM])
def test_a_plain_request_crosses_without_loss(client, upstream, operation):
    body = hello(client)
    made = plan(client, upstream, body, operation)
    sent = json.loads(made.body)
    assert made.losses == ()
    assert made.urls == ()
    assert made.label == f"{client}->{upstream}"
    assert "Hi" in json.dumps(sent)
    assert "99" in json.dumps(sent)
    if upstream == GEMINI:  # model and stream are told by the path
        assert not {"model", "stream"} & sent.keys()
    else:
        assert sent["model"] == HOMES[upstream][1]
        assert sent.get("stream", False) is (operation == STREAM)


@PAIRS
@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b"", b'{"messages": 7, "input": 7, "contents": 7}'])
def test_what_cannot_be_read_is_a_bad_request(client, upstream, body):
    with pytest.raises(BadRequest):
        plan(client, upstream, body)


def test_a_whole_reply_may_be_made_of_a_stream():
    made = plan(CLAUDE, RESPONSES, hello(CLAUDE), GENERATE, far=STREAM)
    assert json.loads(made.body)["stream"] is True


@pytest.mark.parametrize(
    ("client", "upstream", "more", "told"),
    [
        (CHAT, CLAUDE, {"seed": 7, "x_novel": 1}, ("seed", "x_novel")),
        (RESPONSES, CLAUDE, {"truncation": "auto"}, ("truncation",)),
        (CLAUDE, CHAT, {"top_k": 5}, ("top_k",)),
        (CHAT, GEMINI, {"user": "u-1"}, ("user",)),
        (GEMINI, CLAUDE, {"safetySettings": [{}]}, ("safetySettings",)),
    ],
)
def test_what_is_lost_is_told_by_its_name_or_refused_where_the_operator_says_so(client, upstream, more, told):
    assert plan(client, upstream, hello(client, **more)).losses == told
    with pytest.raises(BadRequest) as refused:
        plan(client, upstream, hello(client, **more), strict_translation=True)
    assert f"{', '.join(told)}: cannot be said to {upstream} as it was meant" in refused.value.message
    assert "strict_translation" in refused.value.message
    assert plan(client, upstream, hello(client), strict_translation=True).losses == ()


def test_a_count_and_embeddings_cross_too():
    counted = plan(GEMINI, CLAUDE, hello(GEMINI), COUNT)
    assert json.loads(counted.body).keys() == {"model", "messages"}
    embedded = plan(CHAT, GEMINI, {"model": "asked", "input": ["a", "b"]}, EMBED, far=EMBED_BATCH)
    assert len(json.loads(embedded.body)["requests"]) == 2
    assert embedded.puts is None
    body, losses = translate.whole(embedded, b'{"embeddings": [{"values": [0.5]}, {"values": [1]}]}', context(embedded))
    assert [row["embedding"] for row in json.loads(body)["data"]] == [[0.5], [1]]
    assert losses == ()
    with pytest.raises(BadRequest, match="token arrays"):
        plan(CHAT, GEMINI, {"model": "asked", "input": [1, 2]}, EMBED, far=EMBED_BATCH)


def test_a_target_knows_its_model_and_its_channel():
    made = plan(CHAT, CLAUDE, hello(CHAT), STREAM)
    target = made.target
    assert (target.provider, target.model, target.is_stream) == ("main/anthropic", "claude-sonnet-4-5", True)
    assert (target.max_output, target.budgets) == (64_000, True)
    assert "one_of_temperature_and_top_p" in target.traits
    nvidia = plan(CLAUDE, CHAT, hello(CLAUDE)).target
    assert nvidia.traits == KINDS["nvidia"].traits
    assert nvidia.refused == KINDS["nvidia"].refused
    assert not nvidia.is_stream


# -- files behind addresses ----------------------------------------------------------------------------------------


def image(client: str, url: str) -> dict:
    shown = {
        CHAT: {"type": "image_url", "image_url": {"url": url}},
        RESPONSES: {"type": "input_image", "image_url": url},
        CLAUDE: {"type": "image", "source": {"type": "url", "url": url}},
        GEMINI: {"fileData": {"fileUri": url, "mimeType": "image/png"}},
    }[client]
    if client == GEMINI:
        return hello(client, contents=[{"parts": [shown]}])
    turn = [{"role": "user", "content": [shown]}]
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
        # what Google can open itself
        (CHAT, GEMINI, "gs://bucket/a.png", True),
        (CHAT, GEMINI, "https://generativelanguage.googleapis.com/v1beta/files/a", True),
        (CHAT, GEMINI, "https://youtu.be/x", True),
        (CHAT, GEMINI, "https://youtu.be.example.com/x", False),
        (CHAT, GEMINI, f"data:image/png;base64,{PNG}", True),
    ],
)
def test_which_addresses_an_upstream_opens(client, upstream, url, opens):
    if opens:
        made = plan(client, upstream, image(client, url))
        assert made.urls == ()
        assert (PNG if url.startswith("data:") else url) in made.body.decode()
    else:
        with pytest.raises(BadRequest, match="fetch_images") as refused:
            plan(client, upstream, image(client, url))
        assert refused.value.message.startswith(f"invalid_request: {PROTOCOLS[client].NAMES['image']}: ")
        assert url not in refused.value.message
        made = plan(client, upstream, image(client, url), fetch_images=True)
        assert (made.urls, made.body) == ((url,), b"")


def test_a_file_behind_an_address_is_no_image_of_chat():
    document = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    body = hello(CLAUDE, messages=[{"role": "user", "content": [document]}])
    assert plan(CLAUDE, CHAT, body, fetch_images=True).urls == ("https://example.com/a.pdf",)
    assert plan(CLAUDE, RESPONSES, body, fetch_images=True).urls == ()


class Fetcher:
    """Files by their addresses."""

    def __init__(self, **found: Fetched):
        self.found, self.asked = found, []

    def fetch(self, url: str, watch) -> Fetched:
        self.asked.append(url)
        with watch:
            name = url.rpartition("/")[2]
            if name not in self.found:
                raise BadRequest("image_url: the host answered 404")
            return self.found[name]


def with_images(*urls: str) -> dict:
    """In a user's turn, and one more in the result of a call."""
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


def test_each_address_is_fetched_once_and_its_data_sent():
    made = plan(CLAUDE, GEMINI, with_images(f"{URL}/one", f"{URL}/two", f"{URL}/one"), fetch_images=True)
    assert made.urls == (f"{URL}/one", f"{URL}/two")
    one, two = Fetched("image/png", b"\x89PNG"), Fetched("application/pdf", b"%PDF")
    fetcher = Fetcher(one=one, two=two)
    fetched = translate.fetch(made, fetcher, nullcontext())
    assert fetcher.asked == [f"{URL}/one", f"{URL}/two"]
    assert fetched.urls == ()
    assert made.urls
    sent = json.loads(translate.written(fetched, False).body)
    inline = [part["inlineData"] for turn in sent["contents"] for part in turn["parts"] if "inlineData" in part]
    png = {"mimeType": "image/png", "data": PNG}
    pdf = {"mimeType": "application/pdf", "data": base64.b64encode(b"%PDF").decode()}
    assert inline == [png, pdf, png, png]
    assert URL not in json.dumps(sent)


@pytest.mark.parametrize("client", [CHAT, RESPONSES, CLAUDE])
def test_a_file_that_cannot_be_had_is_named_by_the_clients_field(client):
    made = plan(client, GEMINI, image(client, URL), fetch_images=True)
    with pytest.raises(BadRequest) as refused:
        translate.fetch(made, Fetcher(), nullcontext())
    name = PROTOCOLS[client].NAMES["image"]
    assert refused.value.message == f"invalid_request: {name}: the host answered 404"


def test_a_client_that_leaves_ends_the_fetching():
    class Gone:
        def __enter__(self):
            raise ClientDisconnected

        def __exit__(self, *_):
            pass

    made = plan(CHAT, GEMINI, image(CHAT, URL), fetch_images=True)
    with pytest.raises(ClientDisconnected):
        translate.fetch(made, Fetcher(), Gone())


def test_so_many_addresses_and_no_more_are_opened_for_one_request():
    urls = [f"{URL}/{i}" for i in range(translate.MAX_URLS + 1)]
    few = [urls[0], *urls[: translate.MAX_URLS - 2]]  # and one in the result of a call
    assert len(plan(CLAUDE, GEMINI, with_images(*few), fetch_images=True).urls) == translate.MAX_URLS - 2
    for fetches in (True, False):
        with pytest.raises(BadRequest) as refused:
            plan(CLAUDE, GEMINI, with_images(*urls), fetch_images=fetches)
        assert refused.value.message.startswith("invalid_request: messages.content.image: more than 20 addresses")
    # an upstream that opens them itself may be sent any number
    assert plan(CLAUDE, CHAT, with_images(*urls)).urls == ()


def test_all_files_of_a_request_together_are_no_larger_than_that(monkeypatch):
    assert translate.MAX_FETCHED_BYTES == 50 * 1024 * 1024
    monkeypatch.setattr(translate, "MAX_FETCHED_BYTES", 12)
    made = plan(CLAUDE, GEMINI, with_images(f"{URL}/one", f"{URL}/two", f"{URL}/three"), fetch_images=True)
    six, seven = Fetched("image/png", b"123456"), Fetched("image/png", b"1234567")
    fetcher = Fetcher(one=six, two=seven, three=six)
    with pytest.raises(BadRequest, match=r"messages\.content\.image: more than 12 bytes in all"):
        translate.fetch(made, fetcher, nullcontext())
    assert fetcher.asked == [f"{URL}/one", f"{URL}/two"]  # the third one is not even asked for
    few = plan(CLAUDE, GEMINI, with_images(f"{URL}/one", f"{URL}/two"), fetch_images=True)
    assert translate.fetch(few, Fetcher(one=six, two=six), nullcontext()).urls == ()


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
def test_a_body_that_is_no_json_stays_readable(body, text):
    told = translate.readable(502, body)
    assert told.startswith("the upstream answered 502")
    assert len(told) <= 600
    if text is not None:
        assert told == f"the upstream answered 502{text}"


ERRORS = {
    CHAT: {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}},
    RESPONSES: {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}},
    CLAUDE: {"type": "error", "error": {"type": "invalid_request_error", "message": "too long"}},
    GEMINI: {"error": {"code": 400, "message": "too long", "status": "INVALID_ARGUMENT"}},
}


@PAIRS
def test_an_upstreams_error_comes_in_the_clients_shape(client, upstream):
    made = plan(client, upstream, hello(client))
    told = json.loads(translate.error_body(made, 400, json.dumps(ERRORS[upstream]).encode(), "req_1"))
    assert told["error"]["message"] == "too long"
    kind = told["error"].get("type") or told["error"]["status"]
    assert kind in ("invalid_request_error", "INVALID_ARGUMENT")
    assert "req_1" in json.dumps(told)
    if client == GEMINI:
        assert told["error"]["code"] == 400


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
def test_an_error_that_is_none_of_the_upstreams_is_told_as_text(client, upstream, body, word):
    made = plan(client, upstream, hello(client))
    told = json.loads(translate.error_body(made, 502, body, "req_1"))["error"]
    assert told["message"].startswith(word)
    assert "upstream_error" in json.dumps(told)


def test_an_error_of_gemini_may_be_an_array():
    made = plan(CHAT, GEMINI, hello(CHAT))
    body = json.dumps([ERRORS[GEMINI]]).encode()
    assert json.loads(translate.error_body(made, 400, body, "req_1"))["error"]["message"] == "too long"


# -- whole replies -------------------------------------------------------------------------------------------------

# A whole reply as one, and as the stream that its client asked for.
READS = (translate.whole, lambda *given: translated_stream.Whole(*given, False))


@PAIRS
def test_a_whole_reply_under_the_clients_model_name(client, upstream):
    made = plan(client, upstream, hello(client))
    body, _ = translate.whole(made, sample(upstream, "reply.json"), context(made))
    told = json.loads(body)
    assert told[PROTOCOLS[client].MODEL_FIELD] == "asked"
    usage, _ = PROTOCOLS[client].read_whole(body)
    before, _ = PROTOCOLS[upstream].read_whole(sample(upstream, "reply.json"))
    assert (usage.prompt_tokens, usage.output_tokens) == (before.prompt_tokens, before.output_tokens)


@PAIRS
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"7", b"[" * 100_000], ids=lambda body: body[:9])
def test_a_reply_that_is_none_is_the_upstreams_fault(client, upstream, body):
    made = plan(client, upstream, hello(client))
    with pytest.raises(UpstreamError, match="cannot be translated"):
        translate.whole(made, body, context(made))
    with pytest.raises(UpstreamError, match="cannot be translated"):
        translated_stream.Whole(made, body, context(made), False)


@PAIRS
@pytest.mark.parametrize("body", [b"{}", b'{"choices": 7, "output": 7, "content": 7, "candidates": 7, "usage": 7}'])
def test_a_reply_without_anything_in_it_is_still_one(client, upstream, body):
    made = plan(client, upstream, hello(client))
    if upstream == GEMINI:  # which says so when it has a reason to answer nothing
        for read in READS:
            with pytest.raises(UpstreamError) as failed:
                read(made, body, context(made))
            assert failed.value.message == "the upstream sent no answer"
        return
    found, _ = translate.whole(made, body, context(made))
    assert json.loads(found)[PROTOCOLS[client].MODEL_FIELD] == "asked"


@PAIRS
def test_a_reply_that_was_cut_inside_an_emoji_loses_no_more_than_that(client, upstream):
    text = {
        CHAT: {"choices": [{"index": 0, "message": {"content": "so \ud83d"}, "finish_reason": "length"}]},
        RESPONSES: {"output": [{"type": "message", "content": [{"type": "output_text", "text": "so \ud83d"}]}]},
        CLAUDE: {"content": [{"type": "text", "text": "so \ud83d"}], "stop_reason": "max_tokens"},
        GEMINI: {"candidates": [{"content": {"parts": [{"text": "so \ud83d"}]}, "finishReason": "MAX_TOKENS"}]},
    }[upstream]
    made = plan(client, upstream, hello(client))
    assert b'"so ?"' in translate.whole(made, json.dumps(text).encode(), context(made))[0]


def test_what_a_vendor_sealed_with_a_call_is_kept_by_the_id_that_its_client_sees():
    kept = Kept()
    made = plan(CHAT, GEMINI, hello(CHAT), kept=kept, user=7)
    call = {"functionCall": {"id": "c.1", "name": "f", "args": {}}, "thoughtSignature": "S"}
    reply = {"candidates": [{"content": {"parts": [call]}, "finishReason": "STOP"}]}
    body, _ = translate.whole(made, json.dumps(reply).encode(), context(made))
    shown = json.loads(body)["choices"][0]["message"]["tool_calls"][0]
    assert list(kept) == [(7, shown["id"])]
    shown = {key: value for key, value in shown.items() if key != "extra_content"}  # most clients drop it
    answered = hello(
        CHAT,
        messages=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [shown]},
            {"role": "tool", "tool_call_id": shown["id"], "content": "42"},
        ],
    )
    assert '"thoughtSignature":"S"' in plan(CHAT, GEMINI, answered, kept=kept, user=7).body.decode()
    # another user, or another vendor, is not sent it
    assert '"thoughtSignature":"S"' not in plan(CHAT, GEMINI, answered, kept=kept, user=8).body.decode()
    assert '"S"' not in plan(CHAT, CLAUDE, answered, kept=kept, user=7).body.decode()


def test_an_id_that_a_client_sees_otherwise_is_kept_as_it_will_be_asked_for():
    kept = Kept()
    made = plan(CLAUDE, GEMINI, hello(CLAUDE), kept=kept)
    call = {"functionCall": {"id": "c.1", "name": "f", "args": {}}, "thoughtSignature": "S"}
    reply = {"candidates": [{"content": {"parts": [call]}, "finishReason": "STOP"}]}
    content = json.loads(translate.whole(made, json.dumps(reply).encode(), context(made))[0])["content"]
    (shown,) = [block for block in content if block["type"] == "tool_use"]
    assert shown["id"] != "c.1"
    assert list(kept) == [(1, shown["id"])]


def test_an_envelope_that_a_client_brings_back_is_opened_for_its_own_provider_alone():
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": wrap(Signature("main/gemini", "S"))},
        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    ]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": blocks}]
    turns.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "42"}]})
    mine = plan(CLAUDE, GEMINI, hello(CLAUDE, messages=turns))
    assert '"thoughtSignature":"S"' in mine.body.decode()
    # neither another provider's, nor what this one gave over another lane
    for origin in ("second/gemini", "main/openai_chat", "main"):
        blocks[0]["signature"] = wrap(Signature(origin, "S"))
        others = plan(CLAUDE, GEMINI, hello(CLAUDE, messages=turns))
        assert '"S"' not in others.body.decode()
        assert others.losses


# -- streams -------------------------------------------------------------------------------------------------------


class Exchange:
    """What an upstream sends, piece by piece, and how it ends."""

    status, is_stream = 200, True

    def __init__(self, *pieces: bytes, end: Exception | BaseException | None = None):
        self.pieces, self.end, self.is_closed = pieces, end, False

    def chunks(self, watch):
        yield from self.pieces
        if self.end is not None:
            raise self.end

    def masked(self, data: bytes) -> bytes:
        return data

    def hurry(self, idle_s: float | None) -> None:
        """Nothing is waited for here."""

    def close(self) -> None:
        self.is_closed = True


class UsageStore:
    """How a call was settled; only the first end counts. `covers` is how much text may pass before more is asked for,
    and `answers` are what is answered then."""

    def __init__(self, covers: float = math.inf, answers: tuple[bool, ...] = ()):
        self.covered_bytes, self._answers = covers, list(answers)
        self.reservation = self
        self.ends: list[tuple] = []
        self.losses: list[str] = []
        self.saw_first = False

    @property
    def is_settled(self) -> bool:
        return bool(self.ends)

    def saw_first_byte(self, text_bytes: int = 0) -> None:
        self.saw_first = True

    def complete(self, status, usage, text_bytes):
        self.ends.append(("complete", status, usage, text_bytes))

    def broke(self, status, usage, text_bytes):
        self.ends.append(("broke", status, usage, text_bytes))

    def client_disconnected(self, usage, text_bytes, is_whole=False):
        self.ends.append(("left", usage, text_bytes))

    def overruns(self, usage, text_bytes) -> bool:
        assert text_bytes > self.covered_bytes
        self.covered_bytes = text_bytes
        return self._answers.pop(0)

    def ended(self) -> OverQuota:
        return OverQuota("the quota is spent")


class Watch:
    is_closed = False

    def close(self):
        self.is_closed = True


class Stream:
    def __init__(self, client: str, upstream: str, exchange: Exchange, as_array: bool = False, books=None):
        self.books, self.exchange, self.gone, self.watch = books or UsageStore(), exchange, [], Watch()
        made = plan(client, upstream, hello(client), STREAM)
        self.stream = translated_stream.TranslatedStream(
            *(made, asking(), context(made), exchange, self.books, self.watch, as_array, lambda: self.gone.append(1))
        )

    def all(self) -> bytes:
        return b"".join(self.stream.frames())


@PAIRS
def test_a_stream_that_costs_more_than_is_left_ends_with_an_error(client, upstream):
    """Its text passes so far as it was covered; the event that went beyond does not."""
    pieces = [event + b"\n\n" for event in sample(upstream, "text.sse").strip().split(b"\n\n")]
    whole = Stream(client, upstream, Exchange(*pieces)).all()
    found = Stream(client, upstream, Exchange(*pieces), books=UsageStore(1, (False, True)))
    told = found.all()
    assert b"quota_exceeded" in told
    assert len(told) < len(whole)
    (how, status, _, size), *_ = found.books.ends
    assert (how, status) == ("broke", 402)
    assert size > 1
    ended = PROTOCOLS[client].Stream(None, asking())
    for data in payloads(told):
        ended.observe(data)
    assert ended.has_failed or not ended.is_terminal


@PAIRS
def test_a_stream_is_settled_before_its_end_is_told(client, upstream):
    found = Stream(client, upstream, Exchange(sample(upstream, "text.sse")))
    for piece in found.stream.frames():
        told = [data for data in payloads(piece) if data]
        ended = PROTOCOLS[client].Stream(None, asking())
        for data in told:
            ended.observe(data)
        assert found.books.is_settled or not ended.is_terminal
    ((how, status, usage, size),) = set(found.books.ends)
    assert (how, status) == ("complete", 200)
    assert usage.output_tokens > 0
    assert size >= 15
    assert found.books.saw_first
    found.stream.close()
    assert found.exchange.is_closed
    assert found.watch.is_closed
    assert found.gone == []


@PAIRS
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_in_other_pieces_is_the_same_stream(client, upstream, size):
    body = sample(upstream, "text.sse")
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    whole, again = (Stream(client, upstream, exchange).all() for exchange in (Exchange(body), Exchange(*pieces)))
    assert [_timeless(document) for document in documents(again)] == [_timeless(one) for one in documents(whole)]


def _timeless(document: dict) -> dict:
    """Without the second in which it was written."""
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
def test_a_stream_without_its_end_ends_in_an_error_and_is_billed_for_what_came(client, upstream, stream, end):
    found = Stream(client, upstream, Exchange(sample(upstream, stream), end=end))
    body = found.all()
    reader = PROTOCOLS[client].Stream(None, asking())
    for data in payloads(body):
        reader.observe(data)
    assert reader.has_failed
    how, *_, size = found.books.ends[0]
    assert how == "broke"
    assert size > 0


@PAIRS
def test_a_client_that_leaves_is_counted_once_and_billed(client, upstream):
    found = Stream(client, upstream, Exchange(sample(upstream, "cut.sse"), end=ClientDisconnected()))
    found.all()
    found.stream.close()
    assert [end[0] for end in found.books.ends] == ["left"]
    assert found.books.ends[0][-1] > 0
    assert found.gone == [1]
    assert found.exchange.is_closed


def test_a_stream_that_nobody_began_to_read_is_settled_all_the_same():
    found = Stream(CHAT, CLAUDE, Exchange(sample(CLAUDE, "text.sse")))
    found.stream.close()
    assert [end[0] for end in found.books.ends] == ["left"]
    assert found.gone == [1]


def test_an_upstream_that_told_its_end_and_forgot_to_close_has_not_failed():
    found = Stream(CHAT, GEMINI, Exchange(sample(GEMINI, "text.sse"), end=UpstreamTimeout("silence")))
    body = found.all()
    assert found.books.ends[0][0] == "complete"
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("upstream", [CHAT, RESPONSES, CLAUDE])
def test_a_stream_as_one_json_array(upstream):
    body = Stream(GEMINI, upstream, Exchange(sample(upstream, "text.sse")), as_array=True).all()
    chunks = json.loads(body)
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    cut = Stream(GEMINI, upstream, Exchange(sample(upstream, "cut.sse")), as_array=True).all()
    assert "error" in json.loads(cut)[-1]


@PAIRS
def test_a_whole_reply_is_made_of_a_stream(client, upstream):
    found = Stream(client, upstream, Exchange(sample(upstream, "text.sse")))
    made = plan(client, upstream, hello(client), GENERATE, far=STREAM)
    body, _ = translate.folded(made, found.stream.events(), context(made), found.stream.losses)
    usage, told = PROTOCOLS[client].read_whole(body)
    assert bytes(told[PROTOCOLS[client].MODEL_FIELD]) == b'"asked"'
    assert usage.output_tokens == found.books.ends[0][2].output_tokens
    broken = Stream(client, upstream, Exchange(sample(upstream, "cut.sse")))
    with pytest.raises(UpstreamError) as failed:
        translate.folded(made, broken.stream.events(), context(made), broken.stream.losses)
    assert failed.value.message.endswith(NO_END)
    assert broken.books.ends[0][0] == "broke"


@PAIRS
def test_a_stream_is_made_of_a_whole_reply(client, upstream):
    made = plan(client, upstream, hello(client), STREAM)
    found = translated_stream.Whole(made, sample(upstream, "reply.json"), context(made), False)
    reader = PROTOCOLS[client].Stream(None, asking())
    for data in payloads(b"".join(found.frames())):
        reader.observe(data)
    assert reader.is_terminal
    assert not reader.has_failed
    found.close()
    with pytest.raises(UpstreamError, match="cannot be translated"):
        translated_stream.Whole(made, b"<html>", context(made), False)


# -- replies that are failures, and replies that nobody expects ----------------------------------------------------


def sse_of(*events: dict) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def said_by_chat(**choice) -> dict:
    return {"id": "c", "model": "m", "choices": [{"index": 0, **choice}]}


SLOW = {"code": 429, "message": "slow down"}
MALFORMED = {
    "content": {"parts": [{"text": "so"}]},
    "finishReason": "MALFORMED_FUNCTION_CALL",
    "finishMessage": "Malformed function call: f(",
}
# the upstream, its whole reply, its stream, and what the client is told
FAILURES = {
    "chat says why": (
        CHAT,
        said_by_chat(message={"content": "so"}, finish_reason="error", error=SLOW),
        [said_by_chat(delta={"content": "so"}), said_by_chat(delta={}, finish_reason="error", error=SLOW)],
        (429, "api_error", "slow down"),
    ),
    "chat does not say why": (
        CHAT,
        said_by_chat(message={"content": "so"}, finish_reason="error"),
        [said_by_chat(delta={"content": "so"}), said_by_chat(delta={}, finish_reason="error")],
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
# A stream in which nothing was said has no end either, and that is seen first.
UNENDED = {"the upstream sent no answer": f"upstream_error: {NO_END}"}
FAILED = pytest.mark.parametrize(
    ("client", "upstream", "whole", "events", "told"),
    [(client, *row) for row in FAILURES.values() for client in HOMES if client != row[0]],
)


def told_of(failed) -> tuple[int, str, str]:
    return failed.value.status, failed.value.code, failed.value.message


@FAILED
def test_a_whole_reply_that_tells_a_failure_is_one(client, upstream, whole, events, told):
    made = plan(client, upstream, hello(client))
    for read in READS:
        with pytest.raises(UpstreamError) as failed:
            read(made, json.dumps(whole).encode(), context(made))
        assert told_of(failed) == told


@FAILED
def test_a_stream_that_tells_a_failure_ends_in_an_error(client, upstream, whole, events, told):
    for end in (b"", b"data: [DONE]\n\n"):
        found = Stream(client, upstream, Exchange(sse_of(*events) + (end if upstream == CHAT else b"")))
        body = found.all()
        found.stream.close()
        assert {how for how, *_ in found.books.ends} == {"broke"}
        assert found.gone == []
        reader = PROTOCOLS[client].Stream(None, asking())
        for data in payloads(body):
            reader.observe(data)
        assert reader.has_failed
        assert json.dumps(UNENDED.get(told[2], told[2])).encode() in body


@FAILED
def test_a_failure_inside_a_stream_that_is_made_whole_keeps_its_own_words(client, upstream, whole, events, told):
    found = Stream(client, upstream, Exchange(sse_of(*events)))
    made = plan(client, upstream, hello(client), GENERATE, far=STREAM)
    with pytest.raises(UpstreamError) as failed:
        translate.folded(made, found.stream.events(), context(made), found.stream.losses)
    assert told_of(failed) == (*told[:2], UNENDED.get(told[2], told[2]))
    assert {how for how, *_ in found.books.ends} == {"broke"}


@PAIRS
def test_an_error_event_inside_a_stream_that_is_made_whole_keeps_status_code_and_message(client, upstream):
    stream = sample(upstream, "error.sse")
    documents_ = [document.get("response", document) for document in documents(stream)]
    (told,) = [found for document in documents_ if (found := PROTOCOLS[upstream].read_error(0, document))][:1]
    found = Stream(client, upstream, Exchange(stream))
    made = plan(client, upstream, hello(client), GENERATE, far=STREAM)
    with pytest.raises(UpstreamError) as failed:
        translate.folded(made, found.stream.events(), context(made), found.stream.losses)
    assert told_of(failed) == told
    assert found.books.ends[0][0] == "broke"


@pytest.mark.parametrize("client", [CHAT, RESPONSES, CLAUDE])
def test_what_a_filter_kept_back_for_another_reason_is_filtered(client):
    reply = {"candidates": [{"content": {"parts": [{"text": "so"}]}, "finishReason": "OTHER"}]}
    made = plan(client, GEMINI, hello(client))
    body, _ = translate.whole(made, json.dumps(reply).encode(), context(made))
    word = {CHAT: '"finish_reason":"content_filter"', RESPONSES: '"reason":"content_filter"'}
    assert word.get(client, '"stop_reason":"refusal"') in body.decode()
    found = Stream(client, GEMINI, Exchange(sse_of(reply)))
    assert word.get(client, '"stop_reason":"refusal"') in found.all().decode()
    assert found.books.ends[0][0] == "complete"


def deep(levels: int) -> dict:
    found: dict = {}
    for _ in range(levels):
        found = {"a": found}
    return found


# What can be read as JSON and not be written again.
TOO_DEEP = {
    CHAT: (
        said_by_chat(message={"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": deep(600)}}]}),
        [
            said_by_chat(delta={"content": "so"}),
            said_by_chat(delta={"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": deep(600)}}]}),
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
def test_a_reply_that_cannot_be_written_is_the_upstreams_fault_and_never_a_client_that_left(client, upstream):
    whole, events = TOO_DEEP[upstream]
    made = plan(client, upstream, hello(client))
    for read in READS:
        with pytest.raises(UpstreamError) as failed:
            read(made, json.dumps(whole).encode(), context(made))
        assert "cannot be translated: " in failed.value.message
        assert told_of(failed)[:2] == (502, "upstream_error")
    check_broken(Stream(client, upstream, Exchange(sse_of(*events))), client)


def check_broken(found: Stream, client: str) -> None:
    """An error that the client's own SDK raises, and books that say the same."""
    body = found.all()
    found.stream.close()
    assert {how for how, *_ in found.books.ends} == {"broke"}
    assert found.gone == []
    reader = PROTOCOLS[client].Stream(None, asking())
    for data in payloads(body):
        reader.observe(data)
    assert reader.has_failed
    assert b"cannot be translated: " in body


class Odd:
    """A protocol that stumbles where it is told to."""

    def __init__(self, module, *names: str, fault: Exception):
        self._module, self._names, self._fault = module, names, fault

    def __getattr__(self, name: str):
        return self._stumble if name in self._names else getattr(self._module, name)

    def _stumble(self, events, *_):
        for at, event in enumerate(events):
            if at == 3:
                raise self._fault
            yield event if self._names == ("read_stream",) else b"data: {}\n\n"


FAULTS = pytest.mark.parametrize(
    "fault", [RecursionError(), KeyError("secret"), TypeError("secret"), BadRequest("place: odd"), ValueError("secret")]
)


@FAULTS
def test_no_fault_in_reading_or_writing_a_whole_reply_escapes(fault):
    def stumble(*_):
        raise fault

    made = plan(CHAT, CLAUDE, hello(CHAT))
    body = sample(CLAUDE, "reply.json")
    for odd in (
        replace(made, far=made.far._replace(read_reply=stumble)),
        replace(made, codec=made.codec._replace(write_reply=stumble)),
        replace(made, puts=stumble, far=made.far._replace(read_reply=lambda *_: SEALED)),
    ):
        with pytest.raises(UpstreamError) as failed:
            translate.whole(odd, body, context(odd))
        assert "cannot be translated: " in failed.value.message
        assert "secret" not in failed.value.message
        assert told_of(failed)[:2] == (502, "upstream_error")


SEALED = Reply("r", "m", (Answer((ToolCall("a", "f", "{}", signature=Signature("main/anthropic", "S")),), "tools"),))


@FAULTS
@pytest.mark.parametrize("side", ["read_stream", "write_stream"])
@pytest.mark.parametrize("client", [CHAT, RESPONSES, GEMINI])
def test_no_fault_in_reading_or_writing_a_stream_escapes(client, side, fault):
    exchange, books, gone = Exchange(sample(CLAUDE, "text.sse")), UsageStore(), []
    made = plan(client, CLAUDE, hello(client), STREAM)
    ends = {"read_stream": "upstream", "write_stream": "client"}
    odd = replace(made, **{ends[side]: Odd(getattr(made, ends[side]), side, fault=fault)})
    stream = translated_stream.TranslatedStream(
        odd, asking(), context(made), exchange, books, Watch(), False, lambda: gone.append(1)
    )
    body = b"".join(stream.frames())
    stream.close()
    assert b"cannot be translated: " in body
    assert b"secret" not in body
    assert gone == []
    assert {how for how, *_ in books.ends} == {"broke"}


@FAULTS
def test_nor_one_in_a_stream_that_is_made_whole(fault):
    exchange, books = Exchange(sample(CLAUDE, "text.sse")), UsageStore()
    made = plan(CHAT, CLAUDE, hello(CHAT), GENERATE, far=STREAM)
    odd = replace(made, upstream=Odd(made.upstream, "read_stream", fault=fault))
    stream = translated_stream.TranslatedStream(
        odd, asking(), context(made), exchange, books, Watch(), False, lambda: None
    )
    with pytest.raises(UpstreamError) as failed:
        translate.folded(odd, stream.events(), context(made), stream.losses)
    assert "cannot be translated: " in failed.value.message
    assert "secret" not in failed.value.message
    assert {how for how, *_ in books.ends} == {"broke"}


def test_a_client_that_leaves_in_the_middle_is_still_one_that_left():
    found = Stream(CHAT, CLAUDE, Exchange(sample(CLAUDE, "cut.sse"), end=ClientDisconnected()))
    body = found.all()
    assert b"error" not in body
    assert [end[0] for end in found.books.ends] == ["left"]


def test_the_context_of_a_reply_holds_no_more_than_it_needs():
    made = plan(RESPONSES, CLAUDE, hello(RESPONSES, instructions="be brief", temperature=0.5))
    found = context(made)
    assert (found.name, found.provider, found.request_id) == ("asked", "main/anthropic", "req_1")
    assert found.wants_usage
    assert found.request.turns == ()
    assert "input" not in found.body
    assert found.body["temperature"] == 0.5
    assert found.created > 1_700_000_000


@pytest.mark.parametrize(("depth", "is_carried"), [(200, True), (400, False), (900, False)])
def test_what_is_nested_too_deeply_for_a_translation_is_refused_by_its_name(depth, is_carried):
    deep = json.loads('{"a":' * depth + "1" + "}" * depth)
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": deep}
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": [call]}]
    body = json.dumps({"model": "m", "max_tokens": 5, "messages": said}).encode()
    if is_carried:
        assert body.count(b'{"a"') == plan(CLAUDE, GEMINI, body).body.count(b'{"a"')
    else:
        with pytest.raises(BadRequest, match="messages: nested too deeply"):
            plan(CLAUDE, GEMINI, body)
