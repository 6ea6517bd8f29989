"""Many requests at once, over plain sockets, and a check of their usage rows."""

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

from tests.gateway import ADMIN, Gateway
from tests.vendor import COMPLETION_TOKENS, PROMPT_TOKENS, Vendor

PATHS = {
    "openai_chat": "/openai-main/v1/chat/completions",
    "openai_responses": "/openai-main/v1/responses",
    "anthropic": "/anthropic-main/v1/messages",
    "gemini": "/vertex-main/v1beta/models/{model}:{action}",
}
# USD per million tokens, as the journeys' seed has them: (prompt, completion)
PRICES = {"openai_chat": (0.4, 1.6), "openai_responses": (0.4, 1.6), "anthropic": (3, 15), "gemini": (0.1, 0.4)}


_calls = count()


@dataclass
class Load:
    """`statuses` counts the statuses of the replies; None stands for a broken connection."""

    gateway: Gateway
    model: str
    statuses: Counter = field(default_factory=Counter)
    refusals: list[bytes] = field(default_factory=list)
    ended: Counter = field(default_factory=Counter)  # how streams ended: done, error or cut

    def one(self, number: int) -> None:
        protocol = tuple(PATHS)[number % 4]
        is_stream = number // 4 % 2 == 1
        action = "streamGenerateContent?alt=sse" if is_stream else "generateContent"
        path = PATHS[protocol].format(model=self.model, action=action)
        body = {"model": self.model, "stream": is_stream, "messages": [], "input": "x", "contents": []}
        try:
            name = f"{self.model}-{next(_calls)}"
            reply = self.gateway.post(path, body, ADMIN, timeout_s=60, x_request_id=name, traceparent=name)
        except OSError:
            self.statuses[None] += 1
            return
        except Exception as fault:  # an incomplete chunked body
            self.statuses[None] += 1
            self.ended[type(fault).__name__] += 1
            return
        self.statuses[reply.status] += 1
        if reply.status != 200:
            self.refusals.append(reply.body)
        if is_stream and reply.status == 200:
            self.ended[end_of(reply.body)] += 1

    def run(self, count: int, threads: int = 50, meanwhile=None) -> "Load":
        """Sends `count` mixed requests from `threads` threads; `meanwhile()` runs beside them."""
        numbers = iter(range(count))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                self.one(number)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        if meanwhile is not None:
            workers.append(threading.Thread(target=meanwhile))
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return self


def end_of(body: bytes) -> str:
    if b'"error":{' in body:
        return "error"
    finished = (b"[DONE]", b"message_stop", b"response.completed", b'"finishReason"')
    return "done" if any(mark in body for mark in finished) else "cut"


def expected_cost(vendor: Vendor, model: str) -> int:
    """Returns the cost in nano-USD of all requests that the vendor received, if each got a complete answer."""
    total = 0
    for seen in vendor.received(model):
        prompt, completion = PRICES[seen.protocol]
        total += round(PROMPT_TOKENS * prompt * 1000) + round(COMPLETION_TOKENS * completion * 1000)
    return total


def nano(usd: float) -> int:
    return round(usd * 1_000_000_000)


def check_usage_rows(gateway: Gateway, vendor: Vendor, model: str, timeout_s: float = 20) -> list[dict]:
    """Checks that each request the vendor received has one usage row, and that complete calls have the right cost."""
    seen = Counter(seen.headers["traceparent"] for seen in vendor.received(model))
    assert set(seen.values()) == {1}, "a request was sent twice"
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            rows = gateway.usages(model=model)
        except (OSError, AssertionError):
            rows = []
        stored = Counter(row["request_id"] for row in rows)
        if set(stored) >= set(seen) and gateway.get("/readyz").json["in_flight"] == 0:
            break
        assert time.monotonic() < deadline, f"{len(set(seen) - set(stored))} of {len(seen)} requests have no row"
        time.sleep(0.1)
    assert set(stored.values()) == {1}, "a request has two usage rows"
    assert len({row["trace_id"] for row in rows}) == len(rows)
    # A worker killed between the journal and the socket leaves a row that no upstream saw.
    assert all(row["status"] is None for row in rows if row["request_id"] not in seen)
    whole = {
        "openai_chat_completions": 0.0000688,
        "openai_response": 0.0000688,
        "claude": 0.000636,
        "gemini": 0.0000172,
    }
    for row in rows:
        if row["outcome"] == "complete":
            assert (row["input_tokens"], row["output_tokens"]) == (PROMPT_TOKENS, COMPLETION_TOKENS), json.dumps(row)
            assert nano(row["cost"]) == nano(whole[row["protocol"]])
        elif row["outcome"] == "failed":
            assert row["cost"] == 0
    return rows
