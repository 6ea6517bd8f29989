"""What came in and what went out, kept where an operator wants it. Nothing is held back for it."""

from collections.abc import Callable, Iterable

from gproxy.errors import Unavailable
from gproxy.request_log.recorder import DOWNSTREAM, AttemptLog, Capture, Recorder
from gproxy.request_log.redaction import REDACTED, document
from gproxy.snapshot import NO_LOGS, Logging
from gproxy.web import request_input

# Paths whose documents are secrets through and through.
SEALED = ("/login/", "/admin/config/")
# Who asks these asks whether we live, and waits for no database.
PROBES = ("/healthz", "/readyz")
ADMINISTRATIVE = ("/admin/", "/user/", "/login/", "/logout/", "/me/")


def recorded(serve: Callable, environ: dict, start_response: Callable, recorder: Recorder) -> Iterable[bytes]:
    """The answer of `serve`, as it is."""
    try:
        wanted = recorder.log_settings_now() if environ["PATH_INFO"] in PROBES else recorder.log_settings()
    except Unavailable:
        wanted = NO_LOGS
    if not (wanted.upstream or wanted.downstream):
        return serve(environ, start_response)
    logged = recorder.quietly(_opened, environ, recorder, wanted)
    if logged is None:
        return serve(environ, start_response)
    return logged.passed(serve(environ, logged.starting(start_response)))


def _opened(environ: dict, recorder: Recorder, wanted: Logging) -> "_LoggedRequest | None":
    """The envelope of a request where it is kept, and in its environ what keeps its attempts where these are."""
    own = _own(environ)
    number, at = recorder.next_id()
    if wanted.upstream:
        downstream = number if wanted.downstream else None
        environ[request_input.ATTEMPT_LOG] = AttemptLog(recorder, downstream, wanted.upstream_body, own)
    if not wanted.downstream:
        return None
    environ[request_input.TRACE] = number
    return _LoggedRequest(recorder, environ, number, at, own, wanted.downstream_body)


def _own(environ: dict) -> tuple[bytes, ...]:
    """The key that the client shows."""
    key = request_input.key(environ, True)
    return (key.encode("utf-8", "surrogateescape"),) if key and len(key) >= 6 else ()


class _LoggedRequest:
    """One request and its answer."""

    def __init__(self, recorder: Recorder, environ: dict, number: int, at: int, own: tuple[bytes, ...], has_body: bool):
        self._recorder, self._environ, self._number, self._at, self._own = recorder, environ, number, at, own
        self._status: int | None = None
        self._headers: list[tuple[str, str]] = []
        self._request = self._response = None
        if has_body:
            maximum = recorder.max_body + recorder.redactor().margin(own)
            self._request, self._response = Capture(maximum), Capture(maximum)
            environ["wsgi.input"] = _Tee(environ["wsgi.input"], self._request)

    def starting(self, start_response: Callable) -> Callable:
        def start(status: str, headers: list, exc_info=None):
            self._status, self._headers = int(status[:3]), headers
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        return start

    def passed(self, pieces: Iterable[bytes]) -> "_Passed":
        return _Passed(pieces, self._response, lambda: self._recorder.quietly(self._end))

    def _end(self) -> None:
        environ, recorder = self._environ, self._recorder
        path = environ["PATH_INFO"].encode("latin-1", "replace").decode("utf-8", "replace")
        if f"{path}/".startswith(ADMINISTRATIVE):
            recorder.log_settings()  # may have made secrets, which are known from then on
        redactor = recorder.redactor()
        caller = environ.get(request_input.CALLER)
        recorder.put(
            (
                *(DOWNSTREAM, self._number, self._at),
                caller.user_id if caller is not None else None,
                caller.key_id if caller is not None else None,
                environ["REQUEST_METHOD"],
                redactor.headers(_sent(environ), self._own),
                redactor.text(path, self._own),
                redactor.query(environ.get("QUERY_STRING", ""), self._own) or None,
                self._kept(self._request, path),
                self._status,
                redactor.headers(self._headers, self._own),
                self._kept(self._response, path),
            )
        )

    def _kept(self, capture: Capture | None, path: str) -> bytes | None:
        if capture is None:
            return None
        data, place = capture.joined(), f"{path}/"
        if data and place.startswith(SEALED):
            return REDACTED.encode()
        if place.startswith(ADMINISTRATIVE):
            data = document(data)
        return self._recorder.redactor().beginning(data, self._recorder.max_body, self._own, capture.is_cut)


class _Passed:
    """The pieces of an answer as they go by."""

    __slots__ = ("_capture", "_end", "_inner", "_pieces")

    def __init__(self, inner: Iterable[bytes], capture: Capture | None, end: Callable[[], None]):
        self._inner, self._pieces, self._capture, self._end = inner, iter(inner), capture, end

    def __iter__(self) -> "_Passed":
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
            end, self._end = self._end, lambda: None
            end()


class _Tee:
    """A request's body as it is read."""

    def __init__(self, inner, capture: Capture):
        self._inner, self._capture = inner, capture

    def read(self, *args) -> bytes:
        data = self._inner.read(*args)
        self._capture.add(data)
        return data

    def __getattr__(self, name: str):
        return getattr(self._inner, name)


def _sent(environ: dict) -> list[tuple[str, str]]:
    """The headers as they came, so far as WSGI tells."""
    found = [(name[5:].replace("_", "-").lower(), value) for name, value in environ.items() if name.startswith("HTTP_")]
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            found.append((name.replace("_", "-").lower(), environ[name]))
    return found
