"""What becomes of a call at its provider: passed through, translated, answered here, or refused.

The operator's routing document decides; without one the channel's lanes do. Pure.
"""

from collections.abc import Mapping
from types import ModuleType

from gproxy.channels.kind import COUNT, EMBED, EMBED_BATCH, GENERATE, GET_MODEL, LIST_MODELS, STREAM, Kind
from gproxy.errors import Unsupported
from gproxy.snapshot import Dispatch, Provider

# The stream of a Gemini client that asked for an array has a name of its own in routing documents.
ARRAY = "gemini_ndjson"


def choose(
    kind: Kind, provider: Provider, operation: str, protocol: str, as_array: bool, protocols: Mapping[str, ModuleType]
) -> Dispatch:
    """The way with our own names of operation and protocol. Raises Unsupported."""
    if provider.routing is not None:
        transport = _documented(provider, operation, protocol, as_array, protocols)
    else:
        transport = _default(kind, provider.settings.protocol, operation, protocol)
    if transport is None or transport.how == "unsupported" or (transport.how == "local" and operation != COUNT):
        raise Unsupported(f"provider {provider.name!r} cannot serve {operation} for clients that speak {protocol}")
    if transport.how == "local":
        return transport
    if kind.lane(transport.operation, transport.protocol, provider.settings.protocol) is None:
        raise Unsupported(f"provider {provider.name!r} does not speak {transport.protocol} for {transport.operation}")
    return transport


def _default(kind: Kind, setting: str | None, operation: str, protocol: str) -> Dispatch | None:
    if kind.lane(operation, protocol, setting) is not None:
        return Dispatch("passthrough", operation, protocol)
    destination = kind.destination(operation, setting)
    if destination is not None:
        return _translated(operation, destination)
    serves = kind.destination(GENERATE, setting) is not None or kind.native_protocol(GENERATE, setting) is not None
    return Dispatch("local") if operation == COUNT and serves else None


def _translated(operation: str, destination: str) -> Dispatch:
    """Texts are many in a request of any protocol but Gemini's, which has an operation for one and one for many."""
    if operation in (EMBED, EMBED_BATCH):
        operation = EMBED_BATCH if destination == "gemini" else EMBED
    return Dispatch("transform", operation, destination)


def _documented(
    provider: Provider, operation: str, protocol: str, as_array: bool, protocols: Mapping[str, ModuleType]
) -> Dispatch | None:
    """A document replaces the whole table: what it does not name is not served."""
    spoken = EMBED if operation == EMBED_BATCH else operation
    transport = provider.routing.get((spoken, ARRAY if as_array else wire_name(protocols[protocol], spoken)))
    if transport is None or transport.how in ("local", "unsupported"):
        return transport
    if transport.how == "passthrough":
        return Dispatch("passthrough", operation, protocol)
    destination = _by_wire_name(transport.operation, transport.protocol, protocols)
    if destination is None:
        return None
    if destination == protocol and transport.operation == spoken:
        return Dispatch("passthrough", operation, protocol)
    if transport.operation in (GENERATE, STREAM) and operation in (GENERATE, STREAM):
        # A whole reply may be made of a stream; a stream is asked for as one whatever the document says.
        return Dispatch("transform", STREAM if operation == STREAM else transport.operation, destination)
    return _translated(operation, destination) if transport.operation == spoken else None


def rules(kind: Kind, setting: str | None, protocols: Mapping[str, ModuleType]) -> list[dict]:
    """What a channel does by default, as a routing document says it. `setting`: the provider's `protocol`."""
    found = []
    for protocol in protocols.values():
        for operation in (LIST_MODELS, GET_MODEL, COUNT, GENERATE, STREAM, EMBED):
            if operation in (LIST_MODELS, GET_MODEL):
                home = kind.native_protocol(operation, setting)
                transport = (
                    Dispatch("local") if home is None or kind.responder else Dispatch("transform", operation, home)
                )
                if home == protocol.NAME:
                    transport = Dispatch("passthrough")
            elif operation in protocol.CODECS:
                transport = _default(kind, setting, operation, protocol.NAME)
            else:
                continue
            route = {"operation": operation, "protocol": wire_name(protocol, operation)}
            rule = {"route": route, "implementation": _told(transport, protocols)}
            if rule["route"] not in [one["route"] for one in found]:
                found.append(rule)
    return sorted(found, key=lambda rule: tuple(rule["route"].values()))


def _told(transport: Dispatch | None, protocols: Mapping[str, ModuleType]) -> str | dict:
    if transport is None:
        return "Unsupported"
    if transport.how != "transform":
        return transport.how.capitalize()
    destination = {
        "operation": transport.operation,
        "protocol": wire_name(protocols[transport.protocol], transport.operation),
    }
    return {"TransformTo": {"destination": destination}}


def wire_name(protocol: ModuleType, operation: str) -> str:
    return protocol.WIRE_NAMES.get(operation, protocol.WIRE_NAME)


def _by_wire_name(operation: str, name: str, protocols: Mapping[str, ModuleType]) -> str | None:
    if name == ARRAY:
        return "gemini"
    found = (p.NAME for p in protocols.values() if operation in p.CODECS and wire_name(p, operation) == name)
    return next(found, None)
