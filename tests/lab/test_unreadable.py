"""A pool with one damaged block, and no other copy of it."""

from __future__ import annotations

import re

import pytest

from lab.world import World

BLOCK = 128 << 10
BAD = 40  # which block of the file
LABELS = 4 << 20  # bytes in front of what a DVA counts (VDEV_LABEL_START_SIZE)


@pytest.mark.parametrize("kind", ["filesystem", "volume"])
def test_a_block_that_cannot_be_read_is_told_and_the_second_time_for_good(
    world: World, pool: str, kind: str
) -> None:
    machine, data = world.machine, f"{pool}/data"
    volume = ("-b", str(BLOCK), "-V", "16M") if kind == "volume" else ()
    machine.run("zfs", "create", "-o", "compression=off", *volume, data)
    file = world.device(data) if volume else f"/{data}/file"
    machine.script(f"dd if=/dev/urandom of={file} bs={BLOCK} count=64 conv=fsync 2>/dev/null")
    machine.run("zfs", "snapshot", f"{data}@monday")
    number = "1" if volume else machine.run("stat", "-c", "%i", file).stdout.strip()
    damage(world, pool, data, number)

    backup = ("--backup", f"{data}@monday")
    first = world.offsite(*backup, status=1).stderr
    where = f"{data}@monday in or soon after object {number}, behind its byte {(BAD - 1) * BLOCK}"
    assert "the pool has unreadable blocks" in first
    assert where in first
    assert "what is stored is kept" in first
    for _ in range(2):
        again = world.offsite(*backup, status=1).stderr
        assert f"{where}, as in the run before" in again
        assert f"(damaged: {data}@monday:{'<0x1>' if volume else '/file'})" in again
        assert ("write that part of the volume" in again) == bool(volume)
        assert (f"-inum {number};" in again) != bool(volume)
    (row,) = world.offsite("--list", "--json").json["backups"]
    assert row["status"] == "unfinished"


def damage(world: World, pool: str, data: str, number: str) -> None:
    """Let the block be another one on the disk, and in no cache."""
    machine = world.machine
    folder, backing = machine.pool_folder, machine._backing(pool)
    machine.run("zpool", "sync", pool)
    told = machine.run("zdb", "-e", "-p", folder, "-ddddd", data, number).stdout
    (place,) = re.findall(rf"^\s*{BAD * BLOCK:x}\s+L0 0:([0-9a-f]+):", told, re.MULTILINE)
    at = (LABELS + int(place, 16)) // 512
    machine.run("zpool", "export", pool)
    machine.script(f"dd if=/dev/urandom of={backing} bs=512 count=8 seek={at} conv=notrunc")
    machine.run("zpool", "import", "-d", folder, "-o", "cachefile=none", pool)
