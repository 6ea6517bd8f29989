"""Every replacement can be switched off, and then the library's own way serves the same result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gproxy import settings
from gproxy.errors import StartupError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "gproxy" / "fastpath"

# What serves, by the name of its file. Run in a process of its own: the variable is read at import.
SERVING = """
from gevent import monkey
monkey.patch_all()
import gc, http.client, json, os, sys
import gunicorn.util
from urllib3.connection import HTTPConnection
from gproxy.fastpath import access_line, chunked, collector, connection, direct_response, fairness, fixed_routes
from gproxy.fastpath import http_date, switches, syscalls
from gproxy.app import create_app
from gproxy.upstream import client

collector.tune_threads()
collector.tune_collector()
app = create_app()
answer = direct_response.respond(200, [("X-A", "b")], [b"x"], lambda: None)
print(json.dumps({
    "access_line": switches.is_on("access_line"),
    "chunked": client.IS_ON,
    "collector": gc.get_freeze_count() > 0 and sys.getswitchinterval() < 0.005,
    "connection": connection.CONNECTIONS[HTTPConnection] is connection.PlainConnection
        and http.client.parse_headers is connection.parse_headers,
    "direct_response": type(answer).__name__ == "_DirectResponse",
    "fairness": fairness.yield_to_others.__name__ == "_yield_to_sockets",
    "fixed_routes": bool(app._fixed),
    "http_date": gunicorn.util.http_date is http_date.http_date,
    "syscalls": syscalls.pwrite is not os.pwrite,
}))
"""


def serving(value: str | None) -> dict[str, bool]:
    environ = {name: text for name, text in os.environ.items() if name != "GPROXY_FASTPATH"}
    if value is not None:
        environ["GPROXY_FASTPATH"] = value
    ran = subprocess.run([sys.executable, "-c", SERVING], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_the_names_are_those_of_the_files():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "switches"}
    assert files == settings.FAST_PATHS


@pytest.mark.parametrize(
    ("value", "on"),
    [
        (None, settings.FAST_PATHS),
        ("all", settings.FAST_PATHS),
        ("off", set()),
        ("chunked, SYSCALLS", {"chunked", "syscalls"}),
        ("access_line,collector,connection", {"access_line", "collector", "connection"}),
        (
            "direct_response,fairness,fixed_routes,http_date",
            {"direct_response", "fairness", "fixed_routes", "http_date"},
        ),
    ],
)
def test_exactly_what_the_variable_names_is_on(value, on):
    assert {name for name, is_on in serving(value).items() if is_on} == on


def test_an_unknown_name_stops_the_start_and_names_the_known_ones():
    with pytest.raises(StartupError) as refused:
        settings.load({"GPROXY_FASTPATH": "chunked,warp"})
    assert "'warp' is unknown" in refused.value.problems[0]
    assert all(name in refused.value.problems[0] for name in settings.FAST_PATHS)
