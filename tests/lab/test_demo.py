"""script/demo, on this test's machine and with less noise; as a new user sees it, on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab import LabError, Machine, cache, demo
from lab.world import World
from tests.programs import needs

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
LIMIT = 1800  # seconds; the lab may have to be built

UNCUT = 5  # the first of the scenes without a kill
SCENES = (
    f"$ offsite --backup {demo.DATA}@today",
    "(token)",
    "Read from the pool: ",
    f"$ offsite --restore {demo.DATA} --as {demo.POOL}/restored",
    "Fetched for the rest: ",
    'Good "offsite-manifest" signature',
    "only what is new (from a bookmark)",
    "The volume's bytes and what was set on the datasets: identical",
)


@contextmanager
def terminal(capfd: Capture) -> Iterator[list[bytes]]:
    """stdout and stderr are a terminal; what came out there is whole after the end."""
    seen: list[bytes] = []
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))

    def read() -> None:
        try:
            while data := os.read(ours, 1 << 16):
                seen.append(data)
        except OSError:  # EIO: nobody has the other end open any more
            pass

    reader = threading.Thread(target=read)
    with ExitStack() as stack, capfd.disabled():
        stack.callback(lambda: print(b"".join(seen).decode()))  # noqa: T201 - shown if it fails
        kept = [(number, os.dup(number)) for number in (1, 2)]
        for number, _ in kept:
            os.dup2(theirs, number)
        os.close(theirs)
        reader.start()
        try:
            yield seen
        finally:
            sys.stdout.flush()
            for number, before in kept:
                os.dup2(before, number)
                os.close(before)
            reader.join()
            os.close(ours)


def test_where_no_machine_can_be_had_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def boot() -> None:
        raise LabError("the lab builds x86-64 guests only, this is aarch64")

    monkeypatch.setattr(demo, "usable", lambda: False)
    monkeypatch.setattr(demo, "boot", boot)
    with pytest.raises(SystemExit, match="ERROR: the lab builds x86-64 guests only"):
        demo.main()


def test_the_demo_plays_on_a_terminal(machine: Machine, tmp_path: Path, capfd: Capture) -> None:
    with terminal(capfd) as seen:
        assert sys.stdout.isatty()
        demo.play(machine, tmp_path, noise=8)
    check_scenes(b"".join(seen).decode())


@pytest.mark.gate
def test_nobody_pulls_the_plug(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """The same scenes without the kills, which wait for a moment."""

    def backup(world: World, plug: int) -> None:
        world.offsite("--backup", f"{demo.DATA}@today")

    def restore(world: World, before: str, plug: int) -> None:
        world.offsite("--restore", demo.DATA, "--as", f"{demo.POOL}/restored")

    monkeypatch.setattr(demo, "interrupted_backup", backup)
    monkeypatch.setattr(demo, "interrupted_restore", restore)
    demo.play(machine, tmp_path, noise=1)
    check_scenes(capfd.readouterr().out, SCENES[UNCUT:])


@pytest.mark.lab
@pytest.mark.soak
def test_the_script_plays_from_a_clean_clone_in_an_empty_home(tmp_path: Path) -> None:
    """Nothing but what was built for it before: the lab and its venv."""
    needs("git")
    clone, home = tmp_path / "clone", tmp_path / "home"
    home.mkdir()
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True, timeout=60)
    environment = {
        "HOME": str(home),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "OFFSITE_LAB_CACHE": str(cache.root()),
    }
    ran = subprocess.run(
        [str(clone / "script/demo")],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert ran.returncode == 0, ran
    check_scenes(ran.stdout)
    assert list(home.iterdir()) == []


def check_scenes(told: str, scenes: Sequence[str] = SCENES) -> None:
    told = re.sub(r"\bdemo\d+/", f"{demo.POOL}/", told)  # a pool of that run's own
    for words in scenes:
        before, found, told = told.partition(words)
        assert found, before
