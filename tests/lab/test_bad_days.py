"""What goes wrong around a run on real OpenZFS without anything being killed."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import Machine
from lab.world import PROVIDERS, World, wait_for
from tests.lab.disks import disk_of
from tests.lab.test_resume import check_clean, command, log_of

DISK = 16  # MiB
STILL = 75  # seconds
# A pool that takes nothing for a while, twice.
STANDS_STILL = f"""#!/bin/sh
[ "$1" = receive ] || exec zfs "$@"
{{ head -c 2000000; sleep {STILL}; head -c 5000000; sleep 5; cat; }} | zfs "$@"
"""


@pytest.fixture
def cramped(machine: Machine, tmp_path: Path) -> Iterator[World]:
    """A user whose own disk is small; what the providers keep is elsewhere."""
    with contextmanager(disk_of)(DISK, tmp_path / "disk") as disk:
        world = World.new(disk / "home", machine)
        stores = {name: tmp_path / name for name in PROVIDERS}
        for store in stores.values():
            store.mkdir()
        world.configure(**{f"{name.upper()}_REMOTE": str(store) for name, store in stores.items()})
        yield world


def fill_up(path: Path) -> None:
    """Leave no byte free on the disk of ``path``."""
    with path.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def test_a_disk_of_the_user_that_gets_full(cramped: World, pool: str) -> None:
    """What was stored is kept, nothing starts without room, and with room the same goes on."""
    data, ballast = f"{pool}/data", cramped.home / "ballast"
    cramped.machine.run("zfs", "create", data)
    cramped.fill(data, noise=8)
    command = ("--backup", f"{data}@s")
    running = cramped.start(*command, RCLONE_FLAGS="--bwlimit 500k")
    try:
        wait_for(lambda: cramped.receipts() >= 3 or running.poll() is not None)
        fill_up(ballast)
        _, told = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 1, told
    assert "cannot be written: No space left on device" in told
    assert "HINT: make room in " in told
    assert "Traceback" not in told
    told = cramped.offsite(*command, status=1).stderr
    assert "No space left on device" in told
    assert "HINT: " in told
    rows = cramped.offsite("--list", "--json").json["backups"]
    assert [row["complete"] for row in rows] == [False]
    ballast.unlink()
    done = cramped.offsite(*command, "--json").json["backup"]
    assert done["resumed_chunks"] >= 3
    check_clean(cramped, f"{data}@s")
    cramped.offsite("--restore", data, "--as", f"{pool}/back")
    assert cramped.facts(f"{pool}/back") == cramped.facts(data)


def test_a_receive_that_stands_still(world: World, pool: str) -> None:
    """Longer than a line may be silent: nothing is fetched twice, and no setting was touched."""
    data, target = f"{pool}/data", f"{pool}/back"
    world.machine.run("zfs", "create", data)
    world.fill(data, noise=24)
    stored = world.offsite("--backup", f"{data}@s", "--json").json["backup"]["stored_bytes"]
    restore = ("--restore", data, "--as", target, "--json")
    ran = world.offsite(*restore, status=0, **command(world, "still", STANDS_STILL))
    back = ran.json["restore"]
    assert back["seconds"] > STILL
    assert sum(back["providers"].values()) <= 1.05 * stored
    assert "WARNING" not in log_of(world, "restore")
    assert world.facts(target) == world.facts(data)
