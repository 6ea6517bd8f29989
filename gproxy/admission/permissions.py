"""What a caller may do. Allow-lists: the union of the user's rows, narrowed by the key's if it has any.

Administrators have no implicit rights.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gproxy.snapshot import Caller, Grant


@dataclass(frozen=True, slots=True)
class Rights:
    """One caller's permission rows as questions. `name` is the name that the client sent.

    A key's rows only take away: what is allowed is what both the user's rows and the key's allow.
    """

    caller: Caller

    def may_use(self, provider_id: int | None, name: str) -> bool:
        """Whether a row allows the name at this provider; None asks for any-provider rows only."""
        return self._allows(lambda grant: grant.provider_id in (None, provider_id) and grant.matches(name))

    def may_use_somewhere(self, name: str) -> bool:
        return self._allows(lambda grant: grant.matches(name))

    def may_enter(self, provider_id: int) -> bool:
        """Whether any row is about this provider at all."""
        return self._allows(lambda grant: grant.provider_id in (None, provider_id))

    def may_use_files(self, provider_id: int) -> bool:
        """Whether the user's files may be at this provider: its own row, and a key that may enter there."""
        narrowed = self.caller.key_grants
        may_enter = narrowed is None or any(grant.provider_id in (None, provider_id) for grant in narrowed)
        return provider_id in self.caller.files and may_enter

    def _allows(self, is_meant: Callable[[Grant], bool]) -> bool:
        narrowed = self.caller.key_grants
        return any(map(is_meant, self.caller.grants)) and (narrowed is None or any(map(is_meant, narrowed)))
