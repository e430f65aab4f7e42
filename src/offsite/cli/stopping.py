"""SIGINT, SIGTERM and SIGHUP: the first asks the work to stop, the second ends us at once."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # exit status: 128 + SIGINT, for the other signals too
_SAME_WISH = 0.5  # seconds: a shell, a terminal and a service manager may all pass on one wish
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that is set when the process is asked to stop. Handlers are put back on leaving.

    SIGHUP stays ignored if it was (nohup); the other two count even then, as a shell ignores
    SIGINT for all its background jobs.
    """
    stop = threading.Event()
    since: float | None = None

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal since
        if since is None:
            since = time.monotonic()
            # Not here: we interrupt the main thread anywhere, within the event's own lock, too, and
            # would wait for ourselves. Nor by threading.Thread, which has such a lock as well.
            _thread.start_new_thread(stop.set, ())
        elif time.monotonic() - since > _SAME_WISH:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), _SHOW_CURSOR)
            os._exit(INTERRUPTED)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
