"""Whole commands whose terminal is closed in the middle: a window, an ssh session is gone."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import repo
from tests.test_commands import HALFWAY, MONDAY, STREAM, end, home_of_two, start, statuses
from tests.test_slow_provider import environment
from tests.whole import TARGET, Home

BACKUP, RESTORE = ("--backup", MONDAY), ("--restore", MONDAY, "--as", TARGET)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_of_two(tmp_path) as made:
        yield made


def closed_halfway(home: Home, setting: str, *arguments: str, rest: str = "cat") -> tuple[int, str]:
    """Run a command, after this line of a shell, on a terminal that goes in mid-run.

    Its status, and what was shown until then. ``rest``: what brings the second half of the stream.
    """
    program = home.folder / "halfway"
    program.write_text(HALFWAY.format(home=home.folder).replace("hold; cat;", f"hold; {rest};"))
    words = ["sh", "-c", f'{setting}; exec "$@"', "sh", sys.executable, "-m", "offsite", *arguments]
    settings = environment() | {"ZFS_COMMAND": f"/bin/sh {program}"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(words[0], words, settings)  # noqa: S606 - the shell is for its setting alone
    os.set_blocking(terminal, False)
    shown = bytearray()
    try:
        repo.wait_for(lambda: is_drawn(terminal, shown) and (home.folder / "begun").exists())
    finally:
        os.close(terminal)
        (home.folder / "go").touch()
    ended: list[int] = []
    repo.wait_for(lambda: gone(pid, ended))
    return ended[0], shown.decode()


def is_drawn(terminal: int, shown: bytearray) -> bool:
    """Whether the live display is there; all is read, so that no writer waits."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(terminal, 65536):
            shown += data
    return re.search(rb"chunk [1-9].*\n.*MiB/s", shown) is not None


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
    status, shown = closed_halfway(home, ":", *arguments)
    assert status == 130
    title = {"--backup": f"Backing up {MONDAY}", "--restore": f"Restoring {TARGET}"}
    assert title[arguments[0]] in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert home.holds == []
    end(start(*arguments))
    check_whole(home, arguments)


@pytest.mark.parametrize("arguments", [BACKUP, RESTORE])
def test_what_ignores_its_end_goes_on_to_the_end(home: Home, arguments: tuple[str, ...]) -> None:
    """As behind nohup and a shell's trap; nothing can be told there any more."""
    if arguments == RESTORE:
        end(start(*BACKUP))
    assert closed_halfway(home, "trap '' HUP", *arguments)[0] == 0
    check_whole(home, arguments)


def check_whole(home: Home, arguments: tuple[str, ...]) -> None:
    assert home.received == (STREAM if arguments == RESTORE else None)
    assert statuses(home) == [("complete", ["one", "two"])]


def test_its_status_is_of_what_went_wrong(home: Home) -> None:
    """And not Python's own 120 for what it cannot write any more."""
    assert closed_halfway(home, "trap '' HUP", *BACKUP, rest="exit 1")[0] == 1
