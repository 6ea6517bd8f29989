"""Which money caps apply, and the errors when they have no room."""

import pytest

from gproxy.quota import budgets
from gproxy.snapshot import Caller, Quota
from gproxy.state.interface import Account, LimitStatus


def test_a_quota_and_a_budget_are_accounts_of_their_own():
    one = Caller(5, "user", 9, False, None, (), quota=Quota(100, "month"), budget=30)
    assert budgets.accounts(one) == (Account("u5", 100, "month"), Account("k9", 30, None))
    assert budgets.accounts(Caller(5, "user", 9, False, None, ())) == ()


@pytest.mark.parametrize(
    ("refused", "money", "detail", "headers"),
    [
        (
            LimitStatus("u5", None, 2_000_000_000, 1_500_000, 3600.0, 3600.0, 1_998_500_000, 0),
            2_000_001,
            "this request may cost up to 0.002000001 USD, but only 0.0015 USD of the quota of 2 USD are left; "
            "it resets at 2026-11-25T01:00:00Z",
            {"Retry-After": "3600"},
        ),
        (
            LimitStatus("k9", None, 10**9, 0, None, None, 400_000_000, 600_000_000),
            5,
            "this request may cost up to 0.000000005 USD, but only 0 USD of the budget of this key of 1 USD are left "
            "(0.6 USD are reserved by running requests); it does not reset; an administrator can raise it",
            {},
        ),
    ],
    ids=["quota with a period", "budget"],
)
def test_a_refusal_says_what_remains_and_when_it_resets(refused, money, detail, headers):
    fault = budgets.refusal(refused, money, 1_795_564_800.0)
    assert (fault.status, fault.code, fault.message) == (402, "quota_exceeded", f"quota_exceeded: {detail}")
    assert fault.headers == headers


def test_the_end_of_a_stream_names_the_spent_account():
    spent = LimitStatus("k9", None, 10**9, 0, None, None, 10**9, 0)
    assert "budget of this key is spent" in budgets.exhausted(spent, 0.0).message
    assert budgets.exhausted(None, 0.0).code == "quota_exceeded"
