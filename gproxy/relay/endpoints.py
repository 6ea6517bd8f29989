"""Builds the endpoints of calls and model lists: path, forwarded headers, timeouts and egress of a provider."""

from collections.abc import Callable
from urllib.parse import quote, urlencode

from gproxy.channels.kind import Kind, Lane
from gproxy.errors import BadRequest
from gproxy.snapshot import Credential, Provider
from gproxy.upstream.endpoint import Endpoint, Limits, Transport

FORWARDED = ("idempotency-key", "accept-language", "traceparent", "tracestate")
# A vendor's beta headers are forwarded only if the upstream uses that vendor's protocol.
FORWARDED_BY_PROTOCOL = {
    "openai_chat": ("openai-beta", *FORWARDED),
    "openai_responses": ("openai-beta", *FORWARDED),
    "anthropic": ("anthropic-beta", *FORWARDED),
    "gemini": FORWARDED,
}
NOT_FORWARDED_PARAMETERS = ("key", "alt")


def build(provider: Provider, kind: Kind, lane: Lane, path: str, headers: dict[str, str]) -> Endpoint:
    """Returns the endpoint of a provider at this path. A service account's project is still missing in the path."""
    settings = provider.settings
    if "{location}" in path:
        path = path.replace("{location}", settings.location)
    return Endpoint(
        settings.base_url or kind.base_url_at(settings.location) or "",
        path,
        headers,
        lane.auth,
        Limits(
            settings.connect_timeout_s,
            settings.first_byte_timeout_s,
            settings.idle_timeout_s,
            settings.total_timeout_s,
            settings.max_connections,
            settings.connection_wait_s,
            provider.id,
        ),
        Transport(settings.proxy, settings.ca_file, settings.client_cert_file, settings.client_key_file),
    )


def with_project(endpoint: Endpoint, credential: Credential) -> Endpoint:
    """Returns the endpoint with the credential's project in its path, if the credential is a service account."""
    if credential.account is None:
        return endpoint
    return endpoint.with_path(endpoint.path.replace("{project}", quote(credential.account.project_id, safe=":")))


def forwarded(protocol: str, named: tuple[str, ...], header: Callable[[str], str | None]) -> dict[str, str]:
    """Returns the client's headers that the upstream gets. An allow-list: no others are forwarded.

    `named`: those that the operator forwards too. `header` returns a header of the client by its lower-case name.
    """
    sent = {"Content-Type": "application/json"}
    for name in (*FORWARDED_BY_PROTOCOL[protocol], *named):
        if (value := header(name)) is not None:
            sent[name] = value
    return sent


def path(template: str, model: str, query: tuple[tuple[str, str], ...]) -> str:
    """Returns the path below the base URL. Slashes in the model are kept: vendors have ids such as `models/x`.

    Raises BadRequest on a model that would change the path.
    """
    filled = template
    if "{model}" in template:
        bare = model.removeprefix("models/")
        if any(segment.strip(".") == "" for segment in bare.split("/")):
            raise BadRequest("model: contains an empty or dotted path segment")
        filled = template.replace("{model}", quote(bare, safe="/:@"))
    parameters = [(name, value) for name, value in query if name not in NOT_FORWARDED_PARAMETERS]
    if not parameters:
        return filled
    return filled + ("&" if "?" in filled else "?") + urlencode(parameters)
