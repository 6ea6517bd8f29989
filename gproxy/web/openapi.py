"""The OpenAPI document, generated from the routes and the marshmallow schemas that serve them."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import get_type_hints

import orjson
from flask import Blueprint, Flask, Response, current_app
from marshmallow import Schema, fields

from gproxy import __version__
from gproxy.config import entities, filters, schemas
from gproxy.config.routing import Routing
from gproxy.web import llm, not_implemented
from gproxy.web.error_responses import runtime

blueprint = Blueprint("openapi", __name__)
_PARAMETER = re.compile(r"<(?:path:)?(\w+)>")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
KEYLESS = ("/healthz", "/readyz", "/openapi.json", "/login")
# Error statuses of the admin and user routes, and of the LLM routes.
ADMIN_ERRORS = (400, 401, 403, 404, 408, 413, 429, 500, 501, 503)
LLM_ERRORS = (*ADMIN_ERRORS[:-3], 402, 409, 500, 501, 502, 503, 504)
UNDOCUMENTED_MODULES = (not_implemented.__name__, "flask.app")
CACHE: dict[Flask, bytes] = {}


@blueprint.get("/openapi.json")
def document() -> Response:
    """Returns this document."""
    app = current_app._get_current_object()
    if app not in CACHE:
        CACHE[app] = runtime().admin.threads.run(lambda: orjson.dumps(build(app)))
    return Response(CACHE[app], content_type="application/json")


def build(app: Flask) -> dict:
    """Returns the OpenAPI 3.1 description of the app's routes."""
    # Imported on demand: a worker that never builds the document saves the memory.
    from apispec import APISpec
    from apispec.ext.marshmallow import MarshmallowPlugin

    plugin = MarshmallowPlugin(schema_name_resolver=_schema_name)
    info = {"description": "A self-hosted gateway in front of many LLM providers."}
    spec = APISpec("gproxy", __version__, "3.1.0", info=info, plugins=[plugin])
    plugin.converter.add_attribute_function(_property)
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    spec.components.security_scheme("x_api_key", {"type": "apiKey", "in": "header", "name": "x-api-key"})
    spec.components.security_scheme("x_goog_api_key", {"type": "apiKey", "in": "header", "name": "x-goog-api-key"})
    spec.components.security_scheme("key", {"type": "apiKey", "in": "query", "name": "key"})
    spec.components.schema("Error", {"properties": {"error": {"type": "object"}}, "required": ["error"]})
    refused = {"schema": {"$ref": "#/components/schemas/Error"}}
    spec.components.response("Refused", {"description": "Refused.", "content": {"application/json": refused}})
    for path, operations in _routes(app, plugin):
        spec.path(path, operations=operations)
    return spec.to_dict()


def _schema_name(schema) -> str:
    """Returns the schema's class name after its module's name: several modules have a schema of the same name."""
    schema_class = schema if isinstance(schema, type) else type(schema)
    module = schema_class.__module__.rpartition(".")[2]
    partial = "Partial" if getattr(schema, "partial", False) else ""
    return f"{module.capitalize()}{schema_class.__name__}{partial}"


def _routes(app: Flask, plugin) -> Iterator[tuple[str, dict]]:
    """Yields each path with its operations, without the routes that only answer 501."""
    paths: dict[str, dict] = {}
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        view = app.view_functions[rule.endpoint]
        if view.__module__ in UNDOCUMENTED_MODULES or getattr(view, "is_not_implemented", False):
            continue
        path = _PARAMETER.sub(r"{\1}", rule.rule).replace("{target}", "{model}:{action}")
        names = re.findall(r"{(\w+)}", path)
        for method in sorted(set(METHODS) & rule.methods):
            operation = _operation(path, method, view, plugin)
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
            operation["operationId"] = method.lower() + re.sub(r"[/{}:.]+", "_", path).rstrip("_")
            paths.setdefault(path, {})[method.lower()] = operation
    yield from paths.items()


def _operation(path: str, method: str, view: Callable, plugin) -> dict:
    is_llm = any(part in llm.VERSIONS for part in path.split("/")[1:3])
    description = inspect.getdoc(inspect.unwrap(view)) if not is_llm else None
    operation: dict = {
        "tags": ["llm" if is_llm else path.split("/")[1]],
        "summary": (description or "").partition("\n")[0] or path.strip("/").replace("/", " "),
        "security": [] if path in KEYLESS else _security(is_llm),
        "responses": _responses(path, view, is_llm),
    }
    if method == "POST" and is_llm:
        operation["requestBody"] = _body(_llm_request(view), is_required=True)
    elif method == "POST" and (schema := getattr(view, "takes", None)) is not None:
        operation["requestBody"] = _body(_json_schema(schema, plugin), is_required=False)
    return operation


def _security(is_llm: bool) -> list[dict]:
    names = ("bearer", "x_api_key", "x_goog_api_key", *(("key",) if is_llm else ()))
    return [{name: []} for name in names]


def _body(schema: dict, *, is_required: bool) -> dict:
    return {"required": is_required, "content": {"application/json": {"schema": schema}}}


def _json_schema(schema, plugin) -> dict:
    """Returns the JSON schema of a marshmallow schema, of a list of its rows, or of a document that is one field."""
    if isinstance(schema, filters.FieldDocument):
        return plugin.converter.field2property(schema.field)
    if isinstance(schema, entities.RowList):
        return {"type": "array", "items": plugin.converter.resolve_nested_schema(type(schema.schema)())}
    if isinstance(schema, Schema) and schema.many:
        return {"type": "array", "items": plugin.converter.resolve_nested_schema(type(schema)())}
    return plugin.converter.resolve_nested_schema(schema)


def _llm_request(view: Callable) -> dict:
    """Describes only what the gateway itself reads of a request: the vendor defines the rest."""
    if isinstance(view, llm.GeminiView):
        return {"type": "object"}
    return {"type": "object", "required": ["model"], "properties": {"model": {"type": "string"}}}


def _responses(path: str, view: Callable, is_llm: bool) -> dict:
    if path in ("/healthz", "/readyz"):
        status = {"description": "The state.", "content": {"application/json": {"schema": {"type": "object"}}}}
        return {"200": status} if path == "/healthz" else {"200": status, "503": status}
    success = {"200": {"description": "Done.", "content": _content(path, view, is_llm)}}
    error = {"$ref": "#/components/responses/Refused"}
    return success | {str(status): error for status in (LLM_ERRORS if is_llm else ADMIN_ERRORS)}


def _content(path: str, view: Callable, is_llm: bool) -> dict:
    if path == "/metrics":
        return {"text/plain": {"schema": {"type": "string"}}}
    if path == "/admin/config/export-toml":
        return {"application/toml": {"schema": {"type": "string"}}}
    if is_llm:
        anything = {"schema": {}}
        return {"application/json": anything, "text/event-stream": {"schema": {"type": "string"}}}
    returned = str(getattr(view, "returns", None) or get_type_hints(inspect.unwrap(view)).get("return", dict))
    return (
        {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}}
        if "list" in returned
        else {"application/json": {"schema": {"type": "object"}}}
    )


NUMBERS = (schemas.Usd, schemas.Money, schemas.Seconds)
INTEGERS = (schemas.Count, schemas.Weight)


def _property(converter, field: fields.Field, ret: dict) -> dict:
    """Returns the JSON schema of those fields that apispec does not know; otherwise an empty dict."""
    match field:
        case filters.ValueFilter():
            inner = converter.field2property(field.inner)
            many = {"type": "array", "items": inner, "maxItems": filters.MAX_VALUES}
            schema = {"anyOf": [inner, {"enum": ["All", "all"]}, _tagged("eq", inner), _tagged("in", many)]}
        case filters.BigInt():  # also the limit of a page
            schema = {"type": ["integer", "string"], "pattern": "^[0-9]{1,19}$"}
        case schemas.UnsupportedField():
            schema = {"type": "null", "description": field.refusal}
        case schemas.Instant():
            schema = {"type": "string", "format": "date-time"}
        case schemas.ToolPrices():
            schema = {"type": "object", "additionalProperties": {"type": "number"}}
        case entities.Document() | entities.Secret() | Routing():
            schema = {"type": ["object", "string"]}
        case entities.Named():
            schema = {"type": ["integer", "string", "object"]}
        case _ if isinstance(field, NUMBERS):
            schema = {"type": "number"}
        case _ if isinstance(field, INTEGERS):
            schema = {"type": "integer"}
        case _:
            return {}
    if field.allow_none and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    elif field.allow_none and isinstance(schema.get("type"), list):
        schema["type"] = [*schema["type"], "null"]
    elif field.allow_none:
        schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
    return schema


def _tagged(name: str, schema: dict) -> dict:
    return {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}
