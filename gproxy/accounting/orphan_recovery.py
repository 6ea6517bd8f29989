"""Settles what crashed workers have reserved, as their journals say."""

import logging
from pathlib import Path

from gproxy.accounting.entries import SettledCall, tokens_of
from gproxy.errors import Unavailable
from gproxy.state.interface import SharedState

log = logging.getLogger(__name__)


class OrphanRecovery:
    """What dead processes still hold: each call is settled as their journal says, what it does not know is freed."""

    def __init__(self, shared: SharedState, owner: str, root: Path):
        self._shared, self._owner, self._root = shared, owner, root
        self._machine = owner.partition("/")[0]
        self._slots: set[str] = set()  # whose dead are to be settled, once their journal is read
        self._calls: dict[int, tuple[int, int] | None] = {}  # what they hold, with cost and tokens as far as they ended
        self._doubtful: set[str] = set()  # accounts that may lack what was freed

    def add(self, folder: Path) -> None:
        """A slot that we took over: all who had it before are dead."""
        self._slots.add(folder.name)

    def look(self) -> bool:
        """Asks for the calls of these slots. False while that cannot be told: their journal must not be read yet."""
        try:
            if self._slots:
                for _, calls in self._dead():
                    self._calls |= {call: None for call in calls if call not in self._calls}
        except Unavailable as fault:
            log.warning("the journals of dead processes wait: %s", fault.message)
            return False
        return True

    def see(self, bookings: list[SettledCall], is_old: bool) -> None:
        """From the journal of a dead process, an old one perhaps; read in the native thread."""
        for row in (booking.row for booking in bookings):
            if row["trace_id"] in self._calls:
                self._calls[row["trace_id"]] = row["cost"], tokens_of(row)
            elif is_old:
                self._doubtful |= {f"u{row['user_id']}", f"k{row['user_key_id']}"}

    def settle(self) -> None:
        """Their journal is read. Once more only those that hold something still: a call ends once."""
        if not self._slots:
            return
        try:
            for owner, calls in self._dead():
                for call in calls:
                    if (ended := self._calls.get(call)) is not None:
                        self._shared.settle(call, *ended)
                    else:
                        self._shared.release(call)
                log.info("%d calls of the dead process %s hold nothing any more", len(calls), owner)
            for account in self._doubtful:
                self._shared.forget(account)
        except Unavailable as fault:
            log.warning("holds of dead processes wait: %s", fault.message)
            return
        self._slots.clear()
        self._calls.clear()
        self._doubtful.clear()

    def _dead(self) -> list[tuple[str, list[int]]]:
        """Owners of these slots, and of slots that are gone, but for ourselves. Raises Unavailable."""
        found = []
        for owner, calls in self._shared.reservations().items():
            machine, slot, _ = owner.split("/")
            is_ours = machine == self._machine and owner != self._owner
            if is_ours and (slot in self._slots or not (self._root / slot).exists()):
                found.append((owner, calls))
        return found
