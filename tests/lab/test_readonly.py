"""A pool that was imported read-only: what is there is backed up, and nothing arrives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.world import World
from tests.lab.test_increments import backup, bookmarks, change, check_restored
from tests.lab.test_older_tool import older_backup
from tests.lab.test_resume import log_of
from tests.programs import needs

REFUSED = "is imported read-only: nothing can be restored there; it was not touched"


@pytest.fixture
def data(world: World, pool: str) -> str:
    """A filesystem with the snapshots @s0 and @s1, which nobody backed up."""
    name = f"{pool}/photos"
    world.machine.run("zfs", "create", name)
    world.fill(name, noise=2)
    world.machine.script(f"zfs snapshot {name}@s0; echo more > /{name}/more")
    world.machine.run("zfs", "snapshot", f"{name}@s1")
    return name


@contextmanager
def read_only(world: World, pool: str) -> Iterator[None]:
    again = ("zpool", "import", "-d", world.machine.pool_folder)
    world.machine.run("zpool", "export", pool)
    world.machine.run(*again, "-o", "readonly=on", pool)
    try:
        yield
    finally:
        world.machine.run("zpool", "export", pool)
        world.machine.run(*again, pool)


def warnings(log: str) -> list[str]:
    return [line for line in log.splitlines() if "WARNING" in line]


def test_snapshots_that_are_there_are_backed_up(world: World, pool: str, data: str) -> None:
    facts = world.facts(data)
    with read_only(world, pool):
        for name in ("s0", "s1"):
            before = log_of(world)
            done = backup(world, f"{data}@{name}")
            assert done["type"] == ("full" if name == "s0" else "incremental")
            (told,) = warnings(log_of(world)[len(before) :])
            assert f"{data}@{name} can be neither held nor bookmarked" in told
    check_restored(world, data, "s1", facts)
    change(world, data, 1)
    assert backup(world, f"{data}@s2")["base"] == "s1"
    check_restored(world, data, "s2", world.facts(data))
    marks = bookmarks(world, data)
    with read_only(world, pool):
        before = log_of(world)
        assert backup(world, f"{data}@s2")["resumed_chunks"] > 0  # it is there
        assert warnings(log_of(world)[len(before) :]) == []
    assert bookmarks(world, data) == marks != []


def test_a_new_snapshot_is_refused(world: World, pool: str, data: str) -> None:
    with read_only(world, pool):
        for args in ([data], [f"{data}@new"], ["-R", data], [data, "--dry-run"]):
            ran = world.offsite("--backup", *args, status=1)
            told = [line for line in ran.stderr.splitlines() if line]
            assert [line.split(":")[0] for line in told] == ["ERROR", "HINT"], ran
            assert "zfs snapshot: the pool is imported read-only" in told[0]
            assert "a snapshot that is there can be backed up" in told[1]
        world.offsite("--backup", f"{data}@s1", "--dry-run")
    assert world.offsite("--list", "--json").json["backups"] == []


def test_nothing_is_restored_there(world: World, pool: str, data: str) -> None:
    backup(world, f"{data}@s0")
    backup(world, f"{data}@s1")
    before = world.machine.run("zfs", "list", "-Hrt", "all", "-o", "name,guid", pool).stdout
    with read_only(world, pool):
        for args in (
            [data, "--as", f"{pool}/new"],
            [data, "--update"],
            [data, "--replace", "--yes"],
            [data, "--as", f"{pool}/new", "--dry-run"],
            [data, "-R", "--as", f"{pool}/new"],
        ):
            ran = world.offsite("--restore", *args, status=2)
            assert REFUSED in ran.stderr, ran
            assert f"zpool export {pool} && zpool import {pool}" in ran.stderr
    after = world.machine.run("zfs", "list", "-Hrt", "all", "-o", "name,guid", pool).stdout
    assert after == before


def test_no_unsigned_backup_is_restored_there(
    world: World, pool: str, data: str, tmp_path: Path
) -> None:
    needs("age", "gzip", "split")
    older_backup(world, f"{data}@s1", tmp_path)
    restore = ("--restore", "--unsigned", f"{data}@s1", "--as", f"{pool}/new")
    with read_only(world, pool):
        assert REFUSED in world.offsite(*restore, status=2).stderr
        assert not world.exists(f"{pool}/new")
    world.offsite(*restore)
    assert world.facts(f"{pool}/new") == world.facts(data)
