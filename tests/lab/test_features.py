"""Pools that lack a feature: Offsite refuses what zfs receive would refuse, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.machine import Machine
from lab.world import World
from tests import old_zfs
from tests.lab.test_chain_restore import check_done, restored
from tests.lab.test_resume import log_of

BEFORE_ENCRYPTION = f"""#!/bin/sh
[ $# -gt 0 ] || {{ cat >&2 <<'END'; exit 2; }}
{old_zfs.usage("freebsd-12")}END
case "$1" in version) echo "unrecognized command 'version'" >&2; exit 2 ;; esac
case "$*" in
*,encryption*) echo "bad property list: invalid property 'encryption'" >&2; exit 2 ;;
"receive "*"-o "*) echo "invalid option" >&2; exit 2 ;;
"receive "*/below@b) ! rm /tmp/cut-off 2>/dev/null || exit 1 ;;
esac
exec zfs "$@"
"""


@pytest.fixture
def small(machine: Machine, pool: str) -> Iterator[str]:
    """Return the name of another pool, which the test makes."""
    yield f"{pool}less"
    machine.destroy_pool(f"{pool}less")


@pytest.fixture
def data(world: World, pool: str) -> str:
    """A dataset with zstd, large blocks and large dnodes, sent as stored, backed up."""
    name = f"{pool}/large"
    words = ("-o", "recordsize=1M", "-o", "dnodesize=1k", "-o", "compression=zstd")
    world.machine.run("zfs", "create", *words, name)
    world.machine.script(f"seq 1 200000 > /{name}/numbers; sync")
    world.offsite("--backup", f"{name}@a")
    return name


def make_old(machine: Machine, name: str) -> None:
    """A pool without any feature."""
    path = f"{machine.pool_folder}/{name}.pool"
    machine.run("truncate", "-s", str(128 << 20), path)
    machine.run("zpool", "create", "-d", "-o", "cachefile=none", "-m", f"/{name}", name, path)


def test_a_feature_is_missing(world: World, machine: Machine, data: str, small: str) -> None:
    machine.make_pool(small, 128 << 20, **{"feature@zstd_compress": "disabled"})
    target = f"{small}/back"
    for more in (("--dry-run",), ()):
        refused = restored(world, data, "--as", target, *more, status=2)
        assert refused["error"] == (
            f"{small} has no feature zstd_compress, which this backup needs"
        )
        assert not world.exists(target)
    enable = refused["hint"].partition(";")[0]
    assert enable == f"zpool set feature@zstd_compress=enabled {small}"
    machine.run(*enable.split())
    restored(world, data, "--as", target)
    assert world.facts(target) == world.facts(data)


def test_a_pool_without_bookmarks(world: World, machine: Machine, pool: str, small: str) -> None:
    """The last two snapshots are held instead, until there is something better."""
    make_old(machine, small)
    name = f"{small}/plain"
    machine.run("zfs", "create", name)
    held, kinds = [], []
    for number in range(5):
        if number == 3:
            machine.run("zpool", "set", "feature@bookmarks=enabled", small)
        machine.script(f"echo {number} > /{name}/file; sync")
        (done,) = world.offsite("--backup", f"{name}@s{number}", "--json").json["backups"]
        kinds.append(done["type"])
        refs = machine.run("zfs", "list", "-Ht", "snapshot", "-o", "userrefs", name).stdout.split()
        held.append([f"s{index}" for index, count in enumerate(refs) if count != "0"])
    assert held == [["s0"], ["s0", "s1"], ["s1", "s2"], ["s2"], []]
    assert kinds == ["full", *["incremental"] * 4]


def test_holds_do_not_pile_up(world: World, machine: Machine, pool: str, small: str) -> None:
    """Also where no run ever serves all providers at once."""
    make_old(machine, small)
    name = f"{small}/plain"
    machine.run("zfs", "create", name)
    for number, provider in enumerate(("one", "one", "two", "one", "one", "two")):
        machine.script(f"echo {number} > /{name}/file; sync")
        world.offsite("--backup", f"{name}@s{number}", "--provider", provider)
    names = [f"{name}@s{number}" for number in range(6)]
    holds = machine.run("zfs", "holds", "-H", *names).stdout.splitlines()
    tags = [tuple(line.split("\t")[:2]) for line in holds]
    tags = [(at.rpartition("@")[2], tag.rpartition(":")[2]) for at, tag in tags]
    assert sorted(tags) == [("s2", "two"), ("s3", "one"), ("s4", "one"), ("s5", "two")]


def test_a_pool_without_any(world: World, machine: Machine, pool: str, small: str) -> None:
    """zfs receive -s itself needs one."""
    name = f"{pool}/plain"
    machine.run("zfs", "create", "-o", "compression=off", name)
    machine.script(f"seq 1 2000 > /{name}/numbers; sync")
    world.offsite("--backup", f"{name}@a")
    make_old(machine, small)
    refused = restored(world, name, "--as", f"{small}/back", status=2)
    assert "extensible_dataset" in refused["error"]
    for enable in refused["hint"].partition(";")[0].split(" && "):
        machine.run(*enable.split())
    restored(world, name, "--as", f"{small}/back")
    assert world.facts(f"{small}/back") == world.facts(name)


def test_a_zfs_of_before_encryption(world: World, pool: str) -> None:
    """As FreeBSD 12: it refuses a list that asks for encryption, does not tell its version, and
    knows no receive -o: what is cut off between two links goes on all the same."""
    name, back = f"{pool}/plain", f"{pool}/back"
    world.machine.script(f"zfs create {name}; zfs create {name}/below; seq 99 > /{name}/file; sync")
    old = world.program("before-encryption", BEFORE_ENCRYPTION)
    for snapshot in "ab":
        world.machine.script(f"cd /{name}; echo {snapshot} | tee more > below/more; sync")
        done = world.offsite(
            "--backup", f"{name}@{snapshot}", "-R", "--json", status=0, ZFS_COMMAND=old
        ).json
        assert [one["dataset"] for one in done["backups"]] == [name, f"{name}/below"]
    assert log_of(world).count("knows no encryption (send -w)") == 2
    world.machine.script(": > /tmp/cut-off")
    again = ("--restore", name, "-R", "--as", back, "--json")
    done = world.offsite(*again, status=3, ZFS_COMMAND=old).json
    assert list(done["failed"]) == [f"{back}/below"]
    done = world.offsite(*again, status=0, ZFS_COMMAND=old).json
    assert done["restores"][1]["resumed_chunks"] == 1
    assert world.facts(back) == world.facts(name)
    assert log_of(world, "restore").count("knows no properties at receive (receive -o)") == 2
    check_done(world, f"{back}/below")
