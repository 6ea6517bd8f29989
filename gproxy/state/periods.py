"""The windows of a quota: a day, a week from Monday on or a month in UTC, derived from the clock."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

DAY, WEEK, MONTH = "day", "week", "month"
PERIODS = (DAY, WEEK, MONTH)
DAY_S = 86_400


def window(period: str | None, now_s: float) -> tuple[int, int | None]:
    """Returns start and end of the window around `now_s`, in seconds since the epoch; (0, None) without a period."""
    return (0, None) if period is None else _window(period, int(now_s // DAY_S) * DAY_S)


@lru_cache(maxsize=64)
def _window(period: str, day: int) -> tuple[int, int]:
    if period == DAY:
        return day, day + DAY_S
    if period == WEEK:  # the epoch was a Thursday
        start = day - (day // DAY_S + 3) % 7 * DAY_S
        return start, start + 7 * DAY_S
    first = datetime.fromtimestamp(day, UTC).replace(day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    return int(first.timestamp()), int(following.timestamp())
