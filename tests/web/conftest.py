"""The web side in this process: on one worker without a database, and on a whole process with its own database."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from gproxy import settings
from gproxy.admission import keys
from gproxy.relay.model_list import ModelList
from gproxy.request_log.recorder import Recorder
from gproxy.runtime import Runtime
from gproxy.snapshot import NO_LOGS, Caller, Logging
from tests.running_process import running_process
from tests.worker import Worker

KEY, ROOT_KEY = "sk-ann-0001", "sk-root"  # the keys of `site`'s caller, and of the administrator of `process`


@cache
def shared_app() -> Flask:
    from gproxy.app import create_app

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


@pytest.fixture
def site(tmp_path, vendor) -> Iterator[Site]:
    """A worker whose vendor answers the models `m1`, `m2`, … faithfully unless a test scripts them."""
    worker = Worker(tmp_path, vendor)
    seen = len(vendor.seen)
    found = Site(worker)
    yield found
    found.app.extensions.pop("gproxy")
    del vendor.seen[seen:]
    for name in ("m1", "m2", "m3", ""):
        vendor.scripts.pop(name, None)
    worker.close()


@pytest.fixture(scope="package")
def process(tmp_path_factory) -> Iterator[Runtime]:
    """A whole process on the sample configuration, for tests that leave it as it was, or add rows of their own."""
    with running_process(tmp_path_factory.mktemp("process")) as found:
        yield found


@pytest.fixture
def process_client(process: Runtime) -> Iterator[FlaskClient]:
    from gproxy.app import attach

    app = shared_app()
    attach(app, process)
    yield app.test_client()
    app.extensions.pop("gproxy")
