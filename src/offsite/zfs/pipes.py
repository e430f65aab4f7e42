"""Our end of the pipe to a running ``zfs send`` or ``zfs receive``.

Reads and writes are raw system calls on large kernel buffers and can be stopped from any thread or
signal handler. If one waits for long, that is told: a suspended pool never answers. Leaving a
context always ends the program and looks at its exit status.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator

from offsite import figures
from offsite.errors import StoppedError, ZfsError
from offsite.process import Child

_PIPE_SIZE = 1 << 20  # bytes; what Linux allows everyone (/proc/sys/fs/pipe-max-size)
_POLL = 100  # milliseconds until a blocked reader or writer notices kill()
_LAST_WORDS = 10  # seconds for a program that we cannot signal to notice its closed pipe
_LONG = 600.0  # seconds of waiting that are told, and then twice as many
_LOG = logging.getLogger(__name__)


class _Patience:
    """Tells of a wait that takes long, and again after twice as long."""

    def __init__(self, who: str, what: str) -> None:
        self._who, self._what = who, what
        self._began, self._long = time.monotonic(), _LONG

    def waits(self) -> None:
        """Still."""
        if time.monotonic() - self._began < self._long:
            return
        _LOG.warning(
            "%s has %s, or the pool may be suspended: see zpool status -x",
            self._who,
            self._what.format(figures.duration(self._long)),
        )
        self._long *= 2


class _Pipe:
    silence = ""  # what it may mean that nothing comes, or is taken

    def __init__(self, name: str, fd: int, events: int) -> None:
        self.name = name
        self._fd = fd
        self._killed = threading.Event()
        self._poll = select.poll()
        self._poll.register(fd, events)

    def kill(self) -> None:
        """Make the reader or writer, also a blocked one, raise StoppedError within 0.1 s.

        The program itself is ended when the context is left. May be called at any time, from any
        thread or signal handler.
        """
        self._killed.set()

    def check_killed(self) -> None:
        if self._killed.is_set():
            raise StoppedError(f"{self.name} was stopped")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _wait_ready(self) -> None:
        self.check_killed()
        if self._poll.poll(0):
            return
        patience = _Patience(self.name, self.silence)
        while not self._poll.poll(_POLL):
            self.check_killed()
            patience.waits()


class SendStream(_Pipe):
    """What ``zfs send`` writes. ``bytes_read`` counts it; ``ended``: all of it was read."""

    silence = "sent nothing for {}; it may have long to look for what changed"

    def __init__(self, name: str, fd: int) -> None:
        super().__init__(name, fd, select.POLLIN)
        self.bytes_read = 0
        self.ended = False

    def readinto(self, into: memoryview) -> int:
        """Bytes read into ``into``, as many as there are; 0 at the end. Raises StoppedError."""
        self._wait_ready()
        count = os.readv(self._fd, [into])
        self.bytes_read += count
        self.ended = count == 0
        return count


class ReceiveStream(_Pipe):
    """What ``zfs receive`` reads. ``bytes_written`` counts it."""

    silence = "taken nothing for {}; it may have much to free"

    def __init__(self, name: str, fd: int, failure: Callable[[], ZfsError]) -> None:
        super().__init__(name, fd, select.POLLOUT)
        os.set_blocking(fd, False)
        self.bytes_written = 0
        self._failure = failure

    def write(self, data: memoryview | bytes) -> None:
        """Hand over all of ``data``.

        Raises ZfsError with receive's own reason if it has ended, and StoppedError.
        """
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                self._wait_ready()
                try:
                    count = os.write(self._fd, view[done:])
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise self._failure() from None
                done += count
                self.bytes_written += count


Explain = Callable[[int, str], ZfsError]


@contextlib.contextmanager
def reading(name: str, start: Callable[[int], Child], explain: Explain) -> Iterator[SendStream]:
    """Run ``start(stdout)`` and read what it writes.

    Leaving waits for the exit status and raises ``explain(status, stderr)`` unless it is 0; also
    when not everything was read. Leaving with an exception ends the program.
    """
    ours, theirs = os.pipe()
    stream = SendStream(name, ours)
    with _running(stream, theirs, ours, start) as child:
        yield stream
        stream.close()  # an unread rest must fail the program, not block it
        _check(child, stream, explain)


@contextlib.contextmanager
def writing(name: str, start: Callable[[int], Child], explain: Explain) -> Iterator[ReceiveStream]:
    """Run ``start(stdin)`` and write to it.

    Leaving closes the pipe, waits for the exit status and raises ``explain(status, stderr)``
    unless it is 0. Leaving with an exception ends the program before it sees the end of its input.
    No process may be forked meanwhile that keeps our descriptors: the program would never see EOF.
    """
    theirs, ours = os.pipe()

    def failure() -> ZfsError:
        status = _wait(child, stream)
        if status == 0:
            return ZfsError(f"{name} ended before the stream did")
        return explain(status, child.stderr_tail())

    stream = ReceiveStream(name, ours, failure)
    with _running(stream, theirs, ours, start) as child:
        yield stream
        stream.close()
        _check(child, stream, explain)


@contextlib.contextmanager
def _running(
    stream: _Pipe, theirs: int, ours: int, start: Callable[[int], Child]
) -> Iterator[Child]:
    try:
        with contextlib.suppress(OSError):  # the user's share of pipe memory may be used up
            fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        try:
            child = start(theirs)
        finally:
            os.close(theirs)
        try:
            yield child
        except BaseException:
            _end(child, stream)
            raise
    finally:
        stream.close()


def _check(child: Child, stream: _Pipe, explain: Explain) -> None:
    status = _wait(child, stream)
    if status != 0:
        raise explain(status, child.stderr_tail())


def _wait(child: Child, stream: _Pipe) -> int:
    """A receive may work for minutes after its last byte: wait as long as nobody calls kill()."""
    patience = _Patience(stream.name, "not ended {} after its last byte; it may have much to do")
    while True:
        stream.check_killed()
        patience.waits()
        with contextlib.suppress(TimeoutError):
            return child.wait(timeout=1)


def _end(child: Child, stream: _Pipe) -> None:
    """Signal first: a receive must not take the closed pipe for the end of a good stream."""
    try:
        child.stop()
    except PermissionError:  # it runs as root through sudo: only the closed pipe reaches it
        stream.close()
        with contextlib.suppress(TimeoutError):
            child.wait(timeout=_LAST_WORDS)
