"""Measures the duration of work in this process."""

import gc
import sys
import time
from collections.abc import Callable


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """Returns the shortest of several runs, without the garbage collector, which would walk objects of other tests.

    A tracer, as `make coverage` has one, does not see the work: it would multiply its duration.
    """
    found = []
    tracer = sys.gettrace()
    sys.settrace(None)
    gc.disable()
    try:
        for _ in range(times):
            began = time.process_time()
            work()
            found.append(time.process_time() - began)
    finally:
        gc.enable()
        sys.settrace(tracer)
    return min(found)
