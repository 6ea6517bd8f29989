"""Decides how a provider handles a call: passthrough, translate, local or unsupported.

The operator's routing document decides; without one the channel's lanes decide. Pure.
"""

from collections.abc import Mapping
from types import ModuleType

from gproxy.channels.kind import COUNT, EMBED, EMBED_BATCH, GENERATE, GET_MODEL, LIST_MODELS, STREAM, Kind
from gproxy.errors import Unsupported
from gproxy.snapshot import Dispatch, Provider

# Routing documents have a name of their own for a Gemini stream that was requested as a JSON array.
GEMINI_ARRAY = "gemini_ndjson"


def choose(
    kind: Kind, provider: Provider, operation: str, protocol: str, as_array: bool, protocols: Mapping[str, ModuleType]
) -> Dispatch:
    """Returns the dispatch, with gproxy's own names of operation and protocol. Raises Unsupported.

    `as_array`: a Gemini stream was requested as one JSON array.
    """
    if provider.routing is not None:
        decision = _from_document(provider, operation, protocol, as_array, protocols)
    else:
        decision = _default_dispatch(kind, provider.settings.protocol, operation, protocol)
    if decision is None or decision.how == "unsupported" or (decision.how == "local" and operation != COUNT):
        raise Unsupported(f"provider {provider.name!r} cannot serve {operation} for clients that use {protocol}")
    if decision.how == "local":
        return decision
    if kind.lane(decision.operation, decision.protocol, provider.settings.protocol) is None:
        raise Unsupported(f"provider {provider.name!r} does not support {decision.protocol} for {decision.operation}")
    return decision


def _default_dispatch(kind: Kind, setting: str | None, operation: str, protocol: str) -> Dispatch | None:
    if kind.lane(operation, protocol, setting) is not None:
        return Dispatch("passthrough", operation, protocol)
    destination = kind.destination(operation, setting)
    if destination is not None:
        return _translate_to(operation, destination)
    serves = kind.destination(GENERATE, setting) is not None or kind.native_protocol(GENERATE, setting) is not None
    return Dispatch("local") if operation == COUNT and serves else None


def _translate_to(operation: str, destination: str) -> Dispatch:
    """Returns the dispatch of a translated call. Only Gemini has two operations for embeddings: one text, and many."""
    if operation in (EMBED, EMBED_BATCH):
        operation = EMBED_BATCH if destination == "gemini" else EMBED
    return Dispatch("transform", operation, destination)


def _from_document(
    provider: Provider, operation: str, protocol: str, as_array: bool, protocols: Mapping[str, ModuleType]
) -> Dispatch | None:
    """Returns the dispatch by the routing document. It replaces all defaults: an operation that it omits gives None."""
    listed_operation = EMBED if operation == EMBED_BATCH else operation
    decision = provider.routing.get(
        (listed_operation, GEMINI_ARRAY if as_array else wire_name(protocols[protocol], listed_operation))
    )
    if decision is None or decision.how in ("local", "unsupported"):
        return decision
    if decision.how == "passthrough":
        return Dispatch("passthrough", operation, protocol)
    destination = _protocol_by_wire_name(decision.operation, decision.protocol, protocols)
    if destination is None:
        return None
    if destination == protocol and decision.operation == listed_operation:
        return Dispatch("passthrough", operation, protocol)
    if decision.operation in (GENERATE, STREAM) and operation in (GENERATE, STREAM):
        # A whole reply may be built from a stream; a stream is always requested as a stream.
        return Dispatch("transform", STREAM if operation == STREAM else decision.operation, destination)
    return _translate_to(operation, destination) if decision.operation == listed_operation else None


def default_rules(kind: Kind, setting: str | None, protocols: Mapping[str, ModuleType]) -> list[dict]:
    """Returns a channel's default dispatch as the rules of a routing document. `setting`: the provider's `protocol`."""
    found = []
    for protocol in protocols.values():
        for operation in (LIST_MODELS, GET_MODEL, COUNT, GENERATE, STREAM, EMBED):
            if operation in (LIST_MODELS, GET_MODEL):
                native = kind.native_protocol(operation, setting)
                decision = (
                    Dispatch("local") if native is None or kind.responder else Dispatch("transform", operation, native)
                )
                if native == protocol.NAME:
                    decision = Dispatch("passthrough")
            elif operation in protocol.CODECS:
                decision = _default_dispatch(kind, setting, operation, protocol.NAME)
            else:
                continue
            route = {"operation": operation, "protocol": wire_name(protocol, operation)}
            rule = {"route": route, "implementation": _implementation(decision, protocols)}
            if rule["route"] not in [one["route"] for one in found]:
                found.append(rule)
    return sorted(found, key=lambda rule: tuple(rule["route"].values()))


def _implementation(decision: Dispatch | None, protocols: Mapping[str, ModuleType]) -> str | dict:
    if decision is None:
        return "Unsupported"
    if decision.how != "transform":
        return decision.how.capitalize()
    destination = {
        "operation": decision.operation,
        "protocol": wire_name(protocols[decision.protocol], decision.operation),
    }
    return {"TransformTo": {"destination": destination}}


def wire_name(protocol: ModuleType, operation: str) -> str:
    """Returns the name of the protocol in routing documents and usage rows."""
    return protocol.WIRE_NAMES.get(operation, protocol.WIRE_NAME)


def _protocol_by_wire_name(operation: str, name: str, protocols: Mapping[str, ModuleType]) -> str | None:
    if name == GEMINI_ARRAY:
        return "gemini"
    found = (p.NAME for p in protocols.values() if operation in p.CODECS and wire_name(p, operation) == name)
    return next(found, None)
