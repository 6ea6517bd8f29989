"""The admin routes that show the health of credentials and enable or disable one. All workers share this state."""

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
def query(filters: dict) -> list[dict]:
    names, first = filters["provider_name"], filters["offset"]
    pool, providers = runtime().relay.pool, runtime().snapshots().providers
    found = [
        (provider.name, index, credential)
        for provider in providers.values()
        if names is None or provider.name in names
        for index, credential in enumerate(provider.credentials)
    ]
    return [_status(pool, *one) for one in found[first : first + filters["limit"]]]


@blueprint.post("/credential-statuses/update")
@takes(CHANGE)
def update(document: dict) -> dict:
    pool, credential = runtime().relay.pool, _get(document["provider_name"], document["index"])
    if document["status"] == "healthy":
        pool.enable(credential.id)
    else:
        pool.disable(credential)
    return {"ok": True}


def _get(provider_name: str, index: int) -> Credential:
    """Raises NotFound."""
    provider = runtime().snapshots().providers.get(provider_name)
    if provider is None:
        raise NotFound(f"there is no enabled provider {provider_name!r}")
    if index >= len(provider.credentials):
        raise NotFound(f"provider {provider_name!r} has {len(provider.credentials)} usable credentials, counted from 0")
    return provider.credentials[index]


def _status(pool: Pool, provider: str, index: int, credential: Credential) -> dict:
    """`cooling` holds the end and the reason of each cooldown by model; "" is every model, a null end is never."""
    state = pool.state(credential)
    return {
        "provider": provider,
        "index": index,
        "credential_id": credential.id,
        "status": state.status,
        "available": state.status != "unavailable" and "" not in state.cooldowns,
        "cooling": {
            model: {"reason": cooldown.verdict, "until": _moment(cooldown.until)}
            for model, cooldown in state.cooldowns.items()
        },
    }


def _moment(seconds: float) -> str | None:
    """Returns RFC 3339, or None if the time is beyond what it can write, which means never."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError):
        return None
