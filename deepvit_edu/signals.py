"""Stopping between two steps, so that nothing is lost."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Training received a stop request and stopped between two steps."""


@contextmanager
def stop_requests(max_seconds: float | None = None, once: bool = True) -> Iterator[Callable[[], bool]]:
    """Within it, Ctrl-C and SIGTERM do not interrupt; the function given says whether one came.

    Args:
        max_seconds: the end of so long counts as a request.
        once: a second signal acts at once. Without it all are kept back: a cluster and `torchrun` may both send one,
            and SIGKILL costs no more than the work since the last checkpoint.
    """
    requested = threading.Event()
    deadline = float("inf") if max_seconds is None else time.monotonic() + max_seconds

    def stop() -> bool:
        return requested.is_set() or time.monotonic() > deadline

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield stop
        return
    before = {number: signal.getsignal(number) for number in NUMBERS}

    def remember(number: int, frame: object) -> None:
        requested.set()
        if once:
            signal.signal(number, before[number])

    for number in NUMBERS:
        signal.signal(number, remember)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
