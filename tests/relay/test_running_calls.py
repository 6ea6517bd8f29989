"""The running calls of one worker: what is counted from the beginning of a call to its end, and who is interrupted."""

import time

import gevent
import pytest
from gevent.event import Event

from gproxy.errors import Overloaded, ShuttingDown
from gproxy.metrics.definitions import DISCONNECTS, OPEN_REQUESTS, OPEN_STREAMS, OVERHEAD
from gproxy.relay.disconnect import HeartbeatDue
from gproxy.relay.running_calls import RunningCalls
from tests.arriving import Arriving

MAXIMUM = 10  # of the worker's capacity


@pytest.fixture
def running(worker) -> RunningCalls:
    return worker.running


def counted(running: RunningCalls, family) -> dict[tuple, list[float]]:
    totals = running.metrics.mmap_values.totals().values
    return {labels: found for (name, labels, _), found in totals.items() if name == family.name}


def open_now(running: RunningCalls) -> tuple[float, float]:
    """Returns the numbers of requests and of streams, as the metrics have them."""
    return counted(running, OPEN_REQUESTS)[()][0], counted(running, OPEN_STREAMS)[()][0]


def test_a_call_is_counted_from_its_opening_to_its_close(worker, running):
    one, other = running.open(None), running.open(None)
    assert (running.capacity.requests, open_now(running)) == (2, (2, 0))
    worker.serve("openai_chat")
    call = worker.call(stream=True)
    call.summary.set_target(worker.relay.plan(call, worker.caller, worker.snapshot))
    running.answered(call, Arriving(), one[1], is_stream=True)
    running.answered(call, Arriving(), other[1], is_stream=False)
    assert open_now(running) == (2, 1)
    running.close(*one)
    assert (running.capacity.requests, open_now(running)) == (1, (1, 0))
    running.close(*other)
    assert (running.capacity.requests, open_now(running)) == (0, (0, 0))


def test_closing_a_call_twice_frees_its_place_once(running):
    kept, closed = running.open(None), running.open(None)
    closed[0].reserve_bytes(100)
    for _ in range(2):
        running.close(*closed)
    assert (running.capacity.requests, running.capacity.body_bytes, open_now(running)) == (1, 0, (1, 0))
    running.close(*kept)


def test_a_call_beyond_the_capacity_is_refused_and_leaves_no_trace(running):
    opened = [running.open(None) for _ in range(MAXIMUM)]
    with pytest.raises(Overloaded):
        running.open(None)
    assert (open_now(running), running.interrupt_all(lambda: ShuttingDown("stop"))) == ((MAXIMUM, 0), MAXIMUM)
    running.close(*opened.pop())
    opened.append(running.open(None))
    for one in opened:
        running.close(*one)


def test_the_overhead_excludes_the_wait_for_the_upstream_and_is_never_negative(worker, running):
    worker.serve("openai_chat")
    for waited_s in (2.0, 99.0):
        call = worker.call(started=time.perf_counter() - 5.0)
        call.summary.set_target(worker.relay.plan(call, worker.caller, worker.snapshot))
        exchange, (permit, watch) = Arriving(), running.open(None)
        exchange.waited_s = waited_s
        running.answered(call, exchange, watch, is_stream=False)
        running.close(permit, watch)
    *_, total_s = counted(running, OVERHEAD)["p1", "generate_content"]
    assert total_s == pytest.approx(3.0, abs=0.5)


def test_a_disconnect_is_counted_for_readiness_and_for_the_metrics(running):
    running.count_disconnect()
    running.count_disconnect()
    assert (running.client_disconnects, counted(running, DISCONNECTS)) == (2, {(): [2.0]})


def test_every_running_call_is_interrupted_by_an_error_of_its_own(running):
    caught = []

    def call() -> None:
        permit, watch = running.open(None)
        try:
            with watch:
                Event().wait(5)
        except ShuttingDown as error:
            caught.append(error)
        finally:
            running.close(permit, watch)

    calls = [gevent.spawn(call) for _ in range(3)]
    ended = running.open(None)
    running.close(*ended)
    gevent.sleep(0)
    assert running.interrupt_all(lambda: ShuttingDown("stop")) == 3
    gevent.joinall(calls, timeout=2)
    assert len(set(map(id, caught))) == 3
    with ended[1]:
        gevent.sleep(0)  # a call that has ended is not interrupted
    assert running.interrupt_all(lambda: ShuttingDown("stop")) == 0


def test_a_heartbeat_is_sent_to_those_that_wait_longer_than_their_interval(running):
    beats = []

    def call(name: str, heartbeat_s: float | None) -> None:
        permit, watch = running.open(None)
        if heartbeat_s is not None:
            watch.set_heartbeat(heartbeat_s)
        try:
            with watch:
                Event().wait(0.05)
        except HeartbeatDue:
            beats.append(name)
        finally:
            running.close(permit, watch)

    calls = [gevent.spawn(call, *one) for one in (("due", 0.001), ("later", 60.0), ("whole reply", None))]
    gevent.sleep(0.005)
    running.send_heartbeats()
    gevent.joinall(calls, timeout=2)
    assert beats == ["due"]
