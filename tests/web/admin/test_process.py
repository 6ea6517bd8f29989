"""The process settings in the admin API."""

import pytest

from gproxy.web.admin import process


@pytest.mark.parametrize(
    ("url", "hidden"),
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
def test_passwords_in_a_url_are_hidden(url, hidden):
    assert process._without_passwords(url) == hidden
