"""The machines of one database: each data directory has a number below 256 and keeps it while it is in use."""

import secrets
import time
from pathlib import Path

from gproxy.errors import StartupError
from gproxy.store import models as m
from gproxy.store.database import Database
from gproxy.units import NS

MAX_MACHINES = 256
HEARTBEAT_S = 60
# A machine without a heartbeat for this long has ended, and its number may be used again.
EXPIRY_S = 3600


def register(database: Database, data_dir: Path) -> tuple[int, int]:
    """This machine's number, and how many others had a heartbeat in the last two minutes. Raises StartupError."""
    owner, now = _owner(data_dir), time.time_ns()
    with database.write():
        rows = {row.id: row for row in m.Machine.select().order_by(m.Machine.id)}
        others = [r for r in rows.values() if r.owner != owner and r.seen_at > now - 2 * HEARTBEAT_S * NS]
        number = next((row.id for row in rows.values() if row.owner == owner), None)
        if number is None:
            stale = [r.id for r in rows.values() if r.seen_at < now - EXPIRY_S * NS]
            free = [n for n in range(MAX_MACHINES) if n not in rows] + stale
            if not free:
                raise StartupError([f"the database is in use by {MAX_MACHINES} machines already"])
            number = free[0]
            m.Machine.delete().where(m.Machine.id == number).execute()
            m.Machine.create(id=number, owner=owner, seen_at=now)
        else:
            m.Machine.update(seen_at=now).where(m.Machine.id == number).execute()
    return number, len(others)


def count_others(data_dir: Path) -> int:
    """How many machines besides this one had a heartbeat in the last two minutes."""
    recent = (m.Machine.owner != _owner(data_dir)) & (m.Machine.seen_at > time.time_ns() - 2 * HEARTBEAT_S * NS)
    return m.Machine.select().where(recent).count()


def heartbeat(machine: int) -> None:
    """Records that this machine is alive."""
    m.Machine.update(seen_at=time.time_ns()).where(m.Machine.id == machine).execute()


def _owner(data_dir: Path) -> str:
    path = data_dir / "machine-id"
    if path.exists() and (known := path.read_text().strip()):
        return known
    fresh = secrets.token_hex(16)
    path.write_text(fresh + "\n")
    return fresh
