"""The only door to other programs: argv lists, drained stderr, exit status always known.

A child never outlives us: on Linux the kernel kills it when the process that started it dies
(prctl(2), PR_SET_PDEATHSIG). The signal follows the *thread* that forked: it has to outlive the
child.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from offsite.errors import ConfigError, OffsiteError, StoppedError
from offsite.scrub import command_line

_STDERR_LINES = 40
_POLL = 0.2  # seconds between looks at the stop event
_PR_SET_PDEATHSIG = 1
_LOG = logging.getLogger(__name__)


class ArgumentsError(OffsiteError):
    """Linux takes 128 KiB in one (ssh makes one of all), a quarter of the stack's limit in all."""


@dataclass(frozen=True)
class Result:
    """What a finished program left: decoded output and its exit status (negative: a signal).

    ``raw``: stdout as it came.
    """

    stdout: str
    stderr: str
    status: int
    raw: bytes


def run(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    timeout: float | None = 60,
    env: Mapping[str, str] | None = None,
    missing: str | None = None,
    terminal: bool = False,
    stop: threading.Event | None = None,
) -> Result:
    """Run a program to its end and return what it said, whatever its exit status.

    ^C at the terminal is for us alone, unless the program itself asks there (``terminal``).

    ``timeout`` is in seconds. Raises ConfigError (with the hint ``missing``) if the program is not
    there, ArgumentsError if the system does not take so many arguments, OffsiteError if it did not
    end in time, StoppedError once ``stop`` is set: the program is killed then, or not started.
    """
    if stop is not None and stop.is_set():
        raise StoppedError("stopped")
    began = time.monotonic()
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            process_group=None if terminal else 0,
        )
    except FileNotFoundError as error:
        raise ConfigError(f"{argv[0]}: program not found", hint=missing) from error
    except PermissionError as error:
        raise ConfigError(f"{argv[0]}: not executable", hint=missing) from error
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
        raise ArgumentsError(f"{argv[0]}: too many arguments for one command") from error
    try:
        stdout, stderr = _communicate(child, stdin, timeout, stop)
    except subprocess.TimeoutExpired as error:
        _abandon(child)
        raise OffsiteError(f"{argv[0]}: no answer within {timeout:.0f} s") from error
    except BaseException:
        _abandon(child)
        raise
    finally:
        _tell_end(argv, child.returncode, began)
    said = stdout.decode(errors="replace")
    return Result(said, stderr.decode(errors="replace"), child.returncode, stdout)


def _tell_end(argv: Sequence[str], status: int | None, began: float) -> None:
    if not _LOG.isEnabledFor(logging.DEBUG):
        return
    ended = "still runs" if status is None else f"status {status}"
    _LOG.debug("%s: %s after %.2f s", command_line(argv), ended, time.monotonic() - began)


def _communicate(
    child: subprocess.Popen[bytes],
    stdin: bytes | None,
    timeout: float | None,
    stop: threading.Event | None,
) -> tuple[bytes, bytes]:
    if stop is None:
        return child.communicate(stdin, timeout)
    limit = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            return child.communicate(stdin, _POLL)
        except subprocess.TimeoutExpired:
            if limit is not None and time.monotonic() >= limit:
                raise
        if stop.is_set():
            raise StoppedError("stopped")
        stdin = None  # it is remembered, and must not be given twice


def _abandon(child: subprocess.Popen[bytes]) -> None:
    """Kill it, and wait for its end only a moment: a zfs whose pool is suspended does not die, one
    that sudo runs is not ours to kill, and what it started may keep its pipes open."""
    with contextlib.suppress(PermissionError):
        child.kill()
    try:
        child.communicate(timeout=1)
    except subprocess.TimeoutExpired:
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        child.poll()  # it is dead, perhaps, and only its pipes are not


def is_foreground(terminal: int) -> bool:
    """Whether we may read from this terminal: a background job that tries is stopped (tty(4))."""
    return _is_at_work(terminal) is True


def is_background(terminal: int) -> bool:
    """Whether others are at work on this terminal, as behind ``&``."""
    return _is_at_work(terminal) is False


def _is_at_work(terminal: int) -> bool | None:
    """Unknown if it is not the one that controls us, as behind ``su -c``, or none."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return None


class Child:
    """A running program whose stderr is drained by a thread, so that it never blocks on us."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        missing: str | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        try:
            self._popen = subprocess.Popen(
                list(argv),
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                env=env,
                process_group=0,  # ^C is for us: we stop our children in order
                preexec_fn=_die_with_parent if _prctl else None,  # noqa: PLW1509 - one syscall
            )
        except FileNotFoundError as error:
            raise ConfigError(f"{argv[0]}: program not found", hint=missing) from error
        except PermissionError as error:
            raise ConfigError(f"{argv[0]}: not executable", hint=missing) from error
        self.argv = tuple(argv)
        self._began = time.monotonic()
        self._told = False
        _LOG.debug("%s: started as process %d", command_line(argv), self.pid)
        self._tail: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        self._on_line = on_line
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self._popen.stdin is not None
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._popen.stdout is not None
        return self._popen.stdout

    def poll(self) -> int | None:
        """The exit status if the program has ended."""
        return self._popen.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Exit status (negative: the signal), after its stderr was read to the end.

        Raises TimeoutError after ``timeout`` seconds.
        """
        try:
            status = self._popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self.argv[0]} still runs after {timeout} s") from error
        self._drain.join(timeout=5)
        self._tell_end()
        return status

    def stop(self, grace: float = 5) -> None:
        """SIGTERM, then SIGKILL after ``grace`` seconds, to the program and its children."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._popen.poll() is None:
                self._signal_group(number)
            try:
                self._popen.wait(grace)
            except subprocess.TimeoutExpired:
                continue
            break
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                _close_quietly(pipe)
        self._drain.join(timeout=5)
        self._tell_end()

    def stderr_tail(self) -> str:
        """The last lines the program wrote to stderr, newest last."""
        return "\n".join(self._tail)

    def _tell_end(self) -> None:
        """Once: whoever waits may stop it, too."""
        if not self._told:
            self._told = self._popen.returncode is not None
            _tell_end(self.argv, self._popen.returncode, self._began)

    def _signal_group(self, number: int) -> None:
        try:
            os.killpg(self._popen.pid, number)
        except (ProcessLookupError, PermissionError):
            self._popen.send_signal(number)

    def _read_stderr(self) -> None:
        assert self._popen.stderr is not None
        with self._popen.stderr as pipe:
            for raw in pipe:
                line = raw.decode(errors="replace").rstrip()
                if not line:
                    continue
                self._tail.append(line)
                if self._on_line is not None:
                    self._on_line(line)


def _close_quietly(pipe: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # what was still buffered has no reader any more
        pipe.close()


# Bound before the fork: no import or lookup happens in the child between fork and exec.
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def _die_with_parent() -> None:
    assert _prctl is not None
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
