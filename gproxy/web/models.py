"""Model lists and gets, in three shapes."""

from collections.abc import Callable, Mapping
from types import ModuleType

import orjson
from flask import Blueprint, Response, request

from gproxy.web.error_responses import CORS, runtime
from gproxy.web.llm import VERSIONS, admit, guarded, preflight


def blueprints(protocols: Mapping[str, ModuleType]) -> list[Blueprint]:
    """`models` and `models/{id}`, below the root and below a provider's name."""
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
        if request.method == "OPTIONS":
            return preflight()
        protocol = protocols[_shape(version)]
        return guarded(protocol, lambda request_id: _json(view(protocol, **path), request_id))

    return versioned


def _shape(version: str) -> str:
    """/v1beta is always Gemini's; /v1 is Anthropic's iff its headers are sent; query parameters decide nothing.

    Google's SDK may be set to /v1 too and is known by its key header.
    """
    if version == "v1beta":
        return "gemini"
    if "anthropic-version" in request.headers or "x-api-key" in request.headers:
        return "anthropic"
    return "gemini" if "x-goog-api-key" in request.headers else "openai_chat"


def _list(protocol: ModuleType, provider: str | None = None) -> dict:
    caller, snapshot = admit()
    model_list = runtime().model_list
    spoken = protocol.WIRE_NAMES.get("model_list", protocol.WIRE_NAME)
    if provider is None:
        return protocol.write_models(model_list.aggregated(caller, snapshot, spoken))
    return protocol.write_models(model_list.scoped(caller, snapshot, provider, spoken))


def _get(protocol: ModuleType, model: str, provider: str | None = None) -> dict:
    caller, snapshot = admit()
    spoken = protocol.WIRE_NAMES.get("model_get", protocol.WIRE_NAME)
    return protocol.write_model(runtime().model_list.find(caller, snapshot, provider, model, spoken), model)


def _json(value: dict, request_id: str) -> Response:
    headers = [("Content-Type", "application/json"), ("x-request-id", request_id), *CORS]
    return Response(orjson.dumps(value), headers=headers)
