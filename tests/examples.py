"""The number of examples of a property test: fewer in `make test`, all of them in `make slow` and in CI."""

import os

IS_FULL = os.environ.get("PROPERTIES") == "full"


def examples(count: int) -> int:
    """Returns `count` where PROPERTIES=full, else a third of it."""
    return count if IS_FULL else max(1, count // 3)
