"""Journal slots: one folder per worker, which the worker keeps locked while it lives.

Slot numbers also make usage ids unique among the workers of a machine.
"""

import fcntl
import os
import secrets
import shutil
from pathlib import Path
from typing import NamedTuple

from gproxy.state.folder_lock import try_lock

SLOTS = 128


class Slot(NamedTuple):
    """A locked folder of one process. `inherited` are segments of a dead process that had it before."""

    number: int
    folder: Path
    lock: int
    inherited: list[Path]

    def sign(self, machine: int) -> str:
        """The name of this process, unlike that of any before it, under which it holds what its calls may cost."""
        os.pwrite(self.lock, secrets.token_hex(8).encode(), 0)
        return owner_of(self.folder, machine)


def take_slot(root: Path) -> Slot:
    """A dead process's slot with what it left behind, else a new one. Raises OSError, RuntimeError."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(SLOTS):
        folder = root / f"{number:03d}"
        if not folder.exists():
            if slot := _new_slot(root, folder, number):
                return slot
        elif (lock := try_lock(folder)) is not None:
            return Slot(number, folder, lock, segments(folder))
    raise RuntimeError(f"all {SLOTS} journal slots in {root} are in use")


def _new_slot(root: Path, folder: Path, number: int) -> Slot | None:
    """Made under another name and locked first, so that nobody ever sees it unlocked. None: another was faster."""
    fresh = root / f".new-{os.getpid()}-{secrets.token_hex(4)}"
    fresh.mkdir()
    lock = os.open(fresh / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        fresh.rename(folder)
    except OSError:
        os.close(lock)
        shutil.rmtree(fresh)
        return None
    return Slot(number, folder, lock, [])


def living(root: Path) -> int:
    """How many processes of this machine write a journal now."""
    locks = [try_lock(folder) for folder in root.glob("[0-9][0-9][0-9]")]
    for lock in locks:
        if lock is not None:
            os.close(lock)
    return locks.count(None)


def owner_of(folder: Path, machine: int) -> str | None:
    """The name of the process that has this slot, or had it last; None when the slot is gone."""
    try:
        return f"{machine}/{folder.name}/{(folder / 'lock').read_text()}"
    except FileNotFoundError:
        return None


def segments(folder: Path) -> list[Path]:
    """A slot's segments, oldest first."""
    return sorted(folder.glob("*.log"))


def give_back(slot: Slot) -> None:
    """Removes a slot whose lines are all booked."""
    # Renamed first: a folder that is half removed would look like a slot that nobody can lock.
    gone = slot.folder.with_name(f".gone-{secrets.token_hex(4)}")
    slot.folder.rename(gone)
    os.close(slot.lock)
    shutil.rmtree(gone, ignore_errors=True)


def size(root: Path) -> int:
    """Bytes that the segments of all slots take, also those of dead processes."""
    found = 0
    for path in root.glob("[0-9]*/*.log"):
        try:
            found += path.stat().st_size
        except FileNotFoundError:  # booked meanwhile
            continue
    return found
