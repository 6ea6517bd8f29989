"""Who may import whom. Change the table on purpose or not at all."""

import ast
from pathlib import Path

import pytest

from gproxy import channels, protocols

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING = {"*"}
SNAPSHOT = "store.snapshot"  # the snapshot's types, where the rest of the store is closed

ROOMS = {  # room: what it may import of ours
    "app": EVERYTHING,
    "server": EVERYTHING,
    "runtime": EVERYTHING,
    "bootstrap": EVERYTHING,
    "cli": EVERYTHING,
    "web/llm": {"web", "relay", "protocols", "errors"},
    "web": {"relay", "protocols", "errors", "admission", "routing", "accounting", "state", "store", "config", "logs"},
    "relay": {
        *("admission", "routing", "protocols", "channels", "upstream", "accounting", "state", "errors", SNAPSHOT),
    },
    "admission": {"state", "errors", SNAPSHOT},
    "routing": {"state", "errors", SNAPSHOT},
    "accounting": {"state", "errors", "syscalls", "protocols.hub", SNAPSHOT},
    "config": {"store", "channels", "errors"},
    "upstream": {"errors", "turns"},
    "state": {"errors", "syscalls"},
    "store": {"errors", "state.periods"},  # pure: accounts and shared state must agree on where a window begins
    "protocols": {"errors"},
    "channels": {"errors"},
    "settings": {"errors"},
    "syscalls": set(),
    "turns": set(),
    "units": set(),
    "threads": set(),
    "logs": set(),
    "errors": set(),
}
FLASK_ROOMS = {"web", "app", "cli"}
PURE = {"protocols", "channels", "admission", "routing", "config"}
EFFECTS = {"socket", "gevent", "requests", "urllib3", "time", "os", "subprocess", "threading", "peewee", "sqlite3"}


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
        inside == name or inside.startswith(f"{name}.") for name in ({own, "__version__", "units"} | allowed)
    )


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_rooms_keep_to_their_doors(path):
    room = room_of(path)
    if room == "__init__":
        assert imports(path) == []
        return
    assert room in ROOMS, f"{room} is no room of the table: add it on purpose"
    wrong = [name for name in imports(path) if name.startswith("gproxy.") and not is_allowed(room, name)]
    assert not wrong, f"{room} may not import {wrong}"


def test_no_room_of_the_table_is_gone():
    assert {room_of(path) for path in files()} - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_flask_and_effects_stay_where_they_belong(path):
    room = room_of(path).partition("/")[0]
    outside = {name.partition(".")[0] for name in imports(path)}
    if room not in FLASK_ROOMS:
        assert not outside & {"flask", "werkzeug"}
    if room in PURE:
        assert not outside & EFFECTS


def test_every_lane_names_a_protocol_that_exists():
    known = set(protocols.load())
    for kind in channels.load().values():
        lanes = [kind.lanes, *kind.protocol_lanes.values()]
        assert {protocol for found in lanes for _, protocol in found} <= known


def test_gunicorn_patches_before_anything_else():
    first = (ROOT / "gunicorn.conf.py").read_text().splitlines()[0]
    assert first.startswith("from gevent import monkey; monkey.patch_all()")
