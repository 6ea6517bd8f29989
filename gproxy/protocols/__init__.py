"""The four wire protocols. Pure: bytes and values in, bytes and values out; no sockets, no clock.

Each folder is one protocol and has the members of `interface.WireProtocol`; the modules beside the folders are shared.
`passthrough.py` is the same-protocol lane. `request.py` and `reply.py` read into the hub and write out of it; CODECS
names them by operation.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import cast

from gproxy.protocols.interface import WireProtocol, missing_members

SHARED_MODULES = {
    "codec", "custom_tools", "hub", "interface", "losses", "openai", "prompts", "ratelimit_headers", "raw_json",
    "reasoning", "repair", "schemas", "signatures", "sse", "validate", "verdict",
}  # fmt: skip


def load() -> dict[str, WireProtocol]:
    """Returns every protocol module by its NAME.

    Raises RuntimeError when a module lacks a member of WireProtocol, or when two share a name or a route.
    """
    found: dict[str, WireProtocol] = {}
    routes: set[str] = set()
    for info in iter_modules(__path__):
        if info.name in SHARED_MODULES:
            continue
        module = import_module(f"{__name__}.{info.name}")
        if missing := missing_members(module):
            raise RuntimeError(f"protocol {info.name}: {', '.join(missing)} missing")
        if module.NAME in found or routes & set(module.ROUTES):
            raise RuntimeError(f"protocol {info.name}: its name or a route is taken")
        found[module.NAME] = cast(WireProtocol, module)
        routes |= set(module.ROUTES)
    return found
