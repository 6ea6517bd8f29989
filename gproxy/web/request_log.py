"""Logs client requests and their responses where an operator switched it on. Streams are not delayed by it."""

from collections.abc import Callable, Iterable

from gproxy.errors import Unavailable
from gproxy.request_log.recorder import DOWNSTREAM, AttemptLog, Capture, Recorder
from gproxy.request_log.redaction import REDACTED, document
from gproxy.snapshot import NO_LOGS, Logging
from gproxy.web import request_input

# Paths whose bodies are not logged at all, because they consist of secrets.
SECRET_PATHS = ("/login/", "/admin/config/")
# These must answer without waiting for the database.
HEALTH_PATHS = ("/healthz", "/readyz")
ADMIN_PATHS = ("/admin/", "/user/", "/login/", "/logout/", "/me/")


def serve_logged(serve: Callable, environ: dict, start_response: Callable, recorder: Recorder) -> Iterable[bytes]:
    """Returns the unchanged response of `serve`, and logs it if an operator switched that on."""
    try:
        wanted = recorder.log_settings_now() if environ["PATH_INFO"] in HEALTH_PATHS else recorder.log_settings()
    except Unavailable:
        wanted = NO_LOGS
    if not (wanted.upstream or wanted.downstream):
        return serve(environ, start_response)
    logged = recorder.quietly(_begin, environ, recorder, wanted)
    if logged is None:
        return serve(environ, start_response)
    return logged.wrap(serve(environ, logged.wrap_start(start_response)))


def _begin(environ: dict, recorder: Recorder, wanted: Logging) -> "_LoggedRequest | None":
    """Returns the log of this request, or None if only attempts are logged. Adds the attempt log to the environ."""
    secrets = _client_secrets(environ)
    log_id, at = recorder.next_id()
    if wanted.upstream:
        downstream_id = log_id if wanted.downstream else None
        environ[request_input.ATTEMPT_LOG] = AttemptLog(recorder, downstream_id, wanted.upstream_body, secrets)
    if not wanted.downstream:
        return None
    environ[request_input.TRACE] = log_id
    return _LoggedRequest(recorder, environ, log_id, at, secrets, wanted.downstream_body)


def _client_secrets(environ: dict) -> tuple[bytes, ...]:
    """Returns the client's key, unless it is so short that it would redact ordinary words."""
    key = request_input.key(environ, True)
    return (key.encode("utf-8", "surrogateescape"),) if key and len(key) >= 6 else ()


class _LoggedRequest:
    """One request and its response. `at`: nanoseconds since the epoch; `secrets`: redacted beside the known ones."""

    def __init__(
        self, recorder: Recorder, environ: dict, log_id: int, at: int, secrets: tuple[bytes, ...], has_body: bool
    ):
        self._recorder, self._environ, self._log_id, self._at, self._secrets = recorder, environ, log_id, at, secrets
        self._status: int | None = None
        self._headers: list[tuple[str, str]] = []
        self._request = self._response = None
        if has_body:
            maximum = recorder.max_body + recorder.redactor().margin(secrets)
            self._request, self._response = Capture(maximum), Capture(maximum)
            environ["wsgi.input"] = _Tee(environ["wsgi.input"], self._request)

    def wrap_start(self, start_response: Callable) -> Callable:
        """Returns a `start_response` that notes the status and the headers."""

        def start(status: str, headers: list, exc_info=None):
            self._status, self._headers = int(status[:3]), headers
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        return start

    def wrap(self, pieces: Iterable[bytes]) -> "_LoggedResponse":
        """Returns the same pieces. Closing it writes the log row."""
        return _LoggedResponse(pieces, self._response, lambda: self._recorder.quietly(self._write))

    def _write(self) -> None:
        environ, recorder = self._environ, self._recorder
        path = environ["PATH_INFO"].encode("latin-1", "replace").decode("utf-8", "replace")
        if f"{path}/".startswith(ADMIN_PATHS):
            recorder.log_settings()  # this request may have created secrets: reloads them for the redactor
        redactor = recorder.redactor()
        caller = environ.get(request_input.CALLER)
        recorder.put(
            (
                *(DOWNSTREAM, self._log_id, self._at),
                caller.user_id if caller is not None else None,
                caller.key_id if caller is not None else None,
                environ["REQUEST_METHOD"],
                redactor.headers(_request_headers(environ), self._secrets),
                redactor.text(path, self._secrets),
                redactor.query(environ.get("QUERY_STRING", ""), self._secrets) or None,
                self._redacted(self._request, path),
                self._status,
                redactor.headers(self._headers, self._secrets),
                self._redacted(self._response, path),
            )
        )

    def _redacted(self, capture: Capture | None, path: str) -> bytes | None:
        """Returns the beginning of a body without secrets, or None if bodies are not logged."""
        if capture is None:
            return None
        data, prefix = capture.joined(), f"{path}/"
        if data and prefix.startswith(SECRET_PATHS):
            return REDACTED.encode()
        if prefix.startswith(ADMIN_PATHS):
            data = document(data)
        return self._recorder.redactor().beginning(data, self._recorder.max_body, self._secrets, capture.is_cut)


class _LoggedResponse:
    """Passes the pieces of a response through, captures them, and calls `on_close` once when it is closed."""

    __slots__ = ("_capture", "_inner", "_on_close", "_pieces")

    def __init__(self, inner: Iterable[bytes], capture: Capture | None, on_close: Callable[[], None]):
        self._inner, self._pieces, self._capture, self._on_close = inner, iter(inner), capture, on_close

    def __iter__(self) -> "_LoggedResponse":
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        if self._capture is not None:
            self._capture.add(piece)
        return piece

    def close(self) -> None:
        try:
            close = getattr(self._inner, "close", None)
            if close is not None:
                close()
        finally:
            on_close, self._on_close = self._on_close, lambda: None
            on_close()


class _Tee:
    """Captures a request's body while it is read."""

    def __init__(self, inner, capture: Capture):
        self._inner, self._capture = inner, capture

    def read(self, *args) -> bytes:
        data = self._inner.read(*args)
        self._capture.add(data)
        return data

    def __getattr__(self, name: str):
        return getattr(self._inner, name)


def _request_headers(environ: dict) -> list[tuple[str, str]]:
    """Returns the request's headers in lower case: WSGI does not keep the original names."""
    headers = [
        (name[5:].replace("_", "-").lower(), value) for name, value in environ.items() if name.startswith("HTTP_")
    ]
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers.append((name.replace("_", "-").lower(), environ[name]))
    return headers
