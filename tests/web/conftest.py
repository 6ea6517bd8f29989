"""The web side in this process: on one worker without a database, and on a whole process with its own database."""

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from gproxy.admission import passwords
from gproxy.app import attach
from gproxy.runtime import Runtime
from gproxy.store.seeding import NewUser
from tests.running_process import running_process
from tests.sample_db import key
from tests.site import PASSWORD, Site, shared_app
from tests.worker import Worker


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
    """A whole process on the sample configuration, in which `root` and `ann` have PASSWORD."""
    password = passwords.hash_password(PASSWORD)
    users = (
        NewUser("root", password, True, True, (key("sk-root"),)),
        NewUser("ann", password, True, False, (key("sk-ann"),)),
        NewUser("off", password, False, False, ()),
    )
    with running_process(tmp_path_factory.mktemp("process"), users=users) as found:
        yield found


@pytest.fixture
def process_client(process: Runtime) -> Iterator[FlaskClient]:
    app = shared_app()
    attach(app, process)
    yield app.test_client()
    app.extensions.pop("gproxy")
