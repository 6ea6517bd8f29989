"""Journal slots: one folder per worker, which the worker keeps locked while it runs.

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
    """The locked folder of one worker. `inherited` are the segments that a crashed worker left in it."""

    number: int
    folder: Path
    lock: int
    inherited: list[Path]

    def new_owner(self, machine: int) -> str:
        """Makes and stores a new owner name, under which the worker's reservations are kept. Raises OSError."""
        name = secrets.token_hex(8)
        os.pwrite(self.lock, name.encode(), 0)
        return _owner(machine, self.folder, name)


class MachineSlots(NamedTuple):
    """All journal slots of a machine."""

    root: Path
    machine: int

    def folders(self) -> list[Path]:
        return sorted(self.root.glob("[0-9]*"))

    def owner_of(self, folder: Path) -> str | None:
        """The name of the worker that owns this slot or owned it last; None if the slot does not exist."""
        return owner_of(folder, self.machine)


def take_slot(root: Path) -> Slot:
    """Takes the slot of a crashed worker with its segments, else a new slot. Raises OSError, RuntimeError."""
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
    """Makes a slot under a temporary name and locks it before the rename, so that it is never visible unlocked.

    Returns None if another worker made the slot first.
    """
    unnamed = root / f".new-{os.getpid()}-{secrets.token_hex(4)}"
    unnamed.mkdir()
    lock = os.open(unnamed / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        unnamed.rename(folder)
    except OSError:
        os.close(lock)
        shutil.rmtree(unnamed)
        return None
    return Slot(number, folder, lock, [])


def count_running(root: Path) -> int:
    """The number of workers of this machine that own a slot now."""
    locks = [try_lock(folder) for folder in root.glob("[0-9][0-9][0-9]")]
    for lock in locks:
        if lock is not None:
            os.close(lock)
    return locks.count(None)


def owner_of(folder: Path, machine: int) -> str | None:
    """The name of the worker that owns this slot or owned it last; None if the slot does not exist."""
    try:
        return _owner(machine, folder, (folder / "lock").read_text())
    except FileNotFoundError:
        return None


def _owner(machine: int, folder: Path, name: str) -> str:
    return f"{machine}/{folder.name}/{name}"


def segments(folder: Path) -> list[Path]:
    """A slot's segments, oldest first."""
    return sorted(folder.glob("*.log"))


def remove(slot: Slot) -> None:
    """Deletes a slot whose calls are all in the database, and unlocks it. Raises OSError."""
    # Renamed first: a folder that is only partly deleted would look like a slot that cannot be locked.
    removed = slot.folder.with_name(f".gone-{secrets.token_hex(4)}")
    slot.folder.rename(removed)
    os.close(slot.lock)
    shutil.rmtree(removed, ignore_errors=True)


def size(root: Path) -> int:
    """The size of all slots' segments in bytes, including those of crashed workers."""
    total = 0
    for path in root.glob("[0-9]*/*.log"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # deleted since it was listed
            continue
    return total
