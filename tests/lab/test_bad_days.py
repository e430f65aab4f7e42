"""What goes wrong around a run on real OpenZFS without anything being killed."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import Machine
from lab.faults import matrix
from lab.faults.victims import STREAMS
from lab.world import PROVIDERS, World, remotes, wait_for
from tests.lab.disks import disk_of
from tests.lab.test_resume import check_clean, log_of, taken_in

DISK = 16  # MiB
STILL = 75  # seconds
# A pool that takes nothing for a while, twice.
STANDS_STILL = f"""#!/bin/sh
[ "$1" = receive ] || exec zfs "$@"
{{ head -c 2000000; sleep {STILL}; head -c 5000000; sleep 5; cat; }} | zfs "$@"
"""

# Ends the server of the connection that carries a stream.
HANG_UP = f"""{STREAMS}
pid=$(streams | head -n 1)
until grep -q ssh /proc/$pid/comm; do pid=$(awk '{{ print $4 }}' /proc/$pid/stat); done
kill -9 $pid
"""


@pytest.fixture
def cramped(machine: Machine, tmp_path: Path) -> Iterator[World]:
    """A user whose own disk is small; what the providers keep is elsewhere."""
    with contextmanager(disk_of)(DISK, tmp_path / "disk") as disk:
        world = World.new(disk / "home", machine)
        for name in PROVIDERS:
            (tmp_path / name).mkdir()
        world.configure(**remotes(tmp_path))
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


def test_the_connection_to_the_pool_breaks(world: World, pool: str) -> None:
    """In mid-send, and in mid-receive; then the same command goes on."""
    if not world.machine.zfs_settings():
        pytest.skip("zfs is on this machine: there is no connection to break")
    data, target = f"{pool}/data", f"{pool}/back"
    world.machine.run("zfs", "create", data)
    world.fill(data, noise=12)
    backup, restore = ("--backup", f"{data}@s"), ("--restore", data, "--as", target)
    narrow = matrix.prepare(world, data)
    told = broken(world, backup, narrow, lambda: world.receipts() >= 3)
    assert "what is stored is kept" in told
    assert world.offsite(*backup, "--json").json["backup"]["resumed_chunks"] >= 3
    check_clean(world, f"{data}@s")
    broken(world, restore, narrow, lambda: taken_in(world, target) >= 3 << 20)
    assert world.offsite(*restore, "--json").json["restore"]["resumed_chunks"] >= 2
    assert world.facts(target) == world.facts(data)


def broken(
    world: World, command: Sequence[str], narrow: Mapping[str, str], enough: Callable[[], bool]
) -> str:
    """What it says when the connection is lost after ``enough``."""
    running = world.start(*command, RCLONE_FLAGS="--bwlimit 500k", **narrow)
    try:
        wait_for(lambda: enough() or running.poll() is not None)
        world.machine.script(HANG_UP)
        _, told = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 1, told
    assert "Traceback" not in told
    assert f"the ssh connection to {world.machine.zfs_settings()['ZFS_SSH']} was lost" in told
    assert "the same command" in told
    return told


def test_a_receive_that_stands_still(world: World, pool: str) -> None:
    """Longer than a line may be silent: nothing is fetched twice, and no setting was touched."""
    data, target = f"{pool}/data", f"{pool}/back"
    world.machine.run("zfs", "create", data)
    world.fill(data, noise=24)
    stored = world.offsite("--backup", f"{data}@s", "--json").json["backup"]["stored_bytes"]
    restore = ("--restore", data, "--as", target, "--json")
    ran = world.offsite(*restore, status=0, ZFS_COMMAND=world.program("still", STANDS_STILL))
    back = ran.json["restore"]
    assert back["seconds"] > STILL
    assert sum(back["providers"].values()) <= 1.05 * stored
    assert "WARNING" not in log_of(world, "restore")
    assert world.facts(target) == world.facts(data)
