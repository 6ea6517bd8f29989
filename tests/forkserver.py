"""Starts gateways from a process that has already imported what every start imports, which saves a second each.

As a program (`python -m tests.forkserver`) it patches and imports as `gunicorn.conf.py` does, then forks one child per
request. A child becomes `python -m gunicorn …`: in the forked process, or by an exec when the start must be cold. The
program serves no request by itself: it has no hub, no thread and no file besides its three standard streams.

Requests and replies are lines of JSON on standard input and output. When standard input ends, because the tests ended
or were killed, every child is killed with its process group.
"""

import atexit
import ctypes
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARGUMENTS = ("-c", "gunicorn.conf.py", "wsgi:app")
PR_SET_PDEATHSIG = 1
IMPORTED = ("gunicorn.app.wsgiapp", "gunicorn_h1c", "gproxy.server", "gproxy.app")
WAIT_STEP_S, END_S = 0.005, 10.0
# How variables begin that Python, libc or an import reads: where they differ from the server's own, a start is cold.
READ_AT_IMPORT = (
    *("PYTHON", "_PYTHON", "PURE_PYTHON", "LD_", "MALLOC_", "LANG", "LC_", "TZ", "HOME", "PWD", "XDG_", "OPENSSL_"),
    *("GEVENT", "GREENLET", "GUNICORN", "PSYCOPG", "WRAPT_", "ZOPE_", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"),
    *("PORT", "GPROXY_FASTPATH"),
)


class Process:
    """A forked gateway, with the part of the interface of `subprocess.Popen` that tests use."""

    def __init__(self, server: "ForkServer", pid: int):
        self._server, self.pid = server, pid
        self.returncode: int | None = None
        self._is_reaped = False

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ask(do="poll", pid=self.pid)["returncode"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"gateway {self.pid}", timeout)
            time.sleep(WAIT_STEP_S)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def end(self) -> int:
        """Kills master and workers, also the workers of a master that has ended. Returns when all of them are gone."""
        if self._is_reaped:
            return self.returncode
        os.killpg(self.pid, signal.SIGKILL)  # an ended master is a zombie until it is reaped: the number is still ours
        self.wait(END_S)
        deadline = time.monotonic() + END_S
        while any(_session(process) == self.pid for process in Path("/proc").glob("[0-9]*")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes of gateway {self.pid} survived SIGKILL for {END_S} s")
            time.sleep(WAIT_STEP_S)
        self._server.ask(do="reap", pid=self.pid)
        self._is_reaped = True
        return self.returncode


def _session(process: Path) -> int | None:
    """The session of a process that runs."""
    try:
        state, _, _, session, *_ = (process / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(session)


class ForkServer:
    """The tests' side: starts the program, and asks it."""

    def __init__(self):
        self._environ = dict(os.environ)
        self._lock = threading.Lock()
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.forkserver"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C on a terminal is for the tests alone
        )
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        return self._program.pid

    def start(self, env: dict[str, str], log: Path, cold: bool = False) -> Process:
        """Starts `gunicorn -c gunicorn.conf.py wsgi:app` with exactly this environment; its output goes to `log`."""
        cold = cold or self._read_at_import(env) != self._read_at_import(self._environ)
        return Process(self, self.ask(do="start", env=env, log=str(log), cold=cold)["pid"])

    def ask(self, **request) -> dict:
        with self._lock:
            self._program.stdin.write(json.dumps(request).encode() + b"\n")
            self._program.stdin.flush()
            reply = self._program.stdout.readline()
        if not reply:
            raise RuntimeError(f"the fork server ended with {self._program.wait(5)}")
        return json.loads(reply)

    def close(self) -> None:
        """Ends the server and everything that it started."""
        atexit.unregister(self.close)
        with self._lock:
            self._program.stdin.close()
            self._program.wait(10)
            self._program.stdout.close()

    @staticmethod
    def _read_at_import(env: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in env.items() if name.startswith(READ_AT_IMPORT)}


@cache
def shared() -> ForkServer:
    """The server of this process, started at the first call."""
    return ForkServer()


# From here on: the program. Nothing above imports gevent, gunicorn or gproxy.


def _import_all() -> None:
    """Imports what every start imports. What is imported on demand (argon2, redis, cryptography) stays out."""
    from gevent import get_hub, monkey

    monkey.patch_all()
    for name in IMPORTED:
        import_module(name)
    import_module("gproxy.protocols").load()
    # urllib3 tries an IPv6 socket when it is imported, and a patched socket makes a hub.
    get_hub().destroy(destroy_loop=True)


def _serve() -> dict | None:
    """Answers requests. Returns None when standard input ends and, in a child, the request that the child is for."""
    from gevent import monkey

    fork, waitpid = monkey.get_original("os", "fork"), monkey.get_original("os", "waitpid")
    running: set[int] = set()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request["do"] == "start":
            pid = fork()
            if not pid:
                return request
            running.add(pid)
            reply = {"pid": pid}
        elif request["do"] == "poll":
            ended = os.waitid(os.P_PID, request["pid"], os.WEXITED | os.WNOHANG | os.WNOWAIT)
            reply = {"returncode": None if ended is None else _exit_code(ended)}
        else:
            waitpid(request["pid"], 0)
            running.remove(request["pid"])
            reply = {}
        os.write(1, json.dumps(reply).encode() + b"\n")
    for pid in running:
        os.killpg(pid, signal.SIGKILL)
    return None


def _exit_code(ended) -> int:
    """As subprocess reports it: negative for a signal."""
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _become(request: dict, server: int) -> None:
    """Makes the child what a process is that a shell has just started, and runs gunicorn in it."""
    os.setsid()
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != server:
        os.kill(os.getpid(), signal.SIGKILL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for found, wanted in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(found, wanted)
    os.close(nothing)
    os.close(log)
    if request["cold"]:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as subprocess restores it
        os.execve(sys.executable, [sys.executable, "-m", "gunicorn", *ARGUMENTS], request["env"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[1:] = ARGUMENTS
    runpy.run_module("gunicorn", run_name="__main__", alter_sys=True)


def main() -> None:
    _import_all()
    server = os.getpid()
    if (request := _serve()) is not None:
        _become(request, server)


if __name__ == "__main__":
    main()
