"""The attempts of one call: which failures lead to the next credential or target, and what the upstream receives."""

import socket
from dataclasses import replace

import gevent
import orjson
import pytest

from gproxy.credentials.access_tokens import AccessTokens
from gproxy.errors import BadRequest, ClientDisconnected, UpstreamError, UpstreamTimeout
from gproxy.metrics.definitions import CONNECTIONS
from gproxy.snapshot import Alias, Credential, Provider, ProviderSettings, ServiceAccount, Target
from gproxy.upstream.images import FileContent
from tests.accounts import EMAIL, PEM, Endpoint
from tests.vendor import STREAM_HEAD, chunk, error, event, events, faithful, refuses, sends, streams
from tests.worker import COST

CHAT, CLAUDE = "openai_chat", "anthropic"
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
OVERLOADED = event({"type": "error", "error": {"type": "overloaded_error", "message": "too busy"}}, "error")


def one_after_another(*scripts):
    """A script that answers each request by the next of these scripts, the last of them for all further ones."""
    remaining = list(scripts)

    async def script(seen, reader, writer):
        await (remaining.pop(0) if len(remaining) > 1 else remaining[0])(seen, reader, writer)

    return script


def keys(vendor, model: str) -> list[str]:
    return [seen.headers["authorization"].removeprefix("Bearer ") for seen in vendor.received(model)]


def settled(worker) -> dict:
    (entry,) = worker.settled()
    return entry


def connections(worker) -> list[float]:
    totals = worker.mmap_values.totals().values
    return [found[0] for (name, _, _), found in totals.items() if name == CONNECTIONS.name]


def unreachable(worker) -> None:
    """Lets the first provider listen at a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    first = worker.snapshot.providers["p1"]
    moved = replace(first, settings=replace(first.settings, base_url=f"http://127.0.0.1:{port}/v1"))
    providers = worker.snapshot.providers | {"p1": moved}
    worker.snapshot = replace(
        worker.snapshot, providers=providers, provider_by_id={one.id: one for one in providers.values()}
    )


@BOTH
@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_the_next_credential_is_tried_after_a_fault(worker, vendor, stream, status):
    worker.serve(CHAT, credentials=2)
    vendor.scripts["m1"] = one_after_another(refuses(status, "no"), faithful)
    answer, data = worker.run(worker.call(stream=stream))
    assert (answer.status, b"Hello" in data) == (200, True)
    assert keys(vendor, "m1") == ["sk-1-0", "sk-1-1"]
    entry = settled(worker)
    assert (entry["a"], [one[2] for one in entry["tr"]], entry["by"][2]) == (2, [status, 200], 11)
    assert (worker.account(), connections(worker)) == ((COST, 0), [0])


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_an_error_about_the_request_is_answered_without_another_attempt(worker, vendor, status):
    worker.serve(CHAT, CHAT, credentials=2)
    vendor.scripts["m1"] = refuses(status, "no such tool")
    answer, data = worker.run(worker.call())
    assert (answer.status, orjson.loads(data)) == (status, error(CHAT, status, "no such tool"))
    assert (len(vendor.received("m1")), vendor.received("m2")) == (1, [])


@BOTH
def test_if_every_attempt_fails_the_first_response_is_answered(worker, vendor, stream):
    worker.serve(CHAT, CHAT, credentials=2)
    vendor.scripts["m1"] = one_after_another(refuses(503, "first"), refuses(500, "second"))
    vendor.scripts["m2"] = refuses(429, "third")
    answer, data = worker.run(worker.call(stream=stream))
    assert (answer.status, b"first" in data) == (503, True)
    assert dict(answer.headers)["x-gproxy-provider"] == "p1"
    entry = settled(worker)
    assert (entry["x"], entry["st"], [one[2] for one in entry["tr"]]) == ("failed", 503, [503, 500, 429, 429])
    assert (worker.account(), connections(worker)) == ((0, 0), [0, 0])


@BOTH
def test_an_unreachable_upstream_leads_to_the_next_target(worker, vendor, stream):
    worker.serve(CHAT, CLAUDE)
    unreachable(worker)
    answer, data = worker.run(worker.call(stream=stream))
    assert (answer.status, b"Hello" in data) == (200, True)
    assert [one[2] for one in settled(worker)["tr"]] == ["upstream_error", 200]


def test_without_another_target_the_error_is_raised(worker):
    worker.serve(CHAT)
    unreachable(worker)
    with pytest.raises(UpstreamError) as caught:
        worker.run(worker.call())
    assert not caught.value.was_sent
    assert (settled(worker)["x"], worker.account()) == ("failed", (0, 0))


@BOTH
@pytest.mark.parametrize("retries", [False, True])
@pytest.mark.parametrize("end", ["reset", "hang"])
def test_what_may_have_been_processed_is_repeated_only_if_the_operator_allows_it(worker, vendor, stream, retries, end):
    worker.serve(CHAT, CHAT, retry_timeouts=retries, first_byte_timeout_s=0.05)
    vendor.scripts["m1"] = sends(end)
    if retries:
        answer, _ = worker.run(worker.call(stream=stream))
        assert dict(answer.headers)["x-gproxy-provider"] == "p2"
    else:
        with pytest.raises(UpstreamTimeout if end == "hang" else UpstreamError):
            worker.run(worker.call(stream=stream))
    assert len(vendor.received("m2")) == retries
    assert (settled(worker)["a"], worker.account()[1]) == (1 + retries, 0)


def test_no_more_attempts_are_made_than_the_provider_allows(worker, vendor):
    worker.serve(CHAT, CHAT, credentials=3, max_attempts=2)
    vendor.scripts["m1"] = refuses(500, "no")
    answer, _ = worker.run(worker.call())
    assert (answer.status, settled(worker)["a"], len(vendor.received("m1"))) == (500, 2, 2)


# -- the first event of a stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        sends(STREAM_HEAD, chunk(OVERLOADED), b"0\r\n\r\n"),
        streams(1, "clean"),
        streams(1, "reset"),
        streams(0, "close"),
    ],
    ids=["error event", "end", "reset", "cut"],
)
def test_a_stream_that_fails_before_its_output_is_tried_at_the_next_target(worker, vendor, head):
    worker.serve(CLAUDE, CHAT, retry_timeouts=True)
    vendor.scripts["m1"] = head
    _, data = worker.run(worker.call(stream=True))
    assert data.endswith(b"data: [DONE]\n\n") and b"error" not in data
    assert (settled(worker)["by"][0], worker.account()) == (2, (COST, 0))
    assert connections(worker) == [0, 0]


def test_without_another_attempt_the_error_event_reaches_the_client(worker, vendor):
    worker.serve(CLAUDE)
    vendor.scripts["m1"] = sends(STREAM_HEAD, chunk(OVERLOADED), b"0\r\n\r\n")
    answer, data = worker.run(worker.call(CLAUDE, stream=True))
    assert (answer.status, data) == (200, OVERLOADED)
    assert (settled(worker)["x"], settled(worker)["a"]) == ("failed", 1)


def test_a_probed_stream_is_forwarded_whole(worker, vendor):
    worker.serve(CLAUDE, CHAT)
    _, data = worker.run(worker.call(CLAUDE, stream=True))
    assert data == b"".join(events(CLAUDE, "a"))
    assert len(vendor.received("m1")) == 1


def test_after_a_disconnect_no_further_attempt_is_made(worker, vendor):
    worker.serve(CHAT, CHAT)
    vendor.scripts["m1"] = refuses(500, "no")
    permit, watch = worker.running.open(None)
    call = worker.call(attempt_log=AttemptLog(after=lambda: watch.interrupt(ClientDisconnected())))
    with pytest.raises(ClientDisconnected):
        worker.relay.run(worker.relay.plan(call, worker.caller, worker.snapshot), call, watch)
    worker.running.close(permit, watch)
    entry = settled(worker)
    assert (entry["st"], len(vendor.received("m1")), vendor.received("m2")) == (499, 1, [])
    assert (connections(worker), worker.account()) == ([0], (entry["c"], 0))


# -- credentials, logs and files -----------------------------------------------------------------------------------


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def vertex(worker, vendor):
    """A worker with a service account, and the clock of its access tokens."""
    account = ServiceAccount("acme-1", EMAIL, f"{vendor.url}/token")
    settings = ProviderSettings(base_url=vendor.url)
    one = Provider(1, "v", "vertex", settings, (Credential(1, 1, PEM, account=account),))
    alias = Alias("a", (Target(1, "gemini-2.5-pro"),), None)
    worker.snapshot = replace(worker.snapshot, providers={"v": one}, provider_by_id={1: one}, aliases={"a": alias})
    clock, vendor.scripts["/token"] = Clock(), Endpoint()
    worker.relay.attempts.tokens = AccessTokens(worker.upstream, lambda function, *args: function(*args), clock)
    seen = len(vendor.seen)
    yield lambda: [one for one in vendor.seen[seen:] if one.path != "/token"], clock
    for name in ("/token", "gemini-2.5-pro"):
        vendor.scripts.pop(name, None)


def run_vertex(worker) -> int:
    contents = orjson.dumps({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]})
    return worker.run(worker.call("gemini", model="a", body=contents))[0].status


def test_a_revoked_access_token_is_replaced_once(worker, vendor, vertex):
    calls, clock = vertex
    assert run_vertex(worker) == 200
    clock.now += 600
    vendor.scripts["gemini-2.5-pro"] = one_after_another(refuses(401, "revoked"), faithful)
    assert run_vertex(worker) == 200
    assert [one.headers["authorization"][-6:] for one in calls()] == ["000001", "000001", "000002"]
    assert calls()[0].path.startswith("/v1beta1/projects/acme-1/locations/us-central1/publishers/google/")
    assert [entry["a"] for entry in worker.settled()] == [1, 1]
    assert connections(worker) == [0]


def test_a_new_access_token_that_is_refused_too_is_not_replaced_again(worker, vendor, vertex):
    calls, clock = vertex
    run_vertex(worker)
    clock.now += 600
    vendor.scripts["gemini-2.5-pro"] = refuses(401, "no")
    assert run_vertex(worker) == 401
    assert len(calls()) == 3
    assert (worker.settled()[-1]["x"], connections(worker)) == ("failed", [0])


class AttemptLog:
    """What is logged of the attempts of one request."""

    def __init__(self, after=lambda: None):
        self.sent, self.after = [], after

    def send(self, provider_id: int, credential_id: int, request, send):
        self.sent.append((provider_id, credential_id, request.method, request.url.rpartition("/")[2]))
        try:
            return send()
        finally:
            self.after()
            gevent.sleep(0)


def test_every_attempt_is_logged(worker, vendor):
    worker.serve(CHAT, CLAUDE)
    vendor.scripts["m1"] = refuses(500, "no")
    attempt_log = AttemptLog()
    worker.run(worker.call(attempt_log=attempt_log))
    assert attempt_log.sent == [(1, 10, "POST", "completions"), (2, 20, "POST", "messages")]


class Files:
    """Fetches every URL, or raises the error."""

    def __init__(self, error: Exception | None = None):
        self.error, self.urls = error, []

    def fetch(self, url: str, watch) -> FileContent:
        self.urls.append(url)
        if self.error is not None:
            raise self.error
        return FileContent("image/png", b"\x89PNG")


def with_image(worker, stream: bool = False):
    image = {"type": "image_url", "image_url": {"url": "https://files.test/a.png"}}
    message = {"role": "user", "content": [{"type": "text", "text": "what is it?"}, image]}
    return worker.call(body=orjson.dumps({"model": "a", "max_tokens": 50, "messages": [message], "stream": stream}))


@BOTH
def test_a_file_that_the_upstream_cannot_fetch_is_sent_to_it(worker, vendor, stream):
    worker.serve("gemini", fetch_images=True)
    files = worker.relay.attempts.images = Files()
    answer, _ = worker.run(with_image(worker, stream))
    (seen,) = vendor.received("m1")
    part = seen.json["contents"][0]["parts"][1]
    assert (answer.status, files.urls) == (200, ["https://files.test/a.png"])
    assert orjson.loads(orjson.dumps(part))["inlineData"] == {"mimeType": "image/png", "data": "iVBORw=="}


def test_a_file_that_cannot_be_fetched_refuses_the_call_before_anything_is_reserved(worker, vendor):
    worker.serve("gemini", fetch_images=True)
    worker.relay.attempts.images = Files(BadRequest("the file is too large"))
    with pytest.raises(BadRequest, match="too large"):
        worker.run(with_image(worker))
    assert (worker.entries(), vendor.received("m1"), worker.account()) == ([], [], (0, 0))


def test_a_client_that_leaves_while_its_file_is_fetched_is_noticed(worker, vendor):
    worker.serve("gemini", fetch_images=True)
    client, accepted = socket.socketpair()

    class Slow:
        def fetch(self, url: str, watch) -> FileContent:
            client.close()
            with watch:
                gevent.sleep(2)

    worker.relay.attempts.images = Slow()
    with accepted, pytest.raises(ClientDisconnected):
        worker.run(with_image(worker), accepted)
    assert (worker.entries(), vendor.received("m1")) == ([], [])


def test_a_file_of_a_later_target_is_fetched_when_its_turn_comes(worker, vendor):
    worker.serve(CHAT, "gemini", credentials=1, fetch_images=True)
    vendor.scripts["m1"] = refuses(500, "no")
    files = worker.relay.attempts.images = Files()
    answer, _ = worker.run(with_image(worker))
    assert (answer.status, len(files.urls), len(vendor.received("m2"))) == (200, 1, 1)


def test_a_later_target_without_its_file_does_not_hide_the_first_failure(worker, vendor):
    worker.serve(CHAT, "gemini", fetch_images=True)
    vendor.scripts["m1"] = refuses(500, "first")
    worker.relay.attempts.images = Files(BadRequest("the file is too large"))
    answer, data = worker.run(with_image(worker))
    assert (answer.status, b"first" in data) == (500, True)
    assert (vendor.received("m2"), worker.account()) == ([], (0, 0))


@BOTH
def test_a_channel_inside_the_gateway_needs_no_credential_and_no_connection(worker, stream):
    demo = Provider(1, "demo", "demo", ProviderSettings(), ())
    alias = Alias("a", (Target(1, "demo-1"),), None)
    worker.snapshot = replace(worker.snapshot, providers={"demo": demo}, provider_by_id={1: demo}, aliases={"a": alias})
    answer, data = worker.run(worker.call(stream=stream))
    assert (answer.status, b"gproxy" in data) == (200, True)
    assert (settled(worker)["x"], settled(worker)["a"], connections(worker)) == ("complete", 1, [])
