"""The credentials of providers: which one is next, what became of it, and what its own limits allow."""

import random
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import ceil
from typing import NamedTuple, Protocol

import orjson

from gproxy.channels.error_classifier import Fault
from gproxy.credentials import cooldown, selection
from gproxy.credentials.cooldown import Mark
from gproxy.errors import NoCredential
from gproxy.snapshot import Credential, Provider
from gproxy.state.interface import Account, Limit, Take, Taken
from gproxy.state.shared_dict import SharedDict
from gproxy.units import moment

MAX_NAME = 600  # bytes of a name on the board
NOTHING = (None, None)
KEPT_S = 86_400  # how long a mark stays after its cooling
NO_WAIT_S = 60.0  # told where only an operator helps


class Limiter(Protocol):
    """Counts a credential's own limits; `owner` names this process in the shared state. Raises Unavailable."""

    owner: str

    def count(self, wanted: Take) -> Taken: ...

    def inspect(self, accounts: tuple[Account, ...], rows: tuple[Limit, ...]) -> Taken: ...

    def settle(self, call: int, money: int, tokens: int) -> None: ...


class Pool:
    """Of one process; health and limits are shared with the others. `clock` is in seconds since the epoch."""

    def __init__(
        self,
        shared_dict: SharedDict,
        reserver: Limiter,
        new_id: Callable[[int], int],
        clock: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
    ):
        self.reserver, self.clock = reserver, clock
        self._shared_dict, self._new_id, self._dice = shared_dict, new_id, dice
        self._turns: dict[int, int] = {}

    def candidates(self, provider: Provider, model: str, affinity: bytes, first: int | None = None) -> "Candidates":
        """The provider's credentials in their order. `affinity` names the conversation.

        `first` goes before all, whatever the strategy. Raises NoCredential.
        """
        if not provider.credentials:
            raise _none(provider)
        order = self.order(provider, affinity, first)
        if provider.settings.rotation_strategy == selection.ROUND_ROBIN:
            self._turns[provider.id] = self._turns.get(provider.id, 0) + 1
        return Candidates(self, provider, model, order)

    def order(self, provider: Provider, affinity: bytes, first: int | None = None) -> Sequence[Credential]:
        """In which order the next call would try them."""
        credentials, strategy = provider.credentials, provider.settings.rotation_strategy
        if strategy == selection.CACHE_AFFINITY:
            order = selection.by_affinity(credentials, affinity)
        elif strategy == selection.STICKY or not credentials:
            order = credentials
        else:
            order = selection.by_turn(credentials, self._turns.get(provider.id, 0))
        return order if first is None else sorted(order, key=lambda credential: credential.id != first)

    def why_not(self, credential: Credential, model: str) -> str | None:
        """Why the next call would pass it over, None where it would not. Takes nothing."""
        now = self.clock()
        for mark in self.marks(credential, model):
            if until := cooldown.cools_until(mark, credential.fingerprint, now):
                return f"{mark.verdict}" + (
                    f" until {moment(until)}" if until < cooldown.NEVER else ": an operator must look"
                )
        if credential.is_limited:
            for standing in self.reserver.inspect((), (_limit(credential),)).statuses:
                if standing.remaining < 1:
                    return f"its own {standing.counter} of {standing.limit} is used up"
        return None

    def any(self, provider: Provider) -> Credential:
        """For a call that nobody is charged for: a healthy one if there is. Raises NoCredential."""
        if not provider.credentials:
            raise _none(provider)
        return next(filter(self.is_usable, provider.credentials), provider.credentials[0])

    def marks(self, credential: Credential, model: str) -> tuple[Mark | None, Mark | None]:
        """What is known of it for all models, and for this one; NOTHING as nearly always."""
        of_all, of_model = self._shared_dict.notes(_names(credential.id, model))
        return NOTHING if of_all is of_model is None else (_mark(of_all), _mark(of_model))

    def claim(self, credential: Credential, model: str) -> bool:
        """Whether this call is the one that tries a credential whose cooling is over."""
        now, is_mine = self.clock(), True
        for mark, name in zip(self.marks(credential, model), ("", model), strict=True):
            if cooldown.is_due(mark, credential.fingerprint, now):
                is_mine = self._claim(_name(credential.id, name), credential.fingerprint, now) and is_mine
        return is_mine

    def _claim(self, name: str, fingerprint: str, now: float) -> bool:
        is_mine = False

        def function(note: bytes | None) -> bytes | None:
            nonlocal is_mine
            mark = _mark(note)
            is_mine = mark is None or cooldown.is_due(mark, fingerprint, now)
            if mark is None or not is_mine:
                return note
            return _note(mark._replace(probe=now + cooldown.PROBE_S))

        self._shared_dict.change(name, function)
        return is_mine

    def unclaim(self, credential: Credential, model: str) -> None:
        """Whoever tried it does not know: the next one may try at once."""

        def function(note: bytes | None) -> bytes | None:
            mark = _mark(note)
            return note if mark is None else _note(mark._replace(probe=0.0))

        for mark, name in zip(self.marks(credential, model), ("", model), strict=True):
            if mark is not None and mark.probe > self.clock():
                self._shared_dict.change(_name(credential.id, name), function)

    def failed(self, credential: Credential, model: str, fault: Fault) -> None:
        now, dice = self.clock(), self._dice()

        def function(note: bytes | None) -> bytes:
            return _note(cooldown.after(_mark(note), fault.verdict, fault.wait_s, credential.fingerprint, now, dice))

        of_all = fault.verdict in cooldown.OF_ALL_MODELS
        self._shared_dict.change(_name(credential.id, "" if of_all else model), function)

    def succeeded(self, credential: Credential, model: str, began: float) -> None:
        """It works, so what was known when the call began is over; what came meanwhile is not."""

        def function(note: bytes | None) -> bytes | None:
            mark = _mark(note)
            return note if mark is None or _outlives(mark, credential, began) else None

        if (marks := self.marks(credential, model)) is NOTHING:
            return
        for mark, name in zip(marks, ("", model), strict=True):
            if mark is not None and not _outlives(mark, credential, began):
                self._shared_dict.change(_name(credential.id, name), function)

    def lease(self, credential: Credential) -> tuple[int | None, float]:
        """A place within the credential's own limits, to be given back, or in how many seconds there may be one.

        Raises Unavailable.
        """
        call = self._new_id(time.time_ns())
        taken = self.reserver.count(Take(call, self.reserver.owner, (), (_limit(credential),), 0, 0))
        if taken.refused is None:
            return call, 0.0
        return None, NO_WAIT_S if taken.refused.wait_s is None else taken.refused.wait_s

    def give_back(self, lease: int) -> None:
        self.reserver.settle(lease, 0, 0)

    def enable(self, credential_id: int) -> None:
        """As an operator says: nothing is known of it any more."""
        prefix = _name(credential_id, "")
        for name in self._shared_dict.all():
            if name.startswith(prefix):
                self._shared_dict.change(name, lambda note: None)

    def disable(self, credential: Credential) -> None:
        self.failed(credential, "", Fault(cooldown.DEAD))

    def state(self, credential: Credential) -> "CredentialState":
        """How it stands with all that is known of it. Looks through the whole board: for operators."""
        prefix, now = _name(credential.id, ""), self.clock()
        notes = ((name, _mark(note)) for name, note in self._shared_dict.all().items() if name.startswith(prefix))
        marks = {name.removeprefix(prefix): mark for name, mark in notes if mark.secret == credential.fingerprint}
        cooling = {model: mark for model, mark in marks.items() if cooldown.cools_until(mark, mark.secret, now)}
        if "" in cooling and cooling[""].verdict == cooldown.DEAD:
            return CredentialState("unavailable", cooling)
        return CredentialState("cooldown" if cooling else "healthy", cooling)

    def statuses(self, credentials: Sequence[Credential]) -> dict[int, str]:
        """The status of each by its id, from one look at the board."""
        now, found = self.clock(), {one.id: "healthy" for one in credentials}
        prints = {one.id: one.fingerprint for one in credentials}
        for name, note in self._shared_dict.all().items():
            number, _, model = name.partition("/")
            mark, one = _mark(note), int(number)
            if mark.secret != prints.get(one) or not cooldown.cools_until(mark, mark.secret, now):
                continue
            is_dead = not model and mark.verdict == cooldown.DEAD
            if found[one] != "unavailable":
                found[one] = "unavailable" if is_dead else "cooldown"
        return found

    def is_usable(self, credential: Credential) -> bool:
        """Whether it can be used for any model that nothing else is known of."""
        (note,) = self._shared_dict.notes((_name(credential.id, ""),))
        return not cooldown.cools_until(_mark(note), credential.fingerprint, self.clock())

    def close(self) -> None:
        self._shared_dict.close()


class CredentialState(NamedTuple):
    """`healthy`, `cooldown` or `unavailable`, and the marks that make it so by model, "" being all of them."""

    status: str
    cooling: dict[str, Mark]


class Candidates:
    """One call's way through a provider's credentials: each is tried once."""

    def __init__(self, pool: Pool, provider: Provider, model: str, order: Sequence[Credential]):
        self._pool, self._provider, self._model = pool, provider, model
        self._left = list(order)
        self._soonest = 0.0  # when the first of those that were passed over can be used

    @property
    def left(self) -> int:
        """How many were not tried yet."""
        return len(self._left)

    def next(self, leases: bool = True) -> tuple[Credential, int | None] | None:
        """The next one that can be used, with the lease on it if it has limits; None when there is none.

        Without `leases` its limits are not asked: `lease` does that. Raises Unavailable.
        """
        for credential in list(self._left):
            if (marks := self._pool.marks(credential, self._model)) is NOTHING:
                if found := self._take(credential, leases):
                    return found
                continue
            now = self._pool.clock()
            cools = max(cooldown.cools_until(mark, credential.fingerprint, now) for mark in marks)
            if cools:
                self._wait_until(cools)
                continue
            is_due = any(cooldown.is_due(mark, credential.fingerprint, now) for mark in marks)
            if is_due and not self._pool.claim(credential, self._model):
                self._wait_until(now + 1.0)
                continue
            if found := self._take(credential, leases):
                return found
            self._pool.unclaim(credential, self._model)
        return None

    def last_resort(self, leases: bool = True) -> tuple[Credential, int | None] | None:
        """Of those that only failed for a moment the one whose cooling ends first."""
        light = []
        for credential in self._left:
            marks = [mark for mark in self._pool.marks(credential, self._model) if mark is not None]
            if all(map(cooldown.is_light, marks)):
                light.append((max((mark.until for mark in marks), default=0.0), credential))
        for _, credential in sorted(light, key=lambda one: one[0]):
            if found := self._take(credential, leases):
                return found
        return None

    def refusal(self) -> NoCredential:
        """What is told where none can be used."""
        name, wait_s = self._provider.name, self._soonest - self._pool.clock()
        if not self._soonest or wait_s > KEPT_S:
            text = f"the upstream refuses the keys of provider {name!r}; an administrator must look"
            return NoCredential(text, retry_after_s=int(NO_WAIT_S))
        seconds = max(1, ceil(wait_s))
        text = f"every credential of provider {name!r} is cooling or busy; try again in {seconds} s"
        return NoCredential(text, retry_after_s=seconds)

    def lease(self, credential: Credential) -> int | None:
        """The lease on a credential that has limits; None where they are used up. Raises Unavailable."""
        lease, wait_s = self._pool.lease(credential)
        if lease is None:
            self._wait_until(self._pool.clock() + wait_s)
        return lease

    def _take(self, credential: Credential, leases: bool) -> tuple[Credential, int | None] | None:
        lease = None
        if leases and credential.is_limited and (lease := self.lease(credential)) is None:
            return None
        self._left.remove(credential)
        return credential, lease

    def _wait_until(self, moment: float) -> None:
        self._soonest = min(self._soonest, moment) if self._soonest else moment


def _limit(credential: Credential) -> Limit:
    return Limit(f"c{credential.id}", credential.rpm, concurrency=credential.concurrency)


def _none(provider: Provider) -> NoCredential:
    return NoCredential(f"provider {provider.name!r} has no enabled credential", retry_after_s=int(NO_WAIT_S))


def _name(credential_id: int, model: str) -> str:
    """On the board. A name that is too long stands there by its beginning and a digest of it."""
    name = f"{credential_id}/{model}"
    if len(model) * 4 > MAX_NAME and len(model.encode()) > MAX_NAME:
        name = f"{credential_id}/{model[:100]}#{blake2b(model.encode(), digest_size=16).hexdigest()}"
    return name


@lru_cache(maxsize=4096)
def _names(credential_id: int, model: str) -> tuple[str, str]:
    return _name(credential_id, ""), _name(credential_id, model)


def _mark(note: bytes | None) -> Mark | None:
    return None if note is None else Mark(*orjson.loads(note))


def _note(mark: Mark) -> bytes:
    return orjson.dumps(tuple(mark))


def expires(note: bytes) -> float:
    """When a mark on the board is of no use any more."""
    return _mark(note).until + KEPT_S


def _outlives(mark: Mark, credential: Credential, began: float) -> bool:
    is_same_key = mark.secret == credential.fingerprint
    return is_same_key and (mark.verdict == cooldown.DEAD or mark.at > began)
