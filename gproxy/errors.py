"""All errors that a client can receive, as one tree. No Flask and no HTTP library is imported here.

GatewayError                      500 internal
├── BadRequest                    400 invalid_request
│   ├── NoProviderPrefix          400 provider_prefix
│   ├── NoThread                  400 thread_unsupported_request
│   └── TooDeep                   400 invalid_request
├── Unauthorized                  401 unauthorized
├── OverQuota                     402 quota_exceeded
├── Forbidden                     403 forbidden
├── NotFound                      404 not_found
├── MethodNotAllowed              405 method_not_allowed
├── RequestTimeout                408 request_timeout
├── TooLarge                      413 too_large
├── RateLimited                   429 rate_limited
├── Unsupported                   501 unsupported
├── UpstreamError                 502 upstream_error
│   ├── CredentialRefused         502 upstream_error
│   └── UpstreamTimeout           504 upstream_timeout
└── Unavailable                   503 unavailable
    ├── NoCredential              503 no_credential
    ├── Overloaded                503 overloaded
    └── ShuttingDown              503 unavailable

ClientDisconnected and RowRefused are not in the tree: no client receives them.
"""


class GatewayError(Exception):
    """An error with a status and a stable code. `message` starts with the documented label of the code."""

    status = 500
    code = "internal"
    label = "internal"

    def __init__(self, detail: str = "", *, headers: dict[str, str] | None = None):
        self.message = f"{self.label}: {detail}" if detail else self.label
        self.headers = headers or {}
        super().__init__(self.message)


class BadRequest(GatewayError):
    status, code, label = 400, "invalid_request", "invalid_request"


class NoProviderPrefix(BadRequest):
    code, label = "provider_prefix", "provider prefix"


class NoThread(BadRequest):
    """A conversation kept by the vendor, which is not supported. This code makes Anthropic's SDK send it in full."""

    code = "thread_unsupported_request"


class TooDeep(BadRequest):
    """A body that is nested too deeply to be written again."""


class Unauthorized(GatewayError):
    status, code, label = 401, "unauthorized", "unauthorized"


class OverQuota(GatewayError):
    """The quota is used up, or this request could exceed it."""

    status, code, label = 402, "quota_exceeded", "quota_exceeded"


class Forbidden(GatewayError):
    status, code, label = 403, "forbidden", "forbidden"


class NotFound(GatewayError):
    status, code, label = 404, "not_found", "not_found"


class MethodNotAllowed(GatewayError):
    status, code, label = 405, "method_not_allowed", "method_not_allowed"


class RequestTimeout(GatewayError):
    status, code, label = 408, "request_timeout", "request_timeout"


class TooLarge(GatewayError):
    status, code, label = 413, "too_large", "too_large"


class RateLimited(GatewayError):
    """A rate limit is reached. `retry_s` is the time in seconds until the request could succeed, None: never.

    `statuses` are those of all limits of the request.
    """

    status, code, label = 429, "rate_limited", "rate_limited"

    def __init__(
        self,
        detail: str = "",
        retry_s: float | None = None,
        statuses: tuple = (),
        *,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(detail, headers=headers)
        self.retry_s, self.statuses = retry_s, statuses


class Unsupported(GatewayError):
    status, code, label = 501, "unsupported", "unsupported"


class UpstreamError(GatewayError):
    """The upstream could not be reached, or its connection broke.

    `was_sent`: the upstream may have started to process the request. `is_stale`: it has not, because a reused
    connection was closed before the first byte of a response.
    """

    status, code, label = 502, "upstream_error", "upstream_error"
    was_sent, is_stale = True, False


class CredentialRefused(UpstreamError):
    """A service account gets no access token, so no request was sent to the upstream."""

    was_sent = False


class UpstreamTimeout(UpstreamError):
    status, code, label = 504, "upstream_timeout", "upstream_timeout"


class Unavailable(GatewayError):
    """A part of gproxy is unavailable; the client may retry after `Retry-After`."""

    status, code, label = 503, "unavailable", "unavailable"

    def __init__(self, detail: str = "", *, retry_after_s: int = 1):
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)})


class NoCredential(Unavailable):
    code, label = "no_credential", "no_credential"


class Overloaded(Unavailable):
    code, label = "overloaded", "overloaded"


class ShuttingDown(Unavailable):
    """The grace time of a stopping worker is over."""


class ClientDisconnected(BaseException):
    """The client closed its connection. Not an Exception, so that `except Exception` does not handle it as an error."""


class StartupError(Exception):
    """Prevents a start. Each of the `problems` names its place and a remedy."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join(problems))


class RowRefused(Exception):
    """The database is available and takes no such row, also not later; the message is the reason without values."""
