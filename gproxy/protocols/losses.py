"""Collects the fields that a translation could not carry, under their names in the sender's protocol."""

import re
from collections.abc import Mapping

# Names come from clients and are sent in a response header: their form and their number are bounded.
_NAME = re.compile(r"[A-Za-z0-9_$.\[\]-]{1,80}")
MAX_LOSSES = 40


class Losses:
    """`wire_names` maps fields of the hub to their names in the sender's protocol."""

    def __init__(self, wire_names: Mapping[str, str] | None = None):
        self._wire_names = wire_names or {}
        self._lost: set[str] = set()

    def lose(self, field: str) -> None:
        """Adds a field of the hub that was dropped, changed, defaulted or repaired."""
        self.report(self.wire_name(field))

    def wire_name(self, field: str) -> str:
        """Returns the name of a hub field in the sender's protocol."""
        return self._wire_names.get(field, field)

    def report(self, name: str) -> None:
        """Adds a loss by its wire name; ignored from MAX_LOSSES on. A malformed name is added as `unnamed`."""
        if len(self._lost) < MAX_LOSSES:
            self._lost.add(name if _NAME.fullmatch(name) else "unnamed")

    def names(self) -> tuple[str, ...]:
        """Returns all wire names, each once, sorted."""
        return tuple(sorted(self._lost))
