"""The wire protocols. Pure: bytes and values in, bytes and values out; no sockets, no clock.

Every module here except the plumbing is one protocol and has the verbs below. A protocol's stream reader has
`see(data) -> (data to pass on or None, verdict)`, `usage`, `text_bytes`, `is_terminal`, `has_failed`, `break_off(…)`
and `tail()`.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

PLUMBING = {"hub", "sse", "fields", "reading", "openai"}
VERBS = (
    "ask",
    "outgoing",
    "read_whole",
    "Stream",
    "write_error",
    "error_event",
    "read_models",
    "next_page",
    "write_model",
    "write_models",
)
NAMES = ("NAME", "WIRE_NAME", "ROUTES", "REQUEST_ID_HEADERS", "MODEL_FIELD")


def load() -> dict[str, ModuleType]:
    """Every protocol by name. A missing verb, a second use of a name or of a route stops the start."""
    found: dict[str, ModuleType] = {}
    routes: set[str] = set()
    for info in iter_modules(__path__):
        if info.name in PLUMBING:
            continue
        module = import_module(f"{__name__}.{info.name}")
        missing = [verb for verb in VERBS if not callable(getattr(module, verb, None))]
        missing += [name for name in NAMES if not hasattr(module, name)]
        if missing or module.NAME in found or routes & set(module.ROUTES):
            raise RuntimeError(f"protocol {info.name}: missing {missing}, or its name or a route is taken")
        found[module.NAME] = module
        routes |= set(module.ROUTES)
    return found
