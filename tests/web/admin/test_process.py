"""The process's settings as administrators see them."""

import pytest

from gproxy.web.admin import process


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///data/gproxy.db", "sqlite:///data/gproxy.db"),
        ("postgresql://u:p%40ss@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql://u:u@h/u", "postgresql://u:***@h/u"),
        (
            "postgresql://h/d?user=u&password=x&sslpassword=y&sslmode=require",
            "postgresql://h/d?user=u&password=***&sslpassword=***&sslmode=require",
        ),
        ("http://user:word@proxy:3128", "http://user:***@proxy:3128"),
    ],
)
def test_a_url_is_shown_without_its_passwords(url, shown):
    assert process._bare(url) == shown
