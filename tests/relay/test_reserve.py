"""The opening of a call: what is reserved and written before anything is sent, and what remains of a refused call."""

from dataclasses import replace

import pytest

from gproxy.accounting.entries import MAX_TEXT_CHARS
from gproxy.errors import NoCredential, OverQuota, RateLimited, Unavailable
from gproxy.metrics.definitions import REQUESTS
from gproxy.quota.reservations import applying
from gproxy.relay.failover import Failover
from gproxy.relay.settlement import NoSettlement, Outcome
from gproxy.snapshot import Credential, Quota, RateLimit, glob
from tests.worker import COST

CHAT = "openai_chat"


def opened(worker, call, **failover):
    """Returns the failover and the settlement of an opened call."""
    found = Failover(worker.pool, worker.relay.plan(call, worker.caller, worker.snapshot))
    return found, worker.relay.opener.open(found, call)


def limited(worker, **amounts) -> None:
    """Gives the caller a rate limit, and has its counters loaded."""
    worker.caller = replace(worker.caller, limits=(RateLimit(1, "*", glob("*").fullmatch, **amounts),))
    worker.state.load_limit("1", {}, (), {})


def with_limited_credentials(worker, *amounts: dict) -> None:
    """Makes `a` served with credentials that have limits of their own."""
    worker.serve(CHAT)
    one = worker.snapshot.providers["p1"]
    credentials = tuple(Credential(10 + n, 1, f"sk-1-{n}", **found) for n, found in enumerate(amounts))
    served = replace(one, credentials=credentials)
    worker.snapshot = replace(worker.snapshot, providers={"p1": served}, provider_by_id={1: served})
    for credential in credentials:
        worker.state.load_limit(f"c{credential.id}", {}, (), {})


def is_free(worker, credential_id: int) -> bool:
    """Returns whether the next call would use this credential."""
    (one,) = (one for one in worker.snapshot.providers["p1"].credentials if one.id == credential_id)
    return worker.pool.skip_reason(one, "m1") is None


def test_an_opened_call_has_its_upper_bound_reserved_and_its_entry_written(worker):
    worker.serve(CHAT)
    call = worker.call()
    failover, settlement = opened(worker, call)
    (entry,) = worker.entries()
    assert entry["o"] == settlement.call_id
    assert (entry["p"], entry["r"], entry["m"], entry["op"]) == (1, failover.credential.id, "a", "generate_content")
    used, reserved = worker.account()
    assert (used, reserved) == (0, failover.plan.upper_bound.money) and reserved > 0
    assert (call.summary.provider, call.summary.model) == ("p1", "m1")
    settlement.settle_failed(502, None, 0)
    assert worker.account() == (0, 0)


@pytest.mark.parametrize(("tag", "written"), [("x" * 5000, "x" * MAX_TEXT_CHARS), ("blue", "blue"), (None, None)])
def test_what_the_client_sent_is_cut_before_it_is_written(worker, tag, written):
    worker.serve(CHAT)
    _, settlement = opened(worker, worker.call(header={"x-gproxy-tag": tag}.get))
    (entry,) = worker.entries()
    assert entry["t"] == written
    settlement.settle_failed(502, None, 0)


def test_a_token_count_reserves_and_writes_nothing(worker):
    worker.serve("anthropic")
    call = worker.call("anthropic", operation="count_tokens")
    _, settlement = opened(worker, call)
    assert isinstance(settlement, NoSettlement)
    assert (worker.entries(), worker.account()) == ([], (0, 0))
    for _ in range(2):
        settlement.settle_complete(200, None, 0)
    totals = worker.mmap_values.totals().values
    counted = [found[0] for (name, labels, _), found in totals.items() if name == REQUESTS.name and any(found)]
    assert (counted, call.summary.outcome) == ([1.0], Outcome.COMPLETE)


def test_a_caller_without_limits_reserves_nothing(worker):
    worker.serve(CHAT)
    worker.caller = replace(worker.caller, quota=None)
    _, settlement = opened(worker, worker.call())
    (entry,) = worker.entries()
    assert "h" not in entry
    assert applying(worker.caller, "a") == ((), ())
    settlement.settle_complete(200, None, 0)


def test_a_call_over_its_rate_limit_is_refused_with_the_headers_of_its_protocol(worker):
    worker.serve(CHAT)
    limited(worker, rpm=1)
    _, settlement = opened(worker, worker.call())
    with pytest.raises(RateLimited) as caught:
        opened(worker, worker.call())
    headers = caught.value.headers
    assert (headers["X-RateLimit-Counter"], headers["x-ratelimit-remaining-requests"]) == ("rpm", "0")
    assert 1 <= int(headers["Retry-After"]) <= 60
    assert len(worker.entries()) == 1
    settlement.settle_failed(502, None, 0)


def test_a_call_over_its_quota_is_refused_and_leaves_no_trace(worker):
    worker.serve(CHAT)
    worker.caller = replace(worker.caller, quota=Quota(COST // 2, None))
    with pytest.raises(OverQuota):
        opened(worker, worker.call())
    assert (worker.entries(), worker.account()) == ([], (0, 0))


def test_a_credential_whose_own_limit_is_used_up_is_replaced_by_the_next(worker):
    with_limited_credentials(worker, {"concurrency": 1}, {"concurrency": 1})
    calls = [opened(worker, worker.call()) for _ in range(2)]
    assert {failover.credential.id for failover, _ in calls} == {10, 11}
    assert [entry["r"] for entry in worker.entries()] == [failover.credential.id for failover, _ in calls]
    assert not is_free(worker, 10)
    with pytest.raises(NoCredential):
        opened(worker, worker.call())
    used, reserved = worker.account()
    assert (used, reserved) == (0, 2 * calls[0][0].plan.upper_bound.money)  # the refused call left nothing
    for _, settlement in calls:
        settlement.settle_failed(502, None, 0)
    assert (is_free(worker, 10), is_free(worker, 11), worker.account()) == (True, True, (0, 0))


def test_a_full_journal_refuses_before_anything_is_counted(worker):
    worker.serve(CHAT)
    limited(worker, rpm=1)
    worker.journal.is_writable = False
    with pytest.raises(Unavailable, match="journal"):
        opened(worker, worker.call())
    worker.journal.is_writable = True
    _, settlement = opened(worker, worker.call())  # its one request of this minute is still there
    settlement.settle_failed(502, None, 0)


def test_an_entry_that_cannot_be_written_returns_what_was_reserved(worker, monkeypatch):
    worker.serve(CHAT)
    monkeypatch.setattr(worker.journal, "_reserve", _full)
    with pytest.raises(Unavailable, match="journal"):
        opened(worker, worker.call())
    assert (worker.account(), worker.journal.open_count) == ((0, 0), 0)


def _full(*_):
    raise OSError(28, "No space left on device")
