"""The web side on one worker without a database, in this process: the app, its caller, and its request log."""

from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

from flask import Flask
from flask.testing import FlaskClient

from gproxy import settings
from gproxy.admission import keys
from gproxy.app import create_app
from gproxy.relay.model_list import ModelList
from gproxy.request_log.recorder import Recorder
from gproxy.runtime import Runtime
from gproxy.snapshot import NO_LOGS, Caller, Logging
from tests.worker import Worker

KEY = "sk-ann-0001"  # of the caller
PASSWORD = "correct horse battery staple"  # of the users of a whole process


@cache
def shared_app() -> Flask:
    """The app of this process. Its runtime belongs to the test that runs."""
    return create_app()


class Site:
    """The app on one worker, whose caller has KEY. `rows` are the rows of the request log."""

    def __init__(self, worker: Worker):
        self.worker, self.app, self.rows = worker, shared_app(), []
        self.settings = settings.load({"GPROXY_DATA_DIR": str(worker.folder)}, worker.folder)
        self._next_log_id = iter(range(1, 1000))
        self.configure()

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def configure(self, logging: Logging = NO_LOGS, caller: Caller | None = None, **changed) -> None:
        """Changes process settings, the log settings, or the caller."""
        worker = self.worker
        worker.caller, self.settings = caller or worker.caller, replace(self.settings, **changed)
        callers = {keys.digest(KEY): worker.caller}
        worker.snapshot = replace(worker.snapshot, logging=logging, callers=callers)
        relay = worker.relay
        recorder = Recorder(
            SimpleNamespace(put=self.rows.append),
            lambda: worker.snapshot,
            lambda: worker.snapshot,
            lambda at: next(self._next_log_id),
            frozenset(),
            1000,
        )
        self.app.extensions["gproxy"] = Runtime(
            settings=self.settings,
            snapshots=lambda: worker.snapshot,
            relay=relay,
            model_list=ModelList(
                relay.planner.protocols, relay.planner.kinds, relay.pool, relay.attempts.tokens, worker.upstream
            ),
            recorder=recorder,
            admin=None,
            status=None,
            resources=ExitStack(),
        )

    def serve(self, *targets: str, **settings) -> None:
        """As `Worker.serve`, for the same caller and log settings."""
        logging = self.worker.snapshot.logging
        self.worker.serve(*targets, **settings)
        self.configure(logging)
