"""The kinds of upstream, by channel name. Pure: a lane is a path and the way to send the key, no connection."""

from gproxy.channels import compatible, demo, vertex
from gproxy.channels.kind import Kind


def load() -> dict[str, Kind]:
    """Returns every kind by its channel name. Raises RuntimeError on a duplicate, which stops the start."""
    kinds: dict[str, Kind] = {}
    for kind in (*compatible.KINDS, *vertex.KINDS, demo.KIND):
        if kind.name in kinds:
            raise RuntimeError(f"two channels are named {kind.name!r}")
        kinds[kind.name] = kind
    return kinds
