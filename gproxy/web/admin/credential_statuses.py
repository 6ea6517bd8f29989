"""The health of credentials, which all workers share: how they stand, and an operator's word on one."""

from datetime import UTC, datetime

from gproxy.config import access as documents
from gproxy.credentials.pool import Pool
from gproxy.errors import NotFound
from gproxy.snapshot import Credential
from gproxy.web.admin import guarded, takes
from gproxy.web.error_responses import runtime

blueprint = guarded("admin_credential_statuses", __name__)
QUERY, CHANGE = documents.CredentialStatusQuery(), documents.CredentialStatus()


@blueprint.post("/credential-statuses/query")
@takes(QUERY)
def query(asked: dict) -> list[dict]:
    names = asked["provider_name"]
    pool, providers = runtime().relay.pool, runtime().snapshots().providers
    return [
        _shown(pool, provider.name, index, credential)
        for provider in providers.values()
        if names is None or provider.name in names
        for index, credential in enumerate(provider.credentials)
    ]


@blueprint.post("/credential-statuses/update")
@takes(CHANGE)
def update(asked: dict) -> dict:
    pool, credential = runtime().relay.pool, _find(asked["provider_name"], asked["index"])
    if asked["status"] == "healthy":
        pool.enable(credential.id)
    else:
        pool.disable(credential)
    return {"ok": True}


def _find(provider_name: str, index: int) -> Credential:
    provider = runtime().snapshots().providers.get(provider_name)
    if provider is None:
        raise NotFound(f"there is no enabled provider {provider_name!r}")
    if index >= len(provider.credentials):
        raise NotFound(f"provider {provider_name!r} has {len(provider.credentials)} usable credentials, counted from 0")
    return provider.credentials[index]


def _shown(pool: Pool, provider: str, index: int, credential: Credential) -> dict:
    """`cooling`: until when, and why, by model; "" is every model. A key that is refused has no end."""
    state = pool.state(credential)
    return {
        "provider": provider,
        "index": index,
        "credential_id": credential.id,
        "status": state.status,
        "available": state.status != "unavailable" and "" not in state.cooldowns,
        "cooling": {
            model: {"reason": mark.verdict, "until": _moment(mark.until)} for model, mark in state.cooldowns.items()
        },
    }


def _moment(seconds: float) -> str | None:
    """RFC 3339, None for never."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError):
        return None
