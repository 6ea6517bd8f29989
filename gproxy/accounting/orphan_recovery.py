"""Settles the reservations of crashed workers by their journals."""

import logging
from pathlib import Path

from gproxy.accounting.journal_reader import SettledCall, tokens_of
from gproxy.errors import Unavailable
from gproxy.state.interface import SharedState

log = logging.getLogger(__name__)


class OrphanRecovery:
    """Settles reservations left by crashed workers; reservations of calls missing from the journal are released."""

    def __init__(self, shared: SharedState, owner: str, root: Path):
        self._shared, self._owner, self._root = shared, owner, root
        self._machine = owner.partition("/")[0]
        self._slots: set[str] = set()  # slots of crashed workers whose reservations are not settled yet
        self._calls: dict[int, tuple[int, int] | None] = {}  # reserved calls: (cost, tokens), None until read
        self._reload: set[str] = set()  # accounts that may lack a cost whose reservation has expired

    def add(self, folder: Path) -> None:
        """Adds a slot that this worker took over; all its former owners have crashed."""
        self._slots.add(folder.name)

    def find_calls(self) -> bool:
        """Collects the reserved calls of the added slots.

        Returns False while the shared state is unavailable: the slots' journals must not be read before.
        """
        try:
            if self._slots:
                for _, calls in self._crashed_owners():
                    self._calls |= {call: None for call in calls if call not in self._calls}
        except Unavailable as fault:
            log.warning("the journals of crashed workers are not read yet: %s", fault.message)
            return False
        return True

    def note(self, settled_calls: list[SettledCall], is_old: bool) -> None:
        """Takes the calls read from a crashed worker's journal; called in the native thread.

        `is_old`: Redis may have released the worker's reservations already, so the accounts have to be loaded again.
        """
        for row in (call.row for call in settled_calls):
            if row["trace_id"] in self._calls:
                self._calls[row["trace_id"]] = row["cost"], tokens_of(row)
            elif is_old:
                self._reload |= {f"u{row['user_id']}", f"k{row['user_key_id']}"}

    def settle(self) -> None:
        """Settles or releases the collected calls, once their journals are read.

        The owners are read again, because a call whose reservation ended meanwhile must not be settled twice.
        """
        if not self._slots:
            return
        try:
            for owner, calls in self._crashed_owners():
                for call in calls:
                    if (settled := self._calls.get(call)) is not None:
                        self._shared.settle(call, *settled)
                    else:
                        self._shared.release(call)
                log.info("the reservations of %d calls of the crashed worker %s are settled", len(calls), owner)
            for account in self._reload:
                self._shared.forget(account)
        except Unavailable as fault:
            log.warning("reservations of crashed workers are not settled yet: %s", fault.message)
            return
        self._slots.clear()
        self._calls.clear()
        self._reload.clear()

    def _crashed_owners(self) -> list[tuple[str, list[int]]]:
        """Owners with reserved calls in the added slots or in slots that no longer exist. Raises Unavailable."""
        found = []
        for owner, calls in self._shared.reservations().items():
            machine, slot, _ = owner.split("/")
            is_local = machine == self._machine and owner != self._owner
            if is_local and (slot in self._slots or not (self._root / slot).exists()):
                found.append((owner, calls))
        return found
