"""The gunicorn side: the worker class, the functions that hooks call, and error messages of a failed start.

This module must not be imported before gevent has patched; `gunicorn.conf.py` does that on its first line.
"""

import errno
import logging
import logging.config
import os
import resource
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import gevent
from greenlet import greenlet
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

from gproxy import bootstrap, channels, logs, runtime, settings
from gproxy.app import attach, reserved_names
from gproxy.errors import ShuttingDown, StartupError
from gproxy.fastpath import collector, fairness, http_date  # noqa: F401 - http_date replaces gunicorn's
from gproxy.runtime import STORE_S, Runtime
from gproxy.settings import Settings
from gproxy.web import access_log

log = logging.getLogger(__name__)

# After the grace time: calls are ended and settled, then usage is stored, before gunicorn kills the worker.
CUT_S = 2.0
MARGIN_S = CUT_S + STORE_S + 3.0
# While the worker stops, a new or just used connection has this time to send its next request.
QUIET_S = 1.0
ACCEPTS_S = 1.5
ONE_CTRL_C_S = 1.0
# After this number of requests on one connection other greenlets run, because a request may never have to wait.
REQUESTS_IN_A_ROW = 8
QUICKSTART = "quickstart.toml"

_settings: Settings  # set by `load_settings`, before anything else runs
_is_loaded = False
_prepared: runtime.Prepared  # set by `on_starting`, before workers are forked


def load_settings() -> Settings:
    """Returns the settings; if they are invalid, prints all problems on standard error and ends the process."""
    global _settings, _is_loaded
    os.umask(0o077)  # the data directory contains keys
    try:
        _settings = settings.load()
        _is_loaded = True
        logs.hide(settings.secrets(_settings))
    except StartupError as fault:
        if not _is_loaded:
            abort_start(fault)
        # A reload: the gateway continues with its old settings.
        for problem in fault.problems:
            log.error("not reloaded: %s", problem)
    return _settings


def abort_start(fault: StartupError, status: int = 3) -> NoReturn:
    """Prints the problems and ends the process. After exit status 3 gunicorn does not try again."""
    count = len(fault.problems)
    print(f"gproxy cannot start: {count} problems" if count > 1 else "gproxy cannot start:", file=sys.stderr)
    for problem in fault.problems:
        print(f"  {problem}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(status)


def on_starting(arbiter) -> None:
    """In the master, once, before the socket is bound and workers are forked: prepares the database."""
    global _prepared
    _raise_file_limit()
    try:
        _refuse_taken_port(arbiter)
        _prepared = runtime.prepare(_settings, lambda database: _fill(arbiter.app.wsgi(), database))
    except StartupError as fault:
        abort_start(fault)


def when_ready(arbiter) -> None:
    """In the master: prints the address, and with the quick-start seed a first request."""
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
    """In the worker, after patch, fork and loading of the app: starts the runtime."""
    try:
        running = runtime.start(_settings, _prepared)
    except (StartupError, OSError, RuntimeError) as fault:
        # The gateway has started before, so the problem is temporary: gunicorn tries again, after a pause.
        gevent.sleep(1.0)
        abort_start(fault if isinstance(fault, StartupError) else StartupError([f"a worker cannot start: {fault}"]), 1)
    worker.runtime = running
    attach(worker.app.wsgi(), running)
    collector.tune_collector()


def post_request(worker, req, environ, resp) -> None:
    """In the worker, after the end of each answer: writes the line of the access log."""
    if not _settings.access_log or resp is None or resp.status_code is None:
        return
    connection = worker._connections.get(gevent.getcurrent())
    if connection is not None:
        seconds = time.perf_counter() - connection.began
        access_log.write(environ, resp.status_code, resp.sent, seconds, _settings.trusted_proxies)


def worker_exit(arbiter, worker) -> None:
    """In the worker, at its end: stores what is settled."""
    running = getattr(worker, "runtime", None)
    if running is not None:
        running.close()


def _fill(app, database) -> None:
    content, generated_admin = bootstrap.content(_settings, channels.load(), reserved_names(app))
    bootstrap.seeding.fill(database, content)
    if generated_admin is not None:
        print(generated_admin.text(), flush=True)


def _raise_file_limit() -> None:
    """Raises the soft limit of open files, which is too low in a login shell: each call has two sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 3 * _settings.max_inflight + 1000
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning("only %d files may be open; GPROXY_MAX_INFLIGHT would need %d", allowed, needed)


def _refuse_taken_port(arbiter) -> None:
    """Raises StartupError if the port is in use; gunicorn would retry for five seconds and log each attempt."""
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


class GatewayWorker(GeventWorker):
    """Drains before the arbiter's SIGKILL: calls that do not end within the grace time are ended and settled.

    gunicorn's own worker waits as long as the arbiter does and is then killed without a hook, even if only idle
    keep-alive connections remain.
    """

    runtime: "Runtime | None" = None
    _quit_at: float | None = None
    _quits_at_once = False

    def run(self) -> None:
        self._connections: dict[greenlet, _Connection] = {}
        gevent.spawn(self._drain)
        super().run()

    def handle(self, listener, client: Any, addr) -> None:
        current = gevent.getcurrent()
        self._connections[current] = _Connection(client, time.monotonic())
        try:
            super().handle(listener, client, addr)
        finally:
            del self._connections[current]

    def handle_request(self, listener_name, req, sock, addr) -> None:
        connection = self._connections[gevent.getcurrent()]
        connection.is_idle, connection.began = False, time.perf_counter()
        try:
            super().handle_request(listener_name, req, sock, addr)
        except TimeoutError:
            # The write stalled: the client does not read. Its call was settled when the answer was closed.
            raise StopIteration from None
        if not self.alive:
            raise StopIteration
        connection.requests += 1
        if connection.requests % REQUESTS_IN_A_ROW == 0:
            fairness.yield_to_others()
        connection.is_idle, connection.since = True, time.monotonic()

    def handle_quit(self, sig, frame) -> None:
        """Drains at a Ctrl-C, as at SIGTERM; a second Ctrl-C ends the draining.

        One Ctrl-C arrives as two signals, from the terminal and from the arbiter.
        """
        now = time.monotonic()
        if self._quit_at is None:
            self._quit_at = now
        elif now - self._quit_at > ONE_CTRL_C_S:
            self._quits_at_once = True
        self.alive = False

    def _drain(self) -> None:
        while self.alive:
            gevent.sleep(0.1)
        stopped = time.monotonic()
        deadline = stopped + _settings.grace_s
        # gunicorn checks once a second whether to stop accepting: until then a new call may arrive.
        while self._connections or time.monotonic() < stopped + ACCEPTS_S:
            if time.monotonic() >= deadline or self._quits_at_once:
                break
            self._close_idle()
            gevent.sleep(0.05)
        if self._connections and self.runtime is not None:
            count = self.runtime.relay.running.interrupt_all(
                lambda: ShuttingDown("this worker is stopping", retry_after_s=1)
            )
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


class _PatchedSocket(Protocol):
    """gevent's socket; `_sock` is the native one, whose calls never switch greenlets."""

    _sock: socket.socket


@dataclass(slots=True)
class _Connection:
    """A client's connection. `is_idle`: it is between requests, `since` a time of the monotonic clock."""

    client: _PatchedSocket
    since: float
    began: float = 0.0  # start of the last request, on the performance counter
    is_idle: bool = True
    requests: int = 0

    def is_quiet(self) -> bool:
        """True if no request is arriving; shutting down its socket would look like a client disconnect."""
        if not self.is_idle or time.monotonic() - self.since < QUIET_S:
            return False
        try:
            return not self.client._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:  # no data, or a broken connection
            return True


class GatewayLogger(Logger):
    """gunicorn's log lines in gproxy's format. `post_request` writes the access log instead of gunicorn."""

    def setup(self, cfg) -> None:
        logging.config.dictConfig(logs.config(_settings.log_level, _settings.log_format))

    def access(self, resp, req, environ, request_time) -> None:
        pass

    def reopen_files(self) -> None:
        """Standard error is never reopened."""
