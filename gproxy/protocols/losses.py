"""What a translation could not carry, by its name on the sender's wire, collected while it is translated."""

import re
from collections.abc import Mapping

# Names come from clients and travel in a header: what is no name, and what is one too many, is not repeated.
_NAME = re.compile(r"[A-Za-z0-9_$.\[\]-]{1,80}")
MAX_LOSSES = 40


class Losses:
    """`names` are the sender's wire names of the hub's fields."""

    def __init__(self, names: Mapping[str, str] | None = None):
        self._names = names or {}
        self._found: set[str] = set()

    def lose(self, field: str) -> None:
        """A field of the hub is dropped, changed, defaulted or repaired."""
        self.report(self.wire_name(field))

    def wire_name(self, field: str) -> str:
        """What the sender calls it."""
        return self._names.get(field, field)

    def report(self, name: str) -> None:
        """The same by its wire name."""
        if len(self._found) < MAX_LOSSES:
            self._found.add(name if _NAME.fullmatch(name) else "unnamed")

    def names(self) -> tuple[str, ...]:
        """All of them, each once, in a fixed order."""
        return tuple(sorted(self._found))
