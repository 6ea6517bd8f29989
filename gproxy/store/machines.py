"""The machines that work on one database: each data directory has a number below 256, kept while it is in use."""

import secrets
import time
from pathlib import Path

from gproxy.errors import StartupError
from gproxy.store import models as m
from gproxy.store.database import Database
from gproxy.units import NS

MACHINES = 256
SEEN_S = 60
# A machine that was not seen for so long has ended, and its number may be used again.
FORGOTTEN_S = 3600


def register(database: Database, data_dir: Path) -> tuple[int, int]:
    """This machine's number, and how many others were seen in the last two minutes. Raises StartupError."""
    owner, now = _owner(data_dir), time.time_ns()
    with database.write():
        rows = {row.id: row for row in m.Machine.select().order_by(m.Machine.id)}
        others = [r for r in rows.values() if r.owner != owner and r.seen_at > now - 2 * SEEN_S * NS]
        mine = next((row.id for row in rows.values() if row.owner == owner), None)
        if mine is None:
            stale = [r.id for r in rows.values() if r.seen_at < now - FORGOTTEN_S * NS]
            free = [number for number in range(MACHINES) if number not in rows] + stale
            if not free:
                raise StartupError([f"the database is in use by {MACHINES} machines already"])
            mine = free[0]
            m.Machine.delete().where(m.Machine.id == mine).execute()
            m.Machine.create(id=mine, owner=owner, seen_at=now)
        else:
            m.Machine.update(seen_at=now).where(m.Machine.id == mine).execute()
    return mine, len(others)


def others(data_dir: Path) -> int:
    """How many machines beside this one were seen in the last two minutes."""
    recent = (m.Machine.owner != _owner(data_dir)) & (m.Machine.seen_at > time.time_ns() - 2 * SEEN_S * NS)
    return m.Machine.select().where(recent).count()


def seen(machine: int) -> None:
    """Says that this machine is alive."""
    m.Machine.update(seen_at=time.time_ns()).where(m.Machine.id == machine).execute()


def _owner(data_dir: Path) -> str:
    path = data_dir / "machine-id"
    if path.exists() and (known := path.read_text().strip()):
        return known
    fresh = secrets.token_hex(16)
    path.write_text(fresh + "\n")
    return fresh
