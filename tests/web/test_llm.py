"""The LLM routes: which call each path and method makes, its response on the wire, and what is freed at every end."""

import socket
from contextlib import closing
from dataclasses import replace
from io import BytesIO

import gevent
import orjson
import pytest

from gproxy import protocols
from gproxy.metrics.definitions import ERRORS
from gproxy.web import llm, request_input
from tests.site import KEY, Site, shared_app
from tests.vendor import dumps, events, refuses, streams, whole
from tests.worker import COST

LOADED = protocols.load()
CHAT = "/v1/chat/completions"
HELLO = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
AUTH = {"Authorization": f"Bearer {KEY}"}


def post(site: Site, path: str = CHAT, body=HELLO, headers=AUTH, **more):
    data = body if isinstance(body, bytes) else dumps(body)
    return site.client.post(path, data=data, headers=headers, **more)


def in_flight(site: Site) -> tuple[int, int]:
    capacity = site.worker.running.capacity
    return capacity.requests, capacity.body_bytes


def counted_errors(site: Site) -> dict[tuple, float]:
    totals = site.worker.mmap_values.totals().values
    return {labels: found[0] for (name, labels, _), found in totals.items() if name == ERRORS.name}


# -- the routes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/p1"])
@pytest.mark.parametrize("version", ["v1", "v1beta"])
@pytest.mark.parametrize("name", [name for name in LOADED if name != "gemini"])
def test_every_operation_has_a_route_in_every_version_and_scope(prefix, version, name):
    for route, operation in LOADED[name].ROUTES.items():
        found = llm.call_fields(shared_app(), f"{prefix}/{version}/{route}", "")
        assert found == {"protocol": name, "operation": operation, "provider": prefix.strip("/") or None}


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("/v1beta/models/m:generateContent", "", ("generate_content", "m", False, None)),
        ("/v1beta/models/m:streamGenerateContent", "alt=sse", ("stream_generate_content", "m", False, None)),
        ("/v1beta/models/m:streamGenerateContent", "ALT=SSE&a=1", ("stream_generate_content", "m", False, None)),
        ("/v1beta/models/m:streamGenerateContent", "alt=json", ("stream_generate_content", "m", True, None)),
        ("/v1/models/org/m:v2:countTokens", "", ("count_tokens", "org/m:v2", False, None)),
        ("/p1/v1beta/models/m:embedContent", "", ("embeddings", "m", False, "p1")),
        ("/v1beta/org/m:generateContent", "", ("generate_content", "org/m", False, None)),
        ("v1beta/models/m%3Aone:generateContent/", "", ("generate_content", "m:one", False, None)),
    ],
)
def test_the_path_of_gemini_names_model_and_action(path, query, expected):
    found = llm.call_fields(shared_app(), path, query)
    assert found.pop("protocol") == "gemini"
    assert tuple(found[name] for name in ("operation", "model", "as_array", "provider")) == expected


@pytest.mark.parametrize(
    "path",
    ["/v1/models/m:think", "/v1/models/:generateContent", "/v1/models/m", "/v1/files", "/v1/nothing", "/login", "/"],
)
def test_another_path_makes_no_call(path):
    assert llm.call_fields(shared_app(), path, "") is None


@pytest.mark.parametrize("path", ["/v1/models/m:think", "/v1beta/models/:generateContent"])
def test_an_unknown_action_is_not_found(site, path):
    reply = post(site, path)
    assert (reply.status_code, reply.json["error"]["status"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("path", [CHAT, "/p1/v1/messages", "/v1beta/models/m:generateContent", "/v1/files"])
def test_a_preflight_needs_no_key(site, path):
    reply = site.client.options(path)
    assert (reply.status_code, reply.data) == (204, b"")
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "Authorization" in reply.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize(
    ("path", "method"), [(route, methods[0]) for route, methods, _ in llm.NOT_IMPLEMENTED if "file" not in route]
)
def test_a_route_of_this_version_that_is_not_implemented_answers_501(site, path, method):
    path = "/v1/" + path.replace("<response_id>", "resp_1")
    reply = site.client.open(path, method=method, headers=AUTH)
    assert (reply.status_code, reply.headers["x-should-retry"]) == (501, "false")
    assert path in reply.json["error"]["message"]
    assert site.client.open(path, method=method).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), (AUTH, 501), ({**AUTH, "X-Provider": "p2"}, 403), ({"X-Provider": "p1"}, 401)]
)
@pytest.mark.parametrize("version", [None, "2023-06-01"])
def test_files_need_a_key_and_a_permission(site, headers, status, version):
    site.serve("openai_chat", "openai_chat")
    site.configure(caller=replace(site.worker.caller, files=frozenset((1,))))
    sent = headers if version is None else {**headers, "anthropic-version": version}
    reply = site.client.get("/v1/files", headers=sent)
    assert reply.status_code == status
    assert (reply.json.get("type") == "error") is (version is not None)


# -- a call --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("openai_chat", CHAT, HELLO),
        ("openai_responses", "/v1/responses", {"model": "a", "input": "hi"}),
        ("anthropic", "/v1/messages", HELLO),
        ("gemini", "/v1beta/models/a:generateContent", {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}),
    ],
)
def test_a_whole_reply_is_returned_with_its_headers(site, name, path, body):
    site.serve(name)
    with closing(post(site, path, body, {**AUTH, "X-Request-Id": "mine"})) as reply:
        assert (reply.status_code, orjson.loads(reply.data)) == (200, whole(name, "a"))
        assert reply.headers["Content-Length"] == str(len(reply.data))
        assert {reply.headers[one] for one in LOADED[name].REQUEST_ID_HEADERS} == {"mine"}
        assert (reply.headers["Access-Control-Allow-Origin"], reply.headers["x-gproxy-provider"]) == ("*", "p1")
    assert (in_flight(site), site.worker.account()) == ((0, 0), (COST, 0))
    assert [entry["rq"] for entry in site.worker.entries() if "o" in entry] == ["mine"]


def test_a_stream_is_returned_piece_by_piece_and_frees_everything_at_its_end(site):
    site.serve("openai_chat")
    with closing(post(site, body={**HELLO, "stream": True, "stream_options": {"include_usage": True}})) as reply:
        assert in_flight(site)[0] == 1
        assert b"".join(reply.response) == b"".join(events("openai_chat", "a"))
        assert "Content-Length" not in reply.headers
    assert (in_flight(site), site.worker.account()) == ((0, 0), (COST, 0))


def test_a_stream_that_is_closed_early_is_settled_and_frees_everything(site, vendor):
    site.serve("openai_chat")
    vendor.scripts["m1"] = streams(4, "hang")
    reply = post(site, body={**HELLO, "stream": True})
    next(iter(reply.response))
    reply.close()
    reply.close()
    (entry,) = site.worker.settled()
    assert (entry["x"], entry["st"], in_flight(site)) == ("partial", 499, (0, 0))


def test_a_response_that_is_never_read_frees_everything_too(site):
    site.serve("openai_chat")
    for stream in (False, True):
        post(site, body={**HELLO, "stream": stream}).close()
    assert (in_flight(site), len(site.worker.settled())) == ((0, 0), 2)


def test_a_large_reply_is_written_in_pieces(site, vendor, monkeypatch):
    monkeypatch.setattr(llm, "PIECE_BYTES", 64)
    site.serve("openai_chat")
    with closing(post(site)) as reply:
        pieces = list(reply.response)
    assert b"".join(pieces) == dumps(whole("openai_chat", "a"))
    assert {len(one) for one in pieces[:-1]} == {64}


def test_the_headers_and_the_query_reach_the_upstream_as_allowed(site, vendor):
    site.serve("openai_chat", forward_headers=("x-team",))
    headers = {**AUTH, "X-Team": "blue", "OpenAI-Beta": "b", "Cookie": "c", "X-Other": "o"}
    post(site, f"{CHAT}?api-version=7&key=other", headers=headers).close()
    (seen,) = vendor.received("m1")
    assert (seen.headers["x-team"], seen.headers["openai-beta"], seen.query) == ("blue", "b", "api-version=7")
    assert not {"cookie", "x-other"} & seen.headers.keys()
    assert KEY not in str(seen)


@pytest.mark.parametrize("place", ["Authorization", "x-api-key", "x-goog-api-key", "query"])
def test_a_key_is_accepted_in_every_place(site, place):
    site.serve("openai_chat")
    path = f"{CHAT}?key={KEY}" if place == "query" else CHAT
    headers = {} if place == "query" else {place: f"Bearer {KEY}" if place == "Authorization" else KEY}
    with closing(post(site, path, headers=headers)) as reply:
        assert reply.status_code == 200


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (CHAT, lambda found: found["error"]["code"]),
        ("/v1/responses", lambda found: found["error"]["code"]),
        ("/v1/messages", lambda found: found["error"]["code"]),
        ("/v1beta/models/a:generateContent", lambda found: found["error"]["details"][0]["reason"]),
    ],
)
@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (HELLO, {}, 401, "unauthorized"),
        (HELLO, {"Authorization": "Bearer sk-wrong"}, 401, "unauthorized"),
        (b"{", AUTH, 400, "invalid_request"),
        (b"", AUTH, 400, "invalid_request"),
        (b"[]", AUTH, 400, "invalid_request"),
        (b"x" * 2000, AUTH, 413, "too_large"),
        (HELLO, {**AUTH, "Content-Encoding": "gzip"}, 400, "invalid_request"),
    ],
    ids=["no key", "wrong key", "bad JSON", "empty", "list", "too large", "compressed"],
)
def test_a_refused_call_has_its_error_in_the_clients_protocol(site, path, field, body, headers, status, code):
    site.serve("openai_chat")
    site.configure(max_body=1000)
    reply = post(site, path, body, headers)
    assert (reply.status_code, field(reply.json)) == (status, code)
    assert (reply.headers["Access-Control-Allow-Origin"], in_flight(site)) == ("*", (0, 0))
    assert (site.worker.entries(), sum(counted_errors(site).values())) == ([], 1)


def test_a_worker_without_room_refuses_and_recovers(site):
    site.serve("openai_chat")
    opened = [site.worker.running.open(None) for _ in range(10)]
    reply = post(site)
    assert (reply.status_code, reply.json["error"]["code"], reply.headers["Retry-After"]) == (503, "overloaded", "1")
    site.worker.running.close(*opened.pop())
    post(site).close()
    for one in opened:
        site.worker.running.close(*one)
    assert in_flight(site) == (0, 0)


def test_an_upstreams_error_is_returned_and_frees_everything(site, vendor):
    site.serve("openai_chat")
    vendor.scripts["m1"] = refuses(422, "no such tool")
    with closing(post(site)) as reply:
        assert (reply.status_code, "no such tool" in reply.text) == (422, True)
    assert (in_flight(site), site.worker.account(), counted_errors(site)) == ((0, 0), (0, 0), {})


def test_an_unexpected_exception_shows_only_the_request_id(site, monkeypatch, caplog):
    site.serve("openai_chat")
    monkeypatch.setattr(type(site.worker.relay.planner), "plan", _broken)
    reply = post(site, headers={**AUTH, "X-Request-Id": "mine"})
    assert (reply.status_code, reply.json["error"]["message"]) == (500, "internal: request mine")
    assert "ZeroDivisionError" in caplog.text and "request mine failed" in caplog.text
    assert (in_flight(site), sum(counted_errors(site).values())) == ((0, 0), 1)


def _broken(*_):
    raise ZeroDivisionError("sk-secret")


def test_a_refused_body_is_read_before_the_connection_closes(site):
    sent = BytesIO(b"x" * 5000)
    site.client.post(CHAT, input_stream=sent, content_length=5000, headers={"Connection": "close"})
    assert sent.tell() == 5000


# -- the client's socket -------------------------------------------------------------------------------------------


class Socket:
    """A client's socket that notes its write timeouts."""

    def __init__(self, sock: socket.socket):
        self._sock, self.timeouts = sock, []

    def settimeout(self, seconds: float | None) -> None:
        self.timeouts.append(seconds)


def test_the_write_timeout_holds_while_the_response_is_written(site):
    site.serve("openai_chat", write_timeout_s=7)
    client, accepted = socket.socketpair()
    with client, accepted:
        sock = Socket(accepted)
        with closing(post(site, environ_base={"gunicorn.socket": sock})) as reply:
            assert sock.timeouts == [7]
            b"".join(reply.response)
        assert sock.timeouts == [7, None]


def test_a_client_that_left_before_its_call_was_sent_gets_no_body(site):
    site.serve("openai_chat")
    client, accepted = socket.socketpair()
    client.close()
    worker, left = site.worker, []

    def send(provider_id: int, credential_id: int, request, send):
        gevent.sleep(0.005)
        left.append(provider_id)
        return send()

    environ = {
        "gunicorn.socket": Socket(accepted),
        request_input.ATTEMPT_LOG: type("Log", (), {"send": staticmethod(send)}),
    }
    with accepted:
        reply = post(site, environ_base=environ)
    assert (reply.status_code, reply.data, left) == (499, b"", [1])
    assert ([entry["st"] for entry in worker.settled()], in_flight(site)) == ([499], (0, 0))
    assert worker.running.client_disconnects == 1


def test_the_logs_learn_caller_call_and_request_id(site):
    site.serve("openai_chat")
    environ: dict = {}

    def capture(app_environ, start_response):
        response = site.app(app_environ, start_response)
        environ.update(app_environ)
        return response

    from werkzeug.test import Client

    Client(capture).post(CHAT, data=dumps(HELLO), headers={**AUTH, "X-Request-Id": "mine"}).close()
    summary = environ[request_input.SUMMARY]
    assert (environ[request_input.REQUEST_ID], environ[request_input.CALLER].user_name) == ("mine", "ann")
    assert (summary.provider, summary.model, summary.requested_model) == ("p1", "m1", "a")
    assert (summary.outcome, summary.cost, summary.error) == ("complete", COST, None)
