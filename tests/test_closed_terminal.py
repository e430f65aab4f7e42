"""Whole commands whose terminal is closed in the middle: a window, an ssh session is gone."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import repo
from tests.test_commands import MONDAY, STREAM, end, halfway, home_of_two, start, statuses
from tests.test_slow_provider import environment
from tests.whole import TARGET, Home

# What rich and Python make of a terminal by these is not what most users see.
UNUSUAL = {"FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "PYTHONUNBUFFERED"}
BACKUP, RESTORE = ("--backup", MONDAY), ("--restore", MONDAY, "--as", TARGET)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_of_two(tmp_path) as made:
        yield made


def closed_halfway(
    home: Home, setting: str, *arguments: str, rest: str = "cat", **environ: str
) -> int:
    """Run a command, after this line of a shell, on a terminal that goes in mid-run: its status.

    ``rest``: what brings the second half of the stream.
    """
    words = ["sh", "-c", f'{setting}; exec "$@"', "sh", sys.executable, "-m", "offsite", *arguments]
    there = {name: value for name, value in environment().items() if name not in UNUSUAL}
    settings = there | {"TERM": "xterm", "ZFS_COMMAND": halfway(home, rest), **environ}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(words[0], words, settings)  # noqa: S606 - the shell is for its setting alone
    os.set_blocking(terminal, False)
    shown, ended = bytearray(), list[int]()
    try:
        repo.wait_for(lambda: is_drawn(terminal, shown) and (home.folder / "begun").exists())
        os.close(terminal)
        (home.folder / "go").touch()
        repo.wait_for(lambda: gone(pid, ended))
    finally:
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return ended[0]


def is_drawn(terminal: int, shown: bytearray) -> bool:
    """Whether the live display is there; all is read, so that no writer waits."""
    with contextlib.suppress(BlockingIOError):
        try:
            while data := os.read(terminal, 65536):
                shown += data
        except OSError as error:
            if error.errno == errno.EIO:
                raise AssertionError(f"it ended early: {shown.decode()}") from error
            raise
    return re.search(rb"chunk [1-9].*\n.*B/s", shown) is not None


def gone(pid: int, ended: list[int]) -> bool:
    which, status = os.waitpid(pid, os.WNOHANG)
    if which:
        ended.append(os.waitstatus_to_exitcode(status))
    return bool(which)


@pytest.mark.parametrize("arguments", [BACKUP, RESTORE])
def test_it_stops_as_by_a_signal_and_the_same_command_goes_on(
    home: Home, arguments: tuple[str, ...]
) -> None:
    if arguments == RESTORE:
        end(start(*BACKUP))
    assert closed_halfway(home, ":", *arguments) == 130
    assert home.holds == []
    end(start(*arguments))
    check_whole(home, arguments)


@pytest.mark.parametrize(
    ("arguments", "more"), [(BACKUP, {}), (RESTORE, {}), (BACKUP, {"FORCE_COLOR": "1"})]
)
def test_what_ignores_its_end_goes_on_to_the_end(
    home: Home, arguments: tuple[str, ...], more: dict[str, str]
) -> None:
    """As behind nohup and a shell's trap; nothing can be told there any more."""
    if arguments == RESTORE:
        end(start(*BACKUP))
    assert closed_halfway(home, "trap '' HUP", *arguments, **more) == 0
    check_whole(home, arguments)


def check_whole(home: Home, arguments: tuple[str, ...]) -> None:
    assert home.received == (STREAM if arguments == RESTORE else None)
    assert statuses(home) == [("complete", ["one", "two"])]


def test_its_status_is_of_what_went_wrong(home: Home) -> None:
    """And not Python's own 120 for what it cannot write any more."""
    assert closed_halfway(home, "trap '' HUP", *BACKUP, rest="exit 1") == 1


def test_nobody_reads_what_is_wrong_any_more(home: Home) -> None:
    """A pipe, as behind ``2>&1 >log | less`` once that has ended."""
    home.snapshot("monday", STREAM, guid=77, creation=int(time.time()) + 3600)  # which is told
    there = {name: value for name, value in environment().items() if name not in UNUSUAL}
    ours, theirs = os.pipe()
    os.close(ours)
    words = [sys.executable, "-m", "offsite", *BACKUP]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=theirs, env=there) as running:
        os.close(theirs)
        try:
            assert running.wait(repo.LONG) == 0
        finally:
            running.kill()
    assert statuses(home) == [("complete", ["one", "two"])]
