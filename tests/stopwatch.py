"""How long work takes this process, whatever else the machine does."""

import gc
import time
from collections.abc import Callable


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """The best of some runs, without the collector: what other tests left behind is not to be measured."""
    found = []
    gc.disable()
    try:
        for _ in range(times):
            began = time.process_time()
            work()
            found.append(time.process_time() - began)
    finally:
        gc.enable()
    return min(found)
