"""The units in which money and time are counted: nano-USD, and nanoseconds since the epoch."""

from datetime import UTC, datetime
from decimal import Decimal

NANO = 1_000_000_000  # nano-USD in a USD
NS = 1_000_000_000  # nanoseconds in a second


def usd(nano: int) -> Decimal:
    """Converts nano-USD to USD, with at most nine decimals."""
    return Decimal(nano) / NANO


def usd_text(nano: int) -> str:
    """Formats nano-USD in USD, without trailing zeros."""
    whole, remainder = divmod(abs(nano), NANO)
    return f"{'-' * (nano < 0)}{whole}.{remainder:09d}".rstrip("0").rstrip(".")


def moment(seconds: float) -> str:
    """Formats seconds since the epoch by RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
