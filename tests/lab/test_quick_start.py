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
from collections.abc import Iterator
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
    mkdir -p "$HOME.local/$folder" "$HOME.local/work-$folder"
    mount -t overlay -o "lowerdir=/usr/local/$folder,upperdir=$HOME.local/$folder,workdir=$HOME.local/work-$folder" \\
        none "/usr/local/$folder"
done
cd "$HOME"
"""
# New remote b2, of the type alias, to that folder; not the advanced settings; keep it; quit.
TYPED = "n\nb2\nalias\n{folder}\nn\ny\nq\n"
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
        TYPED.format(folder=cloud),
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
    assert "tank/photos" in told.rpartition("offsite --list")[2] or "tank/photos" in told
    (manifest,) = cloud.glob("my-bucket/zfs/offsite/backups/*/manifest.age")
    assert manifest.stat().st_size


def on_a_terminal(script: str, typed: str, environment: dict[str, str]) -> str:
    """What the shell's lines print; all must end with status 0."""
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    with subprocess.Popen(
        ["unshare", "--mount", "timeout", "--foreground", str(LIMIT), "bash", "-c", script],
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as running:
        os.close(theirs)
        seen = bytearray()
        try:
            while data := os.read(ours, 1 << 16):
                seen += data
        except OSError:  # EIO: nobody has the other end open any more
            pass
        os.close(ours)
    told = seen.decode(errors="replace")
    assert running.returncode == 0, told
    return told
