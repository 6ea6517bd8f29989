"""Settlement of one call: one `opened` entry and one `settled` entry, in every case."""

import math
import os
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from gproxy.accounting.journal import Journal
from gproxy.accounting.prices import FoundPrice, Price, Tier
from gproxy.accounting.slots import take_slot
from gproxy.channels.kind import GENERATE, STREAM
from gproxy.metrics.call_summary import CallSummary
from gproxy.protocols.hub import Usage
from gproxy.quota.reservations import UpperBound
from gproxy.relay import settlement as settlement_module
from gproxy.relay.settlement import MAX_LOSSES_BYTES, NoSettlement, Settlement, estimate, input_estimate
from gproxy.snapshot import Provider, ProviderSettings
from gproxy.state.interface import Account
from tests.journal_entries import opened

PRICE = FoundPrice(Price(Decimal("0.001"), (Tier(10**8, Decimal(1), Decimal(2), Decimal("0.1")),)), "model")
USAGE = Usage(30, 5, 2, 60, 7, 8, 9)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(take_slot(tmp_path / "journal"))
    yield found
    found.close()
    os.close(found.slot.lock)


def written_bytes(journal: Journal) -> bytes:
    (path,) = journal.segments
    return path.read_bytes()[: journal.end]


def settled_entry(journal: Journal) -> dict:
    """Returns the journal's second line as it is on disk."""
    (path,) = journal.segments
    return orjson.loads(path.read_bytes().splitlines()[1])


def make(journal: Journal, price: FoundPrice | None = PRICE, **more) -> Settlement:
    settlement = Settlement(journal, 7, price, 100, time.perf_counter() - 0.5, **more)
    journal.open(opened(7))
    return settlement


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (3, 1), (4, 1), (5, 2), (4_000_000, 1_000_000)])
def test_an_estimate_is_rounded_up(size, tokens):
    assert estimate(size) == tokens


# method, its arguments; expected outcome, status, token counts, whether they are estimated, cost
ENDS = [
    ("settle_complete", (200, USAGE, 999), "complete", 200, [30, 5, 2, 60, 7, 8, 9], False, 1_070_000),
    ("settle_complete", (200, Usage(), 999), "complete", 200, [0, 0, 0, 0, 0, 0, 0], False, 1_000_000),
    # without usage from the vendor: the input estimate, and a token for every four bytes
    ("settle_complete", (200, None, 41), "complete", 200, [100, 11, 0, 0, 0, 0, 0], True, 1_122_000),
    ("settle_complete", (200, None, 0), "complete", 200, [100, 0, 0, 0, 0, 0, 0], True, 1_100_000),
    # the upstream failed: nothing before the first output, else what was delivered
    ("settle_failed", (502, None, 0), "failed", 502, [0, 0, 0, 0, 0, 0, 0], False, 0),
    ("settle_failed", (502, USAGE, 0), "failed", 502, [0, 0, 0, 0, 0, 0, 0], False, 0),
    ("settle_failed", (504, None, 41), "partial", 504, [100, 11, 0, 0, 0, 0, 0], True, 1_122_000),
    ("settle_failed", (200, USAGE, 41), "partial", 200, [30, 11, 2, 60, 7, 8, 9], True, 1_082_000),
    # the client disconnected: the input and what was delivered
    ("settle_disconnected", (None, 0), "partial", 499, [100, 0, 0, 0, 0, 0, 0], True, 1_100_000),
    ("settle_disconnected", (None, 41), "partial", 499, [100, 11, 0, 0, 0, 0, 0], True, 1_122_000),
    ("settle_disconnected", (Usage(30, 1), 41), "partial", 499, [30, 11, 0, 0, 0, 0, 0], True, 1_052_000),
    ("settle_disconnected", (Usage(30, 50), 41), "partial", 499, [30, 50, 0, 0, 0, 0, 0], True, 1_130_000),
    ("settle_disconnected", (Usage(0, 0, 0, 90), 0), "partial", 499, [0, 0, 0, 90, 0, 0, 0], True, 1_009_000),
]


@pytest.mark.parametrize(("end", "arguments", "outcome", "status", "counts", "is_estimated", "nano"), ENDS)
def test_outcome_tokens_and_cost_of_a_settled_call(
    journal, end, arguments, outcome, status, counts, is_estimated, nano
):
    settlement = make(journal)
    getattr(settlement, end)(*arguments)
    settled = settled_entry(journal)
    assert (settled["s"], settled["x"], settled["st"], settled["n"]) == (7, outcome, status, counts)
    assert settled.get("est", False) is is_estimated
    assert settlement.cost == settled["c"] == nano
    assert settled["ps"] == "model"
    assert 500 <= settled["l"] < 5000


@pytest.mark.parametrize(("end", "arguments"), [(end[0], end[1]) for end in ENDS])
def test_only_the_first_settlement_counts(journal, end, arguments):
    settlement = make(journal)
    getattr(settlement, end)(*arguments)
    before, cost = written_bytes(journal), settlement.cost
    settlement.settle_complete(200, Usage(9, 9), 9)
    settlement.settle_failed(500, Usage(9, 9), 9)
    settlement.settle_disconnected(Usage(9, 9), 9)
    assert written_bytes(journal) == before
    assert (settlement.cost, settlement.is_settled, journal.open_count) == (cost, True, 0)


def test_a_call_without_a_price_has_no_cost(journal):
    settlement = make(journal, price=None)
    settlement.settle_complete(200, USAGE, 0)
    settled = settled_entry(journal)
    assert settlement.cost is None
    assert settled["c"] == 0
    assert "ps" not in settled


def test_the_first_byte_is_recorded_once(journal):
    settlement = make(journal)
    settlement.record_first_byte()
    first = settlement.first_byte
    settlement.record_first_byte()
    settlement.settle_complete(200, USAGE, 0)
    assert settlement.first_byte == first
    settled = settled_entry(journal)
    assert 500 <= settled["f"] <= settled["l"]


def test_a_call_without_any_byte_has_no_first_byte_time(journal):
    make(journal).settle_failed(502, None, 0)
    assert "f" not in settled_entry(journal)


def test_attempts_and_losses_are_in_the_settled_entry(journal):
    tries = [(1, 7, 500, 12), (1, 8, "upstream_error", 3), (2, 9, 200, 41)]
    settlement = make(journal, attempts=tries, losses=["seed", "logit_bias"])
    settlement.served_by = (2, "anthropic", 9)
    settlement.settle_complete(200, USAGE, 0)
    settled = settled_entry(journal)
    assert (settled["a"], settled["lo"], settled["by"]) == (3, ["seed", "logit_bias"], [2, "anthropic", 9])
    assert settled["tr"] == [list(one) for one in tries]


def test_a_single_attempt_is_only_in_the_opened_entry(journal):
    settlement = make(journal, attempts=[(1, 7, 200, 12)])
    settlement.served_by = (1, "openai", 7)
    settlement.settle_complete(200, USAGE, 0)
    settled = settled_entry(journal)
    assert (settled["a"], "tr" in settled, "by" in settled) == (1, False, False)


def test_the_credentials_reservation_is_released_once_at_the_end(journal):
    released = []
    settlement = make(journal, release_credential=lambda: released.append(1))
    settlement.settle_complete(200, USAGE, 0)
    settlement.settle_disconnected(USAGE, 0)
    assert released == [1]


@pytest.mark.parametrize(
    ("losses", "recorded"),
    [
        ([], None),
        (["a" * 80] * 9, ["a" * 80] * 3),
        (["a" * 297, "b"], ["a" * 297]),
        (["a" * 298], []),
        (["a" * 10] * 22 + ["b" * 11], ["a" * 10] * 22 + ["b" * 11]),
        (["a" * 10] * 22 + ["b" * 12], ["a" * 10] * 22),
    ],
)
def test_losses_are_cut_to_the_size_of_an_entry(journal, losses, recorded):
    make(journal, losses=losses).settle_complete(200, USAGE, 0)
    assert settled_entry(journal).get("lo") == recorded
    assert len(orjson.dumps(recorded or []).strip(b"[]")) < MAX_LOSSES_BYTES


def test_metrics_are_counted_once_and_after_the_journal(journal):
    recorded = []

    def count_metrics(summary, status, seconds, attempts) -> None:
        recorded.append(
            (summary.outcome, summary.usage, summary.cost, status, attempts, len(written_bytes(journal).splitlines()))
        )
        assert seconds >= 0.5

    attempts = [(3, 4, 200, 9)]
    settlement = make(journal, attempts=attempts, summary=CallSummary("openai_chat"), count_metrics=count_metrics)
    settlement.record_first_byte()
    assert settlement.first_token is None  # those were the headers
    settlement.record_first_byte(3)
    first = settlement.first_token
    settlement.record_first_byte(9)
    settlement.settle_complete(200, USAGE, 0)
    settlement.settle_disconnected(None, 0)
    assert recorded == [("complete", USAGE, 1_070_000, 200, attempts, 2)]
    assert settlement.summary.first_token_s == first - settlement.started >= 0.5


def test_the_end_of_a_token_count_is_reported_once():
    recorded = []
    settlement = NoSettlement(lambda: None, lambda *end: recorded.append(end))
    settlement.settle_failed(500, None, 0)
    settlement.settle_complete(200, None, 0)
    assert recorded == [("failed", 500)]
    for end, expected in (
        (lambda one: one.settle_complete(200, None, 0), "complete"),
        (lambda one: one.settle_disconnected(None, 0), "partial"),
    ):
        end(NoSettlement(lambda: None, lambda outcome, status: recorded.append(outcome)))
        assert recorded[-1] == expected


def test_a_token_count_has_no_cost_and_no_entry():
    released = []
    settlement = NoSettlement(lambda: released.append(1))
    settlement.record_first_byte()
    for end in (settlement.settle_complete, settlement.settle_failed):
        end(200, USAGE, 9)
    settlement.settle_disconnected(USAGE, 9)
    settlement.losses = ["seed"]
    # Settled from the start: a stream's close has nothing to settle.
    assert (settlement.cost, settlement.is_settled, NoSettlement(print).losses) == (None, True, [])
    assert released  # at the first end already


def test_a_base64_image_does_not_count_as_text():
    image = b"A" * 3_000_000
    with_image = b'{"text": "hello", "url": "data:image/png;base64,%s"}' % image
    assert input_estimate(with_image) < 2_000
    words = b"some words " * 10_000
    assert input_estimate(words) == len(words) // 4


@pytest.mark.parametrize("run", [4095, 76])
def test_an_estimate_is_fast_for_any_body(run):
    body = (b"A" * run + b" ") * (4_000_000 // run)
    started = time.thread_time()
    input_estimate(body)
    assert time.thread_time() - started < 0.2


# -- the text that a reservation covers ----------------------------------------------------------------------------

ACCOUNTS = (Account("u1", 10**9),)
OPEN, BOUNDED = UpperBound(ACCOUNTS, (), 500, 20, 16), UpperBound(ACCOUNTS, (), 500, 20, None)
UNCAPPED = UpperBound((), (), 500, 20, 16)


def plan(bound: UpperBound | None, price=PRICE, operation: str = STREAM, stop_at_quota: bool = True):
    provider = Provider(1, "p", "openai", ProviderSettings(stop_at_quota=stop_at_quota), ())
    return SimpleNamespace(
        provider=provider,
        price=price,
        operation=operation,
        mode="",
        input_tokens=100,
        target_bound=bound,
    )


@pytest.mark.parametrize(
    ("target", "covered"),
    [
        (plan(OPEN), 64),
        (plan(BOUNDED), math.inf),
        (plan(OPEN._replace(money=501)), 0),
        (plan(BOUNDED._replace(money=501)), 0),
        (plan(OPEN, price=None), math.inf),
        (plan(OPEN, stop_at_quota=False), math.inf),
        (plan(OPEN, operation=GENERATE), math.inf),
        (plan(UNCAPPED), math.inf),
        (plan(None), math.inf),
    ],
    ids=["open", "bounded", "dearer", "bounded and dearer", "unpriced", "may run on", "whole", "no cap", "no limit"],
)
@pytest.mark.parametrize("before", [OPEN, BOUNDED, None])
def test_the_text_that_is_covered_is_that_of_the_target_that_serves(journal, target, covered, before):
    settlement = make(journal, reservation=SimpleNamespace(money=500, amounts=None))
    settlement.cover(plan(before, price=PRICE if before else None))
    settlement.set_target(target, None)
    assert settlement.covered_bytes == covered


# -- the bytes on disk -----------------------------------------------------------------------------------------------

FREE = FoundPrice(Price(Decimal(0), ()), "shipped")
NO_TOKENS = '"n":[0,0,0,0,0,0,0]'
ALL_TOKENS = '"n":[30,5,2,60,7,8,9]'
TWO = [(1, None, "upstream_error", 3), (2, 9, 200, 41)]
TEN = [(number, number, 500, 1) for number in range(10)]
EIGHT_IN_JSON = ",".join(f"[{number},{number},500,1]" for number in range(2, 10))
SETTLED_LINES = [
    ({}, "settle_failed", (502, None, 0), f'{{"s":7,"x":"failed","st":502,{NO_TOKENS},"c":0,"l":1500,"a":1}}\n'),
    (
        {"price": FREE},
        "settle_failed",
        (502, None, 0),
        f'{{"s":7,"x":"failed","st":502,{NO_TOKENS},"c":0,"l":1500,"a":1,"ps":"shipped"}}\n',
    ),
    (
        {"price": PRICE},
        "settle_complete",
        (200, USAGE, 0),
        f'{{"s":7,"x":"complete","st":200,{ALL_TOKENS},"c":1070000,"l":1500,"a":1,"ps":"model"}}\n',
    ),
    (
        {},
        "settle_complete",
        (200, None, 41),
        '{"s":7,"x":"complete","st":200,"n":[100,11,0,0,0,0,0],"c":0,"l":1500,"a":1,"est":true}\n',
    ),
    (
        {"first_byte": 100.25},
        "settle_complete",
        (200, USAGE, 0),
        f'{{"s":7,"x":"complete","st":200,{ALL_TOKENS},"c":0,"l":1500,"a":1,"f":250}}\n',
    ),
    (
        {"losses": ["a" * 298]},
        "settle_complete",
        (200, USAGE, 0),
        f'{{"s":7,"x":"complete","st":200,{ALL_TOKENS},"c":0,"l":1500,"a":1,"lo":[]}}\n',
    ),
    (
        {"attempts": TWO[1:], "served_by": (2, "anthropic", 9)},
        "settle_complete",
        (200, USAGE, 0),
        f'{{"s":7,"x":"complete","st":200,{ALL_TOKENS},"c":0,"l":1500,"a":1}}\n',
    ),
    (
        {"attempts": TWO},
        "settle_complete",
        (200, USAGE, 0),
        f'{{"s":7,"x":"complete","st":200,{ALL_TOKENS},"c":0,"l":1500,"a":2,'
        '"tr":[[1,null,"upstream_error",3],[2,9,200,41]]}\n',
    ),
    (
        {
            "price": PRICE,
            "attempts": TEN,
            "served_by": (9, "demo", None),
            "first_byte": 99.0,
            "losses": ["ä", "seed"],
        },
        "settle_disconnected",
        (None, 41),
        '{"s":7,"x":"partial","st":499,"n":[100,11,0,0,0,0,0],"c":1122000,"l":1500,"a":10,'
        f'"tr":[{EIGHT_IN_JSON}],"by":[9,"demo",null],"ps":"model","est":true,"f":-1000,"lo":["ä","seed"]}}\n',
    ),
]


@pytest.mark.parametrize(("fields", "end", "arguments", "line"), SETTLED_LINES)
def test_the_bytes_of_a_settled_line(journal, monkeypatch, fields, end, arguments, line):
    monkeypatch.setattr(settlement_module, "time", SimpleNamespace(perf_counter=lambda: 101.5))
    settlement = Settlement(journal, 7, fields.get("price"), 100, 100.0)
    for name, value in fields.items():
        setattr(settlement, name, value)
    journal.open(opened(7))
    start = journal.end
    getattr(settlement, end)(*arguments)
    (path,) = journal.segments
    assert path.read_bytes()[start : journal.end] == line.encode()
