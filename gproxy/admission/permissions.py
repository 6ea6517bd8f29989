"""What a caller may do. An allow-list: the union of their rows, no implicit rights for administrators."""

from dataclasses import dataclass

from gproxy.store.snapshot import Caller


@dataclass(frozen=True, slots=True)
class Rights:
    """One caller's permission rows as questions. `name` is the name that the client sent."""

    caller: Caller

    def may_use(self, provider_id: int | None, name: str) -> bool:
        """Whether a row allows the name at this provider; None asks for any-provider rows only."""
        return any(grant.provider_id in (None, provider_id) and grant.matches(name) for grant in self.caller.grants)

    def may_use_somewhere(self, name: str) -> bool:
        return any(grant.matches(name) for grant in self.caller.grants)

    def may_enter(self, provider_id: int) -> bool:
        """Whether any row is about this provider at all."""
        return any(grant.provider_id in (None, provider_id) for grant in self.caller.grants)
