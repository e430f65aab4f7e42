"""README's quick start, word for word, by root on a Debian where nothing was ever installed.

Its lines are run by one shell on a terminal. The user's part is made up: what is typed into rclone
config, and an editor that does what the comment beside it says.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from lab import Host, Machine
from lab.guest import Guest
from lab.process import run
from lab.world import World
from tests.lab import debian

ROOT = Path(__file__).parents[2]
LIMIT = 480  # seconds
CLOUD = "/srv/cloud"
REPOSITORY = "/srv/offsite.git"
AND_BACK = "offsite --restore tank/photos --as tank/back"
# What setup.sh and rclone config ask, and what is typed: a new remote b2, an alias of that folder.
ASKED = (
    ("Install these packages? [y/N]", "y"),
    ("n/s/q>", "n"),
    ("name>", "b2"),
    ("Storage>", "alias"),
    ("remote>", "{folder}"),
    ("y/n>", "n"),
    ("y/e/d>", "y"),
    ("e/n/d/r/c/s/q>", "q"),
)
NANO = """\
#!/bin/sh
exec sed -i 's|^#RCLONE_REMOTE=.*|RCLONE_REMOTE="b2:my-bucket/zfs"|' "$1"
"""


@pytest.fixture
def photos(machine: Machine) -> Iterator[None]:
    """tank/photos."""
    if isinstance(machine, Host):
        pytest.skip("this machine may have a pool tank of its own")
    machine.make_pool("tank")
    try:
        machine.script("zfs create tank/photos; seq 100000 > /tank/photos/numbers")
        yield
    finally:
        machine.destroy_pool("tank")


def quick_start() -> str:
    """The lines of README's first shell block under that heading."""
    text = (ROOT / "README.md").read_text()
    found = re.search(r"^## Quick start\n+```sh\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1].replace("<this repository>", REPOSITORY)


@pytest.mark.usefixtures("photos")
@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to install a Debian in a folder")
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_the_quick_start(world: World, suite: str) -> None:
    lines = quick_start()
    assert "nano" in lines
    with debian.clean(suite, "git") as clean:
        run(["git", "clone", "-q", "--bare", "--no-hardlinks", ROOT, f"{clean.root}{REPOSITORY}"])
        nano = clean.root / "usr/bin/nano"
        nano.write_text(NANO)
        nano.chmod(0o755)
        shared = [world.machine.folder] if isinstance(world.machine, Guest) else []
        told = on_a_terminal(
            clean.command(f"set -e; cd ~\n{lines}\n{AND_BACK}", *shared),
            [(asked, typed.format(folder=CLOUD)) for asked, typed in ASKED],
            {
                "HOME": "/root",
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LIMIT": str(LIMIT),
                "TERM": "xterm",
                "LC_ALL": "C.UTF-8",
                **world.machine.zfs_settings(),
            },
        )
        assert "Ready. What is left to do:" in told
        listed = told.partition("is backed up on default.")[2]
        assert "\x1b[32mcomplete" in listed
        assert "on default" in listed
        cloud = clean.root / CLOUD.lstrip("/")
        (manifest,) = cloud.glob("my-bucket/zfs/offsite/backups/*/manifest.age")
        assert manifest.stat().st_size
    world.machine.script("zfs mount tank/back; cmp /tank/photos/numbers /tank/back/numbers")


def on_a_terminal(
    command: Sequence[str], asked: Sequence[tuple[str, str]], environment: Mapping[str, str]
) -> str:
    """What it prints while it is answered; it must end with status 0."""
    left = deque(asked)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as running:
        os.close(theirs)
        told, answered = "", 0
        for piece in pieces_of(ours):
            told += piece
            if left and left[0][0] in told[answered:]:
                os.write(ours, f"{left.popleft()[1]}\n".encode())
                answered = len(told)
        os.close(ours)
    assert running.returncode == 0, told
    return told


def pieces_of(terminal: int) -> Iterator[str]:
    """All that is written to it, until nobody has its other end open."""
    try:
        while data := os.read(terminal, 1 << 16):
            yield data.decode(errors="replace")
    except OSError:  # EIO
        return
