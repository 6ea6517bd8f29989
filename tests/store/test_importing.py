"""The changes that an import reports; the journeys import files."""

from pathlib import Path

from gproxy.store import importing
from gproxy.store.seeding import NewCredential, secret_json
from tests.sample_db import SECRET, content, filled, provider


def with_proxy(address: str) -> tuple:
    return provider("one", NewCredential(secret_json(api_key=SECRET)), proxy=address), provider("two")


def test_a_reported_change_contains_no_password_of_a_proxy(tmp_path: Path):
    database = filled(tmp_path, providers=with_proxy("http://u:first-password@proxy"))
    wanted = content(providers=with_proxy("http://u:second-password@proxy"))
    for is_dry in (True, False):
        changes = database.run(importing.apply_import, database, wanted, None, False, is_dry)
        (change,) = [one for one in changes if one.entity == "providers"]
        assert change.fields == {"settings_json": ('{"proxy": "http://u:***@proxy"}',) * 2}
