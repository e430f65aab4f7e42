"""A pool with one damaged block, and no other copy of it."""

from __future__ import annotations

import re

from lab.world import World

BLOCK = 128 << 10
BAD = 40  # which block of the file
LABELS = 4 << 20  # bytes in front of what a DVA counts (VDEV_LABEL_START_SIZE)


def test_a_block_that_cannot_be_read_is_told_and_the_second_time_for_good(
    world: World, pool: str
) -> None:
    machine, data = world.machine, f"{pool}/data"
    machine.run("zfs", "create", "-o", "compression=off", data)
    machine.script(f"dd if=/dev/urandom of=/{data}/file bs={BLOCK} count=64 2>/dev/null; sync")
    machine.run("zfs", "snapshot", f"{data}@monday")
    number = machine.run("stat", "-c", "%i", f"/{data}/file").stdout.strip()
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
        assert f"(damaged: {data}@monday:/file)" in again
        assert f"-inum {number};" in again
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
