"""Which credential a call uses."""

from collections.abc import Sequence
from itertools import count

from gproxy.errors import NoCredential
from gproxy.store.snapshot import Credential, Provider


class RoundRobin:
    """One credential after another, per provider; one of these in each worker."""

    def __init__(self):
        self._turns: dict[int, count] = {}

    def next(self, provider: Provider) -> Credential:
        """Raises NoCredential when the provider has none that is enabled."""
        usable: Sequence[Credential] = provider.credentials
        if not usable:
            raise NoCredential(f"provider {provider.name!r} has no enabled credential", retry_after_s=60)
        if len(usable) == 1:
            return usable[0]
        turn = next(self._turns.setdefault(provider.id, count()))
        return usable[turn % len(usable)]
