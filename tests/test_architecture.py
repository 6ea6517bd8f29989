"""Which room may import which. Change the table on purpose or not at all."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from gproxy import channels, protocols

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING = {"*"}
EVERY_ROOM = {"errors", "units", "__version__"}

ROOMS = {  # room: what it may import of ours, besides itself and EVERY_ROOM
    "app": EVERYTHING,
    "server": EVERYTHING,
    "runtime": EVERYTHING,
    "tasks": {"accounting", "quota", "snapshot", "snapshots"},
    "admin_ops": {"bootstrap", "channels", "state", "store", "threads"},
    "status": {"accounting", "metrics", "relay", "snapshots", "state", "threads"},
    "bootstrap": EVERYTHING,
    "cli": EVERYTHING,
    "web/llm": {"web", "relay", "fastpath", "metrics.call_summary", "protocols"},
    "web": {
        *("relay", "protocols", "admission", "routing", "accounting", "quota", "credentials", "metrics"),
        *("request_log", "state", "store", "config", "snapshot", "logs", "fastpath"),
    },
    "relay": {
        *("admission", "routing", "translation", "credentials", "quota", "protocols", "channels", "upstream"),
        *("accounting", "metrics", "request_log", "state", "snapshot"),
    },
    "translation": {"protocols", "channels", "state", "snapshot"},
    "credentials": {"protocols", "channels", "upstream", "state", "snapshot"},
    "quota": {"protocols", "channels", "accounting", "state", "snapshot"},
    "admission": {"state", "snapshot"},
    "routing": {"patterns", "state", "snapshot"},
    "accounting": {"state", "snapshot", "fastpath", "protocols.hub"},
    "metrics": {"state", "snapshot", "fastpath", "protocols.hub"},  # the hub's Usage is what a call is counted by
    "request_log": {"state", "snapshot"},
    "config": {"store", "channels", "patterns", "snapshot"},
    "upstream": {"threads", "fastpath"},
    "state": {"threads", "fastpath"},
    # Accounts and shared state must agree on where a period begins.
    "store": {"threads", "patterns", "snapshot", "state.periods"},
    "protocols": set(),
    "channels": set(),
    "snapshots": {"logs", "settings", "snapshot", "state", "store", "threads"},
    "patterns": set(),
    "snapshot": {"patterns"},
    "settings": set(),
    "fastpath": {"settings"},
    "units": set(),
    "threads": set(),
    "logs": {"fastpath"},
    "errors": set(),
}
FLASK_ROOMS = {"web", "app", "cli", "fastpath"}
PURE = {"protocols", "channels", "admission", "routing", "config"}
EFFECTS = {"socket", "gevent", "requests", "urllib3", "time", "os", "subprocess", "threading", "peewee", "sqlite3"}
# What importing all of a pure room must not load, neither by itself nor through another room.
WITHOUT = {"peewee", "sqlite3", "psycopg", "flask", "werkzeug", "marshmallow", "redis", "requests", "gevent"}
DECIDING = ("admission", "routing", "protocols", "channels", "patterns", "snapshot")


def files() -> list[Path]:
    return sorted((ROOT / "gproxy").rglob("*.py"))


def room_of(path: Path) -> str:
    inside = path.relative_to(ROOT / "gproxy")
    if inside.as_posix() == "web/llm.py":
        return "web/llm"
    return inside.parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Every imported module by its full name; relative imports are not allowed at all."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def is_allowed(room: str, imported: str) -> bool:
    allowed = ROOMS[room]
    own = room.partition("/")[0]
    inside = imported.removeprefix("gproxy.")
    return allowed == EVERYTHING or any(
        inside == name or inside.startswith(f"{name}.") for name in ({own} | EVERY_ROOM | allowed)
    )


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_room_imports_only_the_rooms_of_its_row(path):
    room = room_of(path)
    if room == "__init__":
        assert imports(path) == []
        return
    assert room in ROOMS, f"{room} is no room of the table: add it on purpose"
    wrong = [name for name in imports(path) if name.startswith("gproxy.") and not is_allowed(room, name)]
    assert not wrong, f"{room} may not import {wrong}"


def test_every_room_of_the_table_exists():
    assert {room_of(path) for path in files()} - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_flask_and_effects_stay_in_their_rooms(path):
    room = room_of(path).partition("/")[0]
    outside = {name.partition(".")[0] for name in imports(path)}
    if room not in FLASK_ROOMS:
        assert not outside & {"flask", "werkzeug"}
    if room in PURE:
        assert not outside & EFFECTS


@pytest.mark.parametrize("room", DECIDING)
def test_importing_a_deciding_room_loads_no_database_and_no_server(room):
    modules = [path for path in files() if room_of(path) == room]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules]
    code = (
        f"import sys\nfor name in {names}: __import__(name)\nprint(*set({sorted(WITHOUT)}).intersection(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_every_lane_names_a_protocol_that_exists():
    known = set(protocols.load())
    for kind in channels.load().values():
        lanes = [kind.lanes, *kind.protocol_lanes.values()]
        assert {protocol for found in lanes for _, protocol in found} <= known


def test_gunicorn_patches_before_anything_else():
    first = (ROOT / "gunicorn.conf.py").read_text().splitlines()[0]
    assert first.startswith("from gevent import monkey; monkey.patch_all()")
