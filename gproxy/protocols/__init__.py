"""The four wire protocols. Pure: bytes and values in, bytes and values out; no sockets, no clock.

Each folder is one protocol and has the functions and constants listed below; the modules beside the folders are shared.
`passthrough.py` is the same-protocol lane: its stream reader has `observe(data) -> (data to pass on or None, verdict)`,
`usage`, `text_bytes`, `is_terminal`, `has_failed`, `failure_events(…)` and `tail()`. `request.py` and `reply.py` read
into the hub and write out of it; CODECS names them by operation.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

SHARED_MODULES = {
    "codec", "custom_tools", "hub", "losses", "openai", "prompts", "ratelimit_headers", "raw_json", "reasoning",
    "repair", "schemas", "signatures", "sse", "validate", "verdict",
}  # fmt: skip
FUNCTIONS = (
    "read_head",
    "outgoing",
    "without_wrapped_signatures",
    "read_whole",
    "Stream",
    "read_stream",
    "write_stream",
    "read_error",
    "write_error",
    "error_event",
    "limit_headers",
    "client_call_id",
    "read_models",
    "next_page",
    "write_model",
    "write_models",
)
CONSTANTS = (
    "NAME", "WIRE_NAME", "WIRE_NAMES", "ROUTES", "CODECS", "ECHOED", "NAMES", "URL_KINDS", "OWN_URLS",
    "REQUEST_ID_HEADERS", "MODEL_FIELD", "TOOL_NAME", "HEARTBEAT",
)  # fmt: skip


def load() -> dict[str, ModuleType]:
    """Returns every protocol module by its NAME.

    Raises RuntimeError when a module lacks a function or constant, or when two share a name or a route.
    """
    found: dict[str, ModuleType] = {}
    routes: set[str] = set()
    for info in iter_modules(__path__):
        if info.name in SHARED_MODULES:
            continue
        module = import_module(f"{__name__}.{info.name}")
        missing = [name for name in FUNCTIONS if not callable(getattr(module, name, None))]
        missing += [name for name in CONSTANTS if not hasattr(module, name)]
        if missing or module.NAME in found or routes & set(module.ROUTES):
            raise RuntimeError(f"protocol {info.name}: missing {missing}, or its name or a route is taken")
        found[module.NAME] = module
        routes |= set(module.ROUTES)
    return found
