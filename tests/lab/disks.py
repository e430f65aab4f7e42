"""Disks that are soon full."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def disk_of(mebibytes: int, place: Path) -> Iterator[Path]:
    """For a fixture: a folder with so much room, on a disk of its own in memory."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}M", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a full disk needs root and mount(8)")
    yield place
    subprocess.run(["umount", str(place)], check=True)
