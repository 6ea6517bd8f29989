"""The credential pool: the order of a provider's credentials, their cooldowns, and their own limits."""

import random
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import ceil
from typing import NamedTuple, Protocol

import orjson

from gproxy.channels.error_classifier import Fault
from gproxy.credentials import selection
from gproxy.credentials.cooldown import (
    FOR_ALL_MODELS,
    INVALID_KEY,
    NEVER,
    PROBE_S,
    Cooldown,
    after_fault,
    allows_last_resort,
    cools_until,
    is_probe_due,
)
from gproxy.errors import NoCredential
from gproxy.snapshot import Credential, Provider
from gproxy.state.interface import Account, Limit, Take, Taken
from gproxy.state.shared_dict import SharedDict
from gproxy.units import moment

MAX_NAME = 600  # bytes of a name in the shared dictionary
NO_COOLDOWNS = (None, None)
KEEP_S = 86_400  # a cooldown is stored this long after its end
NO_WAIT_RETRY_S = 60.0  # Retry-After if only an administrator can help


class Limiter(Protocol):
    """Counts a credential's own limits; `owner` names this process in the shared state. Raises Unavailable."""

    owner: str

    def try_take(self, take: Take) -> Taken: ...

    def inspect(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken: ...

    def settle(self, call: int, money: int, tokens: int) -> None: ...


class Pool:
    """The credentials of one process, whose cooldowns and limits all processes share.

    `clock` returns seconds since the epoch; `new_id` returns a new call id for a time in nanoseconds. `is_current`
    returns False for a credential that was deleted or has another key now: the result of a call with an old key says
    nothing about the new one.
    """

    def __init__(
        self,
        shared_dict: SharedDict,
        reserver: Limiter,
        new_id: Callable[[int], int],
        clock: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
        is_current: Callable[[Credential], bool] = lambda credential: True,
    ):
        self.reserver, self.clock, self.is_current = reserver, clock, is_current
        self._shared_dict, self._new_id, self._dice = shared_dict, new_id, dice
        self._calls: dict[int, int] = {}

    def candidates(self, provider: Provider, model: str, affinity: bytes, first: int | None = None) -> "Candidates":
        """Returns the provider's credentials in the order for the conversation that `affinity` names.

        The credential with the id `first` comes first in any strategy. Raises NoCredential.
        """
        if not provider.credentials:
            raise _no_credential(provider)
        order = self.order(provider, affinity, first)
        if provider.settings.rotation_strategy == selection.ROUND_ROBIN:
            self._calls[provider.id] = self._calls.get(provider.id, 0) + 1
        return Candidates(self, provider, model, order)

    def order(self, provider: Provider, affinity: bytes, first: int | None = None) -> Sequence[Credential]:
        """Returns the order in which the next call would try the credentials."""
        credentials, strategy = provider.credentials, provider.settings.rotation_strategy
        if strategy == selection.CACHE_AFFINITY:
            order = selection.by_affinity(credentials, affinity)
        elif strategy == selection.STICKY or not credentials:
            order = credentials
        else:
            order = selection.by_round_robin(credentials, self._calls.get(provider.id, 0))
        return order if first is None else sorted(order, key=lambda credential: credential.id != first)

    def skip_reason(self, credential: Credential, model: str) -> str | None:
        """Returns why the next call would skip the credential, or None. Reserves nothing."""
        now = self.clock()
        for cooldown in self.cooldowns(credential, model):
            if until := cools_until(cooldown, credential.fingerprint, now):
                end = f" until {moment(until)}" if until < NEVER else ": an administrator must enable it"
                return f"{cooldown.verdict}{end}"
        if credential.is_limited:
            for status in self.reserver.inspect((), (_limit(credential),)).statuses:
                if status.remaining < 1:
                    return f"its own {status.counter} of {status.limit} is used up"
        return None

    def first_usable(self, provider: Provider) -> Credential:
        """Returns the first usable credential, else the first one. Raises NoCredential."""
        if not provider.credentials:
            raise _no_credential(provider)
        return next(filter(self.is_usable, provider.credentials), provider.credentials[0])

    def cooldowns(self, credential: Credential, model: str) -> tuple[Cooldown | None, Cooldown | None]:
        """Returns the cooldowns for all models and for this one; NO_COOLDOWNS itself if there is neither."""
        for_all, for_model = self._shared_dict.notes(_names(credential.id, model))
        return NO_COOLDOWNS if for_all is for_model is None else (_load(for_all), _load(for_model))

    def claim_probe(self, credential: Credential, model: str) -> bool:
        """Claims the probe of a credential whose cooldown is over. Returns False if another call has claimed it."""
        now, is_claimed = self.clock(), True
        for cooldown, name in zip(self.cooldowns(credential, model), ("", model), strict=True):
            if is_probe_due(cooldown, credential.fingerprint, now):
                is_claimed = self._claim_probe(_name(credential.id, name), credential.fingerprint, now) and is_claimed
        return is_claimed

    def _claim_probe(self, name: str, fingerprint: str, now: float) -> bool:
        is_claimed = False

        def update(note: bytes | None) -> bytes | None:
            nonlocal is_claimed
            cooldown = _load(note)
            is_claimed = cooldown is None or is_probe_due(cooldown, fingerprint, now)
            if cooldown is None or not is_claimed:
                return note
            return _dump(cooldown._replace(probe_until=now + PROBE_S))

        self._shared_dict.change(name, update)
        return is_claimed

    def release_probe(self, credential: Credential, model: str) -> None:
        """Gives up a claimed probe without a result: the next call may probe at once."""

        def update(note: bytes | None) -> bytes | None:
            cooldown = _load(note)
            if cooldown is None or cooldown.fingerprint != credential.fingerprint:
                return note
            return _dump(cooldown._replace(probe_until=0.0))

        for cooldown, name in zip(self.cooldowns(credential, model), ("", model), strict=True):
            if cooldown is not None and cooldown.probe_until > self.clock():
                self._shared_dict.change(_name(credential.id, name), update)

    def failed(self, credential: Credential, model: str, fault: Fault) -> None:
        """Starts or extends the cooldown, for this model or for all. A replaced key changes nothing."""
        if not self.is_current(credential):
            return
        now, dice = self.clock(), self._dice()

        def update(note: bytes | None) -> bytes:
            return _dump(after_fault(_load(note), fault.verdict, fault.wait_s, credential.fingerprint, now, dice))

        for_all = fault.verdict in FOR_ALL_MODELS
        self._shared_dict.change(_name(credential.id, "" if for_all else model), update)

    def succeeded(self, credential: Credential, model: str, began: float) -> None:
        """Ends the cooldowns that existed when the call began. An invalid key stays disabled.

        A replaced key changes nothing.
        """

        def update(note: bytes | None) -> bytes | None:
            cooldown = _load(note)
            return note if cooldown is None or _stays_after(cooldown, credential, began) else None

        if (cooldowns := self.cooldowns(credential, model)) is NO_COOLDOWNS or not self.is_current(credential):
            return
        for cooldown, name in zip(cooldowns, ("", model), strict=True):
            if cooldown is not None and not _stays_after(cooldown, credential, began):
                self._shared_dict.change(_name(credential.id, name), update)

    def reserve(self, credential: Credential) -> tuple[int | None, float]:
        """Makes a reservation in the credential's own limits, which must be released.

        Returns its id and 0, or None and the seconds until there may be room. Raises Unavailable.
        """
        call = self._new_id(time.time_ns())
        taken = self.reserver.try_take(Take(call, self.reserver.owner, (), (_limit(credential),), 0, 0))
        if taken.refused is None:
            return call, 0.0
        return None, NO_WAIT_RETRY_S if taken.refused.wait_s is None else taken.refused.wait_s

    def release(self, reservation: int) -> None:
        """Ends a reservation of `reserve`."""
        self.reserver.settle(reservation, 0, 0)

    def enable(self, credential_id: int) -> None:
        """Ends every cooldown of the credential."""
        prefix = _name(credential_id, "")
        for name in self._shared_dict.all():
            if name.startswith(prefix):
                self._shared_dict.change(name, lambda note: None)

    def disable(self, credential: Credential) -> None:
        """Disables the credential until `enable`."""
        self.failed(credential, "", Fault(INVALID_KEY))

    def state(self, credential: Credential) -> "CredentialState":
        """Returns status and cooldowns. It reads the whole shared dictionary, so it is not for the request path."""
        prefix, now = _name(credential.id, ""), self.clock()
        notes = ((name, _load(note)) for name, note in self._shared_dict.all().items() if name.startswith(prefix))
        cooldowns = {
            name.removeprefix(prefix): cooldown
            for name, cooldown in notes
            if cools_until(cooldown, credential.fingerprint, now)
        }
        if "" in cooldowns and cooldowns[""].verdict == INVALID_KEY:
            return CredentialState("unavailable", cooldowns)
        return CredentialState("cooldown" if cooldowns else "healthy", cooldowns)

    def statuses(self, credentials: Sequence[Credential]) -> dict[int, str]:
        """Returns the status of each credential by its id, with one read of the shared dictionary."""
        now, found = self.clock(), {one.id: "healthy" for one in credentials}
        fingerprints = {one.id: one.fingerprint for one in credentials}
        for name, note in self._shared_dict.all().items():
            number, _, model = name.partition("/")
            cooldown, one = _load(note), int(number)
            if cooldown.fingerprint != fingerprints.get(one) or not cools_until(cooldown, cooldown.fingerprint, now):
                continue
            is_disabled = not model and cooldown.verdict == INVALID_KEY
            if found[one] != "unavailable":
                found[one] = "unavailable" if is_disabled else "cooldown"
        return found

    def is_usable(self, credential: Credential) -> bool:
        """Returns True if the credential has no cooldown for all models."""
        (note,) = self._shared_dict.notes((_name(credential.id, ""),))
        return not cools_until(_load(note), credential.fingerprint, self.clock())

    def close(self) -> None:
        self._shared_dict.close()


class CredentialState(NamedTuple):
    """`healthy`, `cooldown` or `unavailable`, and the current cooldowns by model; "" stands for all models."""

    status: str
    cooldowns: dict[str, Cooldown]


class Candidates:
    """The credentials of a provider for one call, which tries each at most once."""

    def __init__(self, pool: Pool, provider: Provider, model: str, order: Sequence[Credential]):
        self._pool, self._provider, self._model = pool, provider, model
        self._remaining = list(order)
        self._usable_at = 0.0  # when the first of the skipped credentials can be used

    @property
    def remaining(self) -> int:
        """The number of credentials that were not tried yet."""
        return len(self._remaining)

    def next(self, with_reservation: bool = True) -> tuple[Credential, int | None] | None:
        """Returns the next usable credential and, if it has limits, its reservation; None if no credential is usable.

        Without `with_reservation` its limits are not checked; `reserve` does that later. Raises Unavailable.
        """
        for credential in list(self._remaining):
            if (cooldowns := self._pool.cooldowns(credential, self._model)) is NO_COOLDOWNS:
                if found := self._take(credential, with_reservation):
                    return found
                continue
            now = self._pool.clock()
            until = max(cools_until(cooldown, credential.fingerprint, now) for cooldown in cooldowns)
            if until:
                self._update_usable_at(until)
                continue
            is_due = any(is_probe_due(cooldown, credential.fingerprint, now) for cooldown in cooldowns)
            if is_due and not self._pool.claim_probe(credential, self._model):
                self._update_usable_at(now + 1.0)
                continue
            if found := self._take(credential, with_reservation):
                return found
            self._pool.release_probe(credential, self._model)
        return None

    def last_resort(self, with_reservation: bool = True) -> tuple[Credential, int | None] | None:
        """Returns, of the credentials whose cooldown allows a last resort, the one that is usable first; else None."""
        allowed = []
        for credential in self._remaining:
            cooldowns = [
                cooldown
                for cooldown in self._pool.cooldowns(credential, self._model)
                if cooldown is not None and cooldown.fingerprint == credential.fingerprint
            ]
            if all(map(allows_last_resort, cooldowns)):
                allowed.append((max((cooldown.until for cooldown in cooldowns), default=0.0), credential))
        for _, credential in sorted(allowed, key=lambda one: one[0]):
            if found := self._take(credential, with_reservation):
                return found
        return None

    def refusal(self) -> NoCredential:
        """Returns the error for a call without a usable credential."""
        name, wait_s = self._provider.name, self._usable_at - self._pool.clock()
        if not self._usable_at or wait_s > KEEP_S:
            text = f"the upstream refuses the keys of provider {name!r}; an administrator must replace or enable them"
            return NoCredential(text, retry_after_s=int(NO_WAIT_RETRY_S))
        seconds = max(1, ceil(wait_s))
        text = f"every credential of provider {name!r} is cooling or busy; try again in {seconds} s"
        return NoCredential(text, retry_after_s=seconds)

    def reserve(self, credential: Credential) -> int | None:
        """Returns a reservation in the credential's limits, or None if they are used up. Raises Unavailable."""
        reservation, wait_s = self._pool.reserve(credential)
        if reservation is None:
            self._update_usable_at(self._pool.clock() + wait_s)
        return reservation

    def _take(self, credential: Credential, with_reservation: bool) -> tuple[Credential, int | None] | None:
        reservation = None
        if with_reservation and credential.is_limited and (reservation := self.reserve(credential)) is None:
            return None
        self._remaining.remove(credential)
        return credential, reservation

    def _update_usable_at(self, at: float) -> None:
        self._usable_at = min(self._usable_at, at) if self._usable_at else at


def _limit(credential: Credential) -> Limit:
    return Limit(f"c{credential.id}", credential.rpm, concurrency=credential.concurrency)


def _no_credential(provider: Provider) -> NoCredential:
    return NoCredential(f"provider {provider.name!r} has no enabled credential", retry_after_s=int(NO_WAIT_RETRY_S))


def _name(credential_id: int, model: str) -> str:
    """Returns the name in the shared dictionary; a long model name is replaced by its beginning and a digest."""
    name = f"{credential_id}/{model}"
    if len(model) * 4 > MAX_NAME and len(model.encode()) > MAX_NAME:
        name = f"{credential_id}/{model[:100]}#{blake2b(model.encode(), digest_size=16).hexdigest()}"
    return name


@lru_cache(maxsize=4096)
def _names(credential_id: int, model: str) -> tuple[str, str]:
    return _name(credential_id, ""), _name(credential_id, model)


def _load(note: bytes | None) -> Cooldown | None:
    return None if note is None else Cooldown(*orjson.loads(note))


def _dump(cooldown: Cooldown) -> bytes:
    return orjson.dumps(tuple(cooldown))


def expires(note: bytes) -> float:
    """Returns when the note of a cooldown expires, in seconds since the epoch."""
    return _load(note).until + KEEP_S


def _stays_after(cooldown: Cooldown, credential: Credential, began: float) -> bool:
    is_same_key = cooldown.fingerprint == credential.fingerprint
    return is_same_key and (cooldown.verdict == INVALID_KEY or cooldown.at > began)
