"""Each vendor's SDK raises on error events of its vendor and of gproxy, as the table in docs/translation.md states."""

import http.server
import threading

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors

from gproxy import protocols
from tests.sampled import sample
from tests.translation_table import DOCUMENT, TITLES

LOADED = protocols.load()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(self.server.stream)))
        self.end_headers()
        self.wfile.write(self.server.stream)

    def log_message(self, *args) -> None:
        """Logs nothing."""


@pytest.fixture(scope="module")
def events_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def consume(events_server, protocol: str, stream: bytes) -> list:
    """Returns all events that the protocol's SDK yields for this stream."""
    events_server.stream = stream
    url = f"http://127.0.0.1:{events_server.server_address[1]}"
    match protocol:
        case "openai_chat":
            with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
                with client.chat.completions.stream(model="m", messages=[]) as events:
                    return list(events)
        case "openai_responses":
            with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
                with client.responses.stream(model="m", input="x") as events:
                    return list(events)
        case "anthropic":
            with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client:
                with client.messages.stream(model="m", max_tokens=9, messages=[]) as events:
                    return list(events)
    with genai.Client(api_key="k", http_options={"base_url": url}) as client:
        return list(client.models.generate_content_stream(model="m", contents="x"))


RAISED = {
    "openai_chat": openai.APIError,
    "openai_responses": openai.APIError,
    "anthropic": anthropic.APIStatusError,
    "gemini": genai_errors.APIError,
}
EACH = pytest.mark.parametrize("protocol", RAISED)


@EACH
def test_an_error_event_of_the_vendor_raises(events_server, protocol):
    with pytest.raises(RAISED[protocol]):
        consume(events_server, protocol, sample(protocol, "error.sse"))


@EACH
def test_the_document_names_the_raised_exception(protocol):
    module = "google.genai.errors" if protocol == "gemini" else RAISED[protocol].__module__.split(".")[0]
    rows = [
        row for row in DOCUMENT.read_text().splitlines() if row.endswith(f"| `{module}.{RAISED[protocol].__name__}` |")
    ]
    assert any(row.startswith(f"| {TITLES[protocol]} |") for row in rows)


@EACH
def test_an_error_event_of_gproxy_raises_the_same_exception(events_server, protocol):
    event = LOADED[protocol].error_event(502, "upstream_error", "broken in two", "req_1")
    with pytest.raises(RAISED[protocol], match="broken in two"):
        consume(events_server, protocol, sample(protocol, "cut.sse") + event)


@EACH
def test_a_stream_that_ends_early_without_an_error_event_looks_complete(events_server, protocol):
    """Therefore gproxy always ends a cut stream with an error event."""
    assert consume(events_server, protocol, sample(protocol, "cut.sse"))


def test_a_failed_response_is_an_event_of_the_sdk(events_server):
    events = consume(events_server, "openai_responses", sample("openai_responses", "failed.sse"))
    assert events[-1].type == "response.failed"
