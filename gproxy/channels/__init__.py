"""Kinds of upstream, by channel name. Pure: a lane says where a call goes and how it shows its key."""

from gproxy.channels import compatible, demo, vertex
from gproxy.channels.kind import Kind


def load() -> dict[str, Kind]:
    """Every kind by its channel name. A duplicate stops the start."""
    kinds: dict[str, Kind] = {}
    for kind in (*compatible.KINDS, *vertex.KINDS, demo.KIND):
        if kind.name in kinds:
            raise RuntimeError(f"two channels are named {kind.name!r}")
        kinds[kind.name] = kind
    return kinds
