"""The password in a proxy's address: masked wherever it is shown, and kept when the masked form is sent back."""

import json

import pytest

from gproxy.errors import BadRequest
from gproxy.store import proxy_passwords

# an address, and what is shown of it
ADDRESSES = [
    ("http://u:secret@proxy:3128", "http://u:***@proxy:3128"),
    ("socks5h://u:s%40cret@[::1]:1080", "socks5h://u:***@[::1]:1080"),
    ("http://u:se:cr@et@proxy", "http://u:***@proxy"),
    ('http://u:se"c ret@proxy', "http://u:***@proxy"),
    ("http://u@corp:secret@proxy:3128", "http://u@corp:***@proxy:3128"),
    ("http://:secret@proxy", "http://:***@proxy"),
    ("http://u@proxy:3128", "http://u@proxy:3128"),
    ("http://u@[::1]:3128", "http://u@[::1]:3128"),
    ("http://proxy:3128", "http://proxy:3128"),
    ("direct", "direct"),
]


@pytest.mark.parametrize(("address", "shown"), ADDRESSES)
def test_a_password_is_masked_and_can_be_sent_back(address, shown):
    settings = {"proxy": address, "drain_s": 1}
    assert proxy_passwords.hide(settings) == {"proxy": shown, "drain_s": 1}
    assert json.loads(proxy_passwords.hide_in(json.dumps(settings))) == {"proxy": shown, "drain_s": 1}
    sent, stored = json.dumps({"proxy": shown}), json.dumps(settings)
    assert json.loads(proxy_passwords.restore(sent, stored))["proxy"] == address


def test_a_masked_password_belongs_to_its_address_alone():
    with pytest.raises(BadRequest, match="the password is hidden"):
        proxy_passwords.restore('{"proxy": "http://u:***@other"}', '{"proxy": "http://u:secret@proxy"}')


def test_settings_without_a_proxy_are_unchanged():
    assert proxy_passwords.hide({"drain_s": 1}) == {"drain_s": 1}
    assert proxy_passwords.hide_in('{"drain_s": 1.50}') == '{"drain_s": 1.50}'
