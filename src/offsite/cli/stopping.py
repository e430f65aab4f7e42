"""SIGINT, SIGTERM and SIGHUP: the first asks the work to stop, the second ends us at once."""

from __future__ import annotations

import _thread
import contextlib
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # exit status: 128 + SIGINT, for the other signals too
_SAME_WISH = 0.5  # seconds: a shell, a terminal and a service manager may all pass on one wish
_POLL = 0.2  # seconds between looks at what the interpreter noted
_SHOW_CURSOR = b"\x1b[?25h"


class _Asked(threading.Event):
    """Set by the handler of a signal, or by the first thread that looks after one came.

    CPython runs handlers in its main thread alone, and misses a signal that comes just as that
    begins to wait, until it wakes up for another reason: seven times in a thousand where other
    threads are busy. The interpreter writes the number of every signal that it notes to a socket.
    """

    def __init__(self, numbers: Collection[signal.Signals]) -> None:
        super().__init__()
        self._numbers = frozenset(numbers)
        self._came, self._noted = socket.socketpair()
        for end in (self._came, self._noted):
            end.setblocking(False)
        self._before = signal.set_wakeup_fd(self._noted.fileno(), warn_on_full_buffer=False)

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        self._noted.close()
        self._came.close()

    def is_set(self) -> bool:
        if not super().is_set() and not self._numbers.isdisjoint(self._read()):
            self.set()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self.is_set() and (left := deadline - time.monotonic()) > 0:
            super().wait(min(left, _POLL))
        return self.is_set()

    def _read(self) -> bytes:
        with contextlib.suppress(OSError):  # there are none, or nobody listens any more
            return self._came.recv(1 << 10)
        return b""


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that is set when the process is asked to stop. Handlers are put back on leaving.

    SIGHUP stays ignored if it was (nohup); the other two count even then, as a shell ignores
    SIGINT for all its background jobs.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    stop = _Asked(numbers)
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

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()
