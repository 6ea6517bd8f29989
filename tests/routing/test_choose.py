"""Which credential a call uses."""

import pytest

from gproxy.errors import NoCredential
from gproxy.routing.choose import RoundRobin
from gproxy.store.snapshot import Credential, Provider, ProviderSettings


def provider(number: int, *secrets: str) -> Provider:
    credentials = tuple(Credential(at, number, secret) for at, secret in enumerate(secrets))
    return Provider(number, f"p-{number}", "custom", ProviderSettings(), credentials)


def taken(robin: RoundRobin, of: Provider, times: int) -> str:
    return "".join(robin.next(of).secret for _ in range(times))


@pytest.mark.parametrize(("secrets", "expected"), [("a", "aaaaaaa"), ("ab", "abababa"), ("abc", "abcabca")])
def test_credentials_take_turns(secrets, expected):
    assert taken(RoundRobin(), provider(1, *secrets), 7) == expected


def test_every_provider_has_its_own_turns():
    robin = RoundRobin()
    assert taken(robin, provider(1, "a", "b"), 1) == "a"
    assert taken(robin, provider(2, "x", "y"), 2) == "xy"
    assert taken(robin, provider(1, "a", "b"), 2) == "ba"


def test_a_credential_that_came_or_went_gets_or_gives_up_its_turns():
    robin = RoundRobin()
    assert taken(robin, provider(1, "a", "b", "c"), 2) == "ab"
    assert taken(robin, provider(1, "a"), 2) == "aa"
    assert sorted(taken(robin, provider(1, "a", "b", "c", "d"), 4)) == ["a", "b", "c", "d"]


def test_without_a_credential_the_caller_is_told_to_come_back():
    with pytest.raises(NoCredential) as caught:
        RoundRobin().next(provider(1))
    assert "'p-1'" in caught.value.message
    assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "60"})


def test_a_secret_is_in_no_representation():
    assert "sk-secret" not in repr(provider(1, "sk-secret"))
