"""Journal entries with values for the fields that a test does not name."""

from gproxy.accounting.entries import Opened, Settled, Tokens


def opened(call: int, **fields) -> Opened:
    known = {
        "input_tokens": 1,
        "request_id": "r",
        "at": 1,
        "user_id": 1,
        "key_id": 1,
        "provider_id": 1,
        "channel": "demo",
        "credential_id": None,
        "operation": "o",
        "protocol": "p",
        "model": "m",
    }
    return Opened(call_id=call, **{**known, **fields})


def settled(call: int, **fields) -> Settled:
    return Settled(call_id=call, **{"outcome": "complete", "status": 200, "tokens": Tokens(1), **fields})
