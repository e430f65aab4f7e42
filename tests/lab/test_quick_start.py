"""README's quick start, word for word, as root on a machine where nothing of it was ever done.

Its lines are run by one shell on a terminal, in a mount namespace of its own: what setup.sh puts
into /opt and /usr/local is gone afterwards. The user's part is made up: what is typed into rclone
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
from lab.world import World

ROOT = Path(__file__).parents[2]
LIMIT = 480  # seconds
OF_THEIR_OWN = """\
set -e
mount -t tmpfs none /opt
for folder in bin share; do
    upper=$HOME.local/$folder
    mkdir -p "$upper/new" "$upper/work"
    options=lowerdir=/usr/local/$folder,upperdir=$upper/new,workdir=$upper/work
    mount -t overlay -o "$options" none "/usr/local/$folder"
done
cd "$HOME"
"""
# What rclone config asks, and what is typed: a new remote b2, of the type alias, to that folder.
ASKED = (
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
    return found[1].replace("<this repository>", str(ROOT))


@pytest.mark.usefixtures("photos")
@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to hide what setup.sh installs")
def test_the_quick_start(world: World, tmp_path: Path) -> None:
    home, cloud = tmp_path / "root", tmp_path / "cloud"
    home.mkdir()
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nano").write_text(NANO)
    (programs / "nano").chmod(0o755)
    lines = quick_start()
    assert "nano" in lines
    told = on_a_terminal(
        f"{OF_THEIR_OWN}\n{lines}",
        [(asked, typed.format(folder=cloud)) for asked, typed in ASKED],
        {
            "HOME": str(home),
            "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PIP_CACHE_DIR": str(Path.home() / ".cache/pip"),
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
            **world.machine.zfs_settings(),
        },
    )
    assert "Ready. What is left to do:" in told
    listed = told.rpartition("is backed up on default.")[2]
    assert "\x1b[32mcomplete" in listed
    assert "on default" in listed
    (manifest,) = cloud.glob("my-bucket/zfs/offsite/backups/*/manifest.age")
    assert manifest.stat().st_size


def on_a_terminal(
    script: str, asked: Sequence[tuple[str, str]], environment: Mapping[str, str]
) -> str:
    """What the shell's lines print, and are answered; all must end with status 0."""
    left = deque(asked)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["unshare", "--mount", "timeout", "--foreground", str(LIMIT), "bash", "-c", script],
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
