"""A caller's permissions, as allow-lists: the union of the user's rows, restricted by the key's rows if it has any.

Administrators have no implicit rights.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gproxy.snapshot import Caller, Grant


@dataclass(frozen=True, slots=True)
class Rights:
    """Answers permission questions for one caller. `name` is the model name that the client sent.

    A key's rows can only restrict: a name is allowed if the user's rows and the key's rows both allow it.
    """

    caller: Caller

    def may_use(self, provider_id: int | None, name: str) -> bool:
        """Returns whether a row allows the name at this provider; with None only any-provider rows count."""
        return self._allows(lambda grant: grant.provider_id in (None, provider_id) and grant.matches(name))

    def may_use_somewhere(self, name: str) -> bool:
        """Returns whether a row allows the name at any provider."""
        return self._allows(lambda grant: grant.matches(name))

    def may_access_provider(self, provider_id: int) -> bool:
        """Returns whether any row allows any name at this provider."""
        return self._allows(lambda grant: grant.provider_id in (None, provider_id))

    def may_use_files(self, provider_id: int) -> bool:
        """Returns whether a file permission names this provider and the key's rows include it."""
        key_grants = self.caller.key_grants
        may_access_provider = key_grants is None or any(
            grant.provider_id in (None, provider_id) for grant in key_grants
        )
        return provider_id in self.caller.files and may_access_provider

    def _allows(self, matches: Callable[[Grant], object]) -> bool:
        key_grants = self.caller.key_grants
        return any(map(matches, self.caller.grants)) and (key_grants is None or any(map(matches, key_grants)))
