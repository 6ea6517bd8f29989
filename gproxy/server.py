"""gunicorn's side: the worker class, what its hooks call, and a start that fails with one clear line.

Nothing here may be imported before gevent has patched; `gunicorn.conf.py` does that on its first line.
"""

import errno
import gc
import logging
import logging.config
import os
import resource
import socket
import sys
import time
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache

import gevent
import gunicorn.util
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

from gproxy import bootstrap, channels, logs, runtime, settings
from gproxy.app import attach, reserved_names
from gproxy.errors import ShuttingDown, StartupError
from gproxy.fastpath import fairness
from gproxy.runtime import Runtime
from gproxy.settings import Settings
from gproxy.web import access_log

log = logging.getLogger(__name__)

# After the grace time: calls are told, settled and booked before gunicorn kills the worker.
CUT_S = 2.0
BOOK_S = 5.0
MARGIN_S = CUT_S + BOOK_S + 3.0
# How long a new or just used connection may take to send its next request while the worker stops.
QUIET_S = 1.0
ACCEPTS_S = 1.5
ONE_ASKING_S = 1.0
# Every so many requests of one connection the others get their turn: nothing in a request need ever wait.
REQUESTS_IN_A_ROW = 8
# A request leaves eight objects in a cycle (werkzeug's matcher), about 1 kB: so many are collected at once.
YOUNG_OBJECTS = 5_000
QUICKSTART = "quickstart.toml"

_prepared: runtime.Prepared | None = None
_settings: Settings | None = None


def load_settings() -> Settings:
    """The settings of this start; on a mistake every problem on standard error, and the process ends."""
    global _settings
    os.umask(0o077)  # the data directory holds keys
    try:
        _settings = settings.load()
        logs.hide(settings.secrets(_settings))
    except StartupError as fault:
        if _settings is None:
            stop(fault)
        # A reload: what runs goes on with what it has.
        for problem in fault.problems:
            log.error("not reloaded: %s", problem)
    return _settings


def stop(fault: StartupError, status: int = 3) -> None:
    """Ends a start that cannot be. Exit status 3 is the one after which gunicorn does not try again."""
    many = len(fault.problems) > 1
    print(f"gproxy cannot start: {len(fault.problems)} problems" if many else "gproxy cannot start:", file=sys.stderr)
    for problem in fault.problems:
        print(f"  {problem}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(status)


def on_starting(arbiter) -> None:
    """In the master, once, before the socket is bound and workers are forked: the database is made ready."""
    global _prepared
    _raise_file_limit()
    try:
        _refuse_taken_port(arbiter)
        _prepared = runtime.prepare(_settings, lambda database: _fill(arbiter.app.wsgi(), database))
    except StartupError as fault:
        stop(fault)


def when_ready(arbiter) -> None:
    """In the master: tells the operator where it is, and a first request if the quick start is what runs."""
    address = f"http://{arbiter.cfg.bind[0]}"
    print(f"gproxy listens on {address}", flush=True)
    if _settings.seed_path is not None and _settings.seed_path.name == QUICKSTART:
        print(
            f"  curl {address}/v1/chat/completions -H 'Authorization: Bearer {settings.PUBLISHED_KEY}' "
            "-H 'Content-Type: application/json' "
            '-d \'{"model": "demo/demo-1", "messages": [{"role": "user", "content": "Hello"}]}\'',
            flush=True,
        )


def post_worker_init(worker) -> None:
    """In the worker: patched, forked and with the app loaded, so everything can start."""
    try:
        running = runtime.start(_settings, _prepared)
    except (StartupError, OSError, RuntimeError) as fault:
        # The gateway was able to start, so this passes: gunicorn shall try again, and not at once.
        gevent.sleep(1.0)
        stop(fault if isinstance(fault, StartupError) else StartupError([f"a worker cannot start: {fault}"]), 1)
    worker.runtime = running
    attach(worker.app.wsgi(), running)
    # What was made until now stays for good. A full collection would walk all of it: 40 ms in which nothing is served.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def post_request(worker, req, environ, resp) -> None:
    """In the worker, after each answer and whatever ended it: the line of the access log."""
    if not _settings.access_log or resp is None or resp.status_code is None:
        return
    connection = worker._connections.get(gevent.getcurrent())
    if connection is not None:
        seconds = time.perf_counter() - connection.began
        access_log.write(environ, resp.status_code, resp.sent, seconds, _settings.trusted_proxies)


def worker_exit(arbiter, worker) -> None:
    """In the worker, at its end: what is settled gets booked."""
    running = getattr(worker, "runtime", None)
    if running is not None:
        running.close(BOOK_S)


def _fill(app, database) -> None:
    content, told = bootstrap.content(_settings, channels.load(), reserved_names(app))
    bootstrap.seeding.fill(database, content)
    if told is not None:
        print(told.text(), flush=True)


def _raise_file_limit() -> None:
    """Each call holds two sockets; the soft limit of a login shell is too small for what a worker is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 3 * _settings.max_inflight + 1000
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < needed:
        log.warning("only %d files may be open; GPROXY_MAX_INFLIGHT would need %d", wanted, needed)


def _refuse_taken_port(arbiter) -> None:
    """gunicorn would try for five seconds and then print a traceback's worth of retries."""
    if arbiter.LISTENERS or "GUNICORN_FD" in os.environ or "LISTEN_FDS" in os.environ:
        return
    host, port = arbiter.cfg.address[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as fault:
            if fault.errno == errno.EADDRINUSE:
                remedy = "another process listens there; choose another GPROXY_PORT"
            else:
                remedy = f"{fault.strerror}; choose another GPROXY_HOST or GPROXY_PORT"
            raise StartupError([f"cannot listen on {host}:{port}: {remedy}"]) from None


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _http_date(timestamp: float | None = None) -> str:
    return _date(int(time.time() if timestamp is None else timestamp))


# gunicorn formats the date anew for each answer.
gunicorn.util.http_date = _http_date


class GatewayWorker(GeventWorker):
    """Drains before the arbiter's SIGKILL: running calls end within the grace time, the others are told and settled.

    gunicorn's own worker waits as long as the arbiter does and is then killed without a hook, even when nothing but
    an idle keep-alive connection is left.
    """

    runtime: "Runtime | None" = None
    _asked_at: float | None = None
    _is_pressed = False

    def run(self) -> None:
        self._connections: dict[gevent.Greenlet, _Connection] = {}
        gevent.spawn(self._drain)
        super().run()

    def handle(self, listener, client, addr) -> None:
        greenlet = gevent.getcurrent()
        self._connections[greenlet] = _Connection(client, time.monotonic())
        try:
            super().handle(listener, client, addr)
        finally:
            del self._connections[greenlet]

    def handle_request(self, listener_name, req, sock, addr) -> None:
        connection = self._connections[gevent.getcurrent()]
        connection.is_idle, connection.began = False, time.perf_counter()
        try:
            super().handle_request(listener_name, req, sock, addr)
        except TimeoutError:
            # The write stalled: this client reads no more. Its call was settled when the answer was closed.
            raise StopIteration from None
        if not self.alive:
            raise StopIteration
        connection.requests += 1
        if connection.requests % REQUESTS_IN_A_ROW == 0:
            fairness.give()
        connection.is_idle, connection.since = True, time.monotonic()

    def handle_quit(self, sig, frame) -> None:
        """Ctrl-C: as TERM, since whoever sends it wants an end and no loss. The second one does not wait.

        One Ctrl-C comes as two signals, from the terminal and from the arbiter.
        """
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > ONE_ASKING_S:
            self._is_pressed = True
        self.alive = False

    def _drain(self) -> None:
        while self.alive:
            gevent.sleep(0.1)
        stopped = time.monotonic()
        deadline = stopped + _settings.grace_s
        # gunicorn looks once a second whether it shall still accept: until then the next call may come.
        while self._connections or time.monotonic() < stopped + ACCEPTS_S:
            if time.monotonic() >= deadline or self._is_pressed:
                break
            self._close_idle()
            gevent.sleep(0.05)
        if self._connections and self.runtime is not None:
            count = self.runtime.relay.interrupt_all(lambda: ShuttingDown("this worker is stopping", retry_after_s=1))
            log.warning("the grace time is over: %d running calls are ended", count)
            deadline = time.monotonic() + CUT_S
            while self._connections and time.monotonic() < deadline:
                self._close_idle()
                gevent.sleep(0.02)
        gevent.killall(list(self._connections), block=True, timeout=1)

    def _close_idle(self) -> None:
        for connection in list(self._connections.values()):
            if connection.is_quiet():
                try:
                    connection.client._sock.shutdown(socket.SHUT_RD)
                except OSError as fault:
                    log.debug("an idle connection was closed by its client: %s", fault)


@dataclass(slots=True)
class _Connection:
    """A client's connection: whether it is between requests, and since when."""

    client: socket.socket
    since: float
    began: float = 0.0  # its last request, on the performance counter
    is_idle: bool = True
    requests: int = 0

    def is_quiet(self) -> bool:
        """Whether nothing is on its way. A request that is just coming in would be taken for one whose client left."""
        if not self.is_idle or time.monotonic() - self.since < QUIET_S:
            return False
        try:
            return not self.client._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:  # nothing there, or broken
            return True


class GatewayLogger(Logger):
    """gunicorn's lines in our form. Its access log is not written: ours comes later, when a stream is settled."""

    def setup(self, cfg) -> None:
        logging.config.dictConfig(logs.config(_settings.log_level, _settings.log_format))

    def access(self, resp, req, environ, request_time) -> None:
        pass

    def reopen_files(self) -> None:
        """Standard error is not ours to reopen."""
