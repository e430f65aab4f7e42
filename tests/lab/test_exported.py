"""A pool that is exported under a backup's or a restore's feet: told, and gone on with later."""

from __future__ import annotations

import signal

import pytest

from lab.world import World, wait_for
from tests.lab.test_resume import check_clean, finish, interrupt

# A zfs at the end of ZFS_COMMAND that exports the pool before it does this, the {nth} time.
EXPORTS = """#!/bin/sh
if [ "$1" = {verb} ]; then
    echo >> {count}
    if [ $(wc -l < {count}) = {nth} ]; then
        for i in $(seq 100); do zpool export -f {pool} && break; sleep 0.1; done
    fi
fi
exec zfs "$@"
"""


def exporting(world: World, pool: str, verb: str, nth: int = 1) -> str:
    count = f"/tmp/exported-{pool}-{verb}"
    text = EXPORTS.format(verb=verb, count=count, nth=nth, pool=pool)
    return world.program("exporting", text)


def import_again(world: World, pool: str) -> None:
    world.machine.run("zpool", "import", "-d", world.machine.pool_folder, pool)


@pytest.fixture
def data(world: World, pool: str) -> str:
    name = f"{pool}/photos"
    world.machine.run("zfs", "create", "-o", "recordsize=1M", name)
    world.fill(name, noise=8)
    return name


def test_before_an_interrupted_backup_goes_on(world: World, pool: str, data: str) -> None:
    interrupt(world, f"{data}@s", signal.SIGINT)
    stored, facts = world.receipts(), world.facts(data)
    wait_for(lambda: world.machine.run("zpool", "export", pool, check=False).status == 0)
    refused = world.offsite("--backup", f"{data}@s", status=1)
    assert f"no pool {pool} is imported here" in refused.stderr
    assert world.receipts() == stored > 0
    import_again(world, pool)
    done = finish(world, f"{data}@s")
    assert done["resumed_chunks"] >= stored
    check_clean(world, f"{data}@s")
    world.offsite("--restore", data, "--as", f"{data}-back")
    assert world.facts(f"{data}-back") == facts


def test_between_the_hold_and_the_send(world: World, pool: str, data: str) -> None:
    interrupt(world, f"{data}@s", signal.SIGINT)
    stored = world.receipts()
    gone = exporting(world, pool, "send")
    refused = world.offsite("--backup", f"{data}@s", status=1, ZFS_COMMAND=gone)
    assert f"the pool {pool} is not imported any more" in refused.stderr
    import_again(world, pool)
    assert finish(world, f"{data}@s")["resumed_chunks"] >= stored > 0
    check_clean(world, f"{data}@s")


def test_in_the_middle_of_a_set(world: World, pool: str) -> None:
    root = f"{pool}/all"
    world.machine.script(
        f"zfs create {root}; for i in a b c; do zfs create {root}/$i; echo $i > /{root}/$i/f; done"
    )
    gone = exporting(world, pool, "send", 3)
    command = ("--backup", f"{root}@s", "-R", "--jobs", "1", "--json")
    done = world.offsite(*command, status=3, ZFS_COMMAND=gone).json
    assert [one["dataset"] for one in done["backups"]] == [root]
    assert [*done["failed"]] == [f"{root}/{name}" for name in "abc"]
    for why in done["failed"].values():
        assert why.startswith(f"the pool {pool} is not imported any more")
    import_again(world, pool)
    done = world.offsite(*command).json
    assert (len(done["backups"]), done["failed"]) == (4, {})
    for name in ("", "/a", "/b", "/c"):
        check_clean(world, f"{root}{name}@s")


def test_before_a_restore_receives(world: World, pool: str, data: str) -> None:
    finish(world, f"{data}@s")
    gone = exporting(world, pool, "receive")
    refused = world.offsite("--restore", data, "--as", f"{data}-back", status=1, ZFS_COMMAND=gone)
    assert "or import its pool" in refused.stderr
    import_again(world, pool)
    world.offsite("--restore", data, "--as", f"{data}-back")
    assert world.facts(f"{data}-back") == world.facts(data)
