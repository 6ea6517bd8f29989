"""The routes that list models and return one, in the format of OpenAI, Anthropic or Gemini."""

from collections.abc import Callable, Mapping
from types import ModuleType

import orjson
from flask import Blueprint, Response, request

from gproxy.web.error_responses import CORS, runtime
from gproxy.web.llm import VERSIONS, admit, guarded


def blueprints(protocols: Mapping[str, ModuleType]) -> list[Blueprint]:
    """Returns the blueprints of `models` and `models/{id}`, below the root and below a provider's name."""
    found = []
    for name, prefix in (("models", ""), ("scoped_models", "/<provider>")):
        blueprint = Blueprint(name, __name__)
        for version in VERSIONS:
            for route, view in (("models", _list), ("models/<path:model>", _get)):
                blueprint.add_url_rule(
                    f"{prefix}/{version}/{route}",
                    f"{version}_{view.__name__}",
                    _versioned(view, version, protocols),
                    methods=["GET", "OPTIONS"],
                    provide_automatic_options=False,
                )
        found.append(blueprint)
    return found


def _versioned(view: Callable, version: str, protocols: Mapping[str, ModuleType]) -> Callable:
    def versioned(**path) -> Response:
        protocol = protocols[_protocol_name(version)]
        return guarded(protocol, lambda request_id: _json(view(protocol, **path), request_id))

    return versioned


def _protocol_name(version: str) -> str:
    """Returns the protocol of the response: Gemini below /v1beta, otherwise by the request's headers.

    Google's SDK can be set to /v1 and is recognised by its key header. Query parameters have no influence.
    """
    if version == "v1beta":
        return "gemini"
    if "anthropic-version" in request.headers or "x-api-key" in request.headers:
        return "anthropic"
    return "gemini" if "x-goog-api-key" in request.headers else "openai_chat"


def _list(protocol: ModuleType, provider: str | None = None) -> dict:
    caller, snapshot = admit()
    model_list = runtime().model_list
    wire_name = protocol.WIRE_NAMES.get("model_list", protocol.WIRE_NAME)
    if provider is None:
        return protocol.write_models(model_list.aggregated(caller, snapshot, wire_name))
    return protocol.write_models(model_list.scoped(caller, snapshot, provider, wire_name))


def _get(protocol: ModuleType, model: str, provider: str | None = None) -> dict:
    caller, snapshot = admit()
    wire_name = protocol.WIRE_NAMES.get("model_get", protocol.WIRE_NAME)
    return protocol.write_model(runtime().model_list.find(caller, snapshot, provider, model, wire_name), model)


def _json(value: dict, request_id: str) -> Response:
    headers = [("Content-Type", "application/json"), ("x-request-id", request_id), *CORS]
    return Response(orjson.dumps(value), headers=headers)
