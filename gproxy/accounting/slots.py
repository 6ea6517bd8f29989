"""Journal slots: one folder per worker, which the worker keeps locked while it runs.

Slot numbers also make usage ids unique among the workers of a machine.

A slot is a folder with three digits as its name and a regular file `lock` in it. Anything else in their place is left
alone: a folder without its lock may belong to a worker that runs.
"""

import fcntl
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import NamedTuple

from gproxy.accounting import segments as segment_files
from gproxy.state.folder_lock import open_lock, try_lock

SLOTS = 128
TOKEN_BYTES = 16  # of an owner's name
_NAME = re.compile(r"[0-9]{3}")


class Slot(NamedTuple):
    """The locked folder of one worker. `inherited` are the segments that a crashed worker left in it."""

    number: int
    folder: Path
    lock: int
    inherited: list[Path]

    def new_owner(self, machine: int) -> str:
        """Makes and stores a new owner name, under which the worker's reservations are kept. Raises OSError."""
        os.pwrite(self.lock, secrets.token_hex(TOKEN_BYTES // 2).encode(), 0)
        return owner_of(self.folder, machine)


class MachineSlots(NamedTuple):
    """All journal slots of a machine."""

    root: Path
    machine: int

    def folders(self) -> list[Path]:
        return folders(self.root)

    def owner_of(self, folder: Path) -> str | None:
        """The name of the worker that owns this slot or owned it last; None if the slot does not exist."""
        return owner_of(folder, self.machine)


def take_slot(root: Path) -> Slot:
    """Takes the slot of a crashed worker with its segments, else a new slot. Raises OSError, RuntimeError."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(SLOTS):
        folder = root / f"{number:03d}"
        if not os.path.lexists(folder):
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
    locks = [try_lock(folder) for folder in folders(root)]
    for lock in locks:
        if lock is not None:
            os.close(lock)
    return locks.count(None)


def folders(root: Path) -> list[Path]:
    """The folders of all slots, in the order of their numbers."""
    return [path for path in _named_as_slots(root) if path.is_dir() and not path.is_symlink()]


def unusable(root: Path) -> list[tuple[Path, str]]:
    """What has the name of a slot and is none, each with the reason. Raises OSError."""
    found, usable = [], folders(root)
    for path in _named_as_slots(root):
        if path not in usable:
            found.append((path, "it is no folder"))
        elif (lock := open_lock(path)) is not None:
            os.close(lock)
        else:
            found.append((path, "its lock cannot be used"))
    return [(path, reason) for path, reason in found if os.path.lexists(path)]  # not removed since it was listed


def _named_as_slots(root: Path) -> list[Path]:
    return [path for path in sorted(root.glob("[0-9][0-9][0-9]")) if _NAME.fullmatch(path.name)]


def owner_of(folder: Path, machine: int) -> str | None:
    """The name of the worker that owns this slot or owned it last; None if the slot does not exist."""
    if (lock := open_lock(folder)) is None:
        return None
    try:
        token = os.pread(lock, TOKEN_BYTES, 0)
    finally:
        os.close(lock)
    return f"{machine}/{folder.name}/{token.decode('ascii', 'replace').replace('/', '?')}"


def segments(folder: Path) -> list[Path]:
    """A slot's segments, oldest first."""
    return segment_files.find(folder)[0]


def remove(slot: Slot) -> None:
    """Deletes a slot whose calls are all in the database, and unlocks it. Raises OSError.

    A slot that still has anything with the name of a segment is unlocked and left.
    """
    if any(segment_files.find(slot.folder)):
        os.close(slot.lock)
        return
    # Renamed first: a folder that is only partly deleted would look like a slot that cannot be locked.
    removed = slot.folder.with_name(f".gone-{secrets.token_hex(4)}")
    slot.folder.rename(removed)
    os.close(slot.lock)
    shutil.rmtree(removed, ignore_errors=True)


def size(root: Path) -> int:
    """The size of all slots' segments in bytes, including those of crashed workers."""
    total = 0
    for folder in folders(root):
        for path in segments(folder):
            try:
                total += path.lstat().st_size
            except FileNotFoundError:  # deleted since it was listed
                continue
    return total
