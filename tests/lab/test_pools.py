"""Whole pools and trees on real OpenZFS: one command there, every dataset its own backup."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest

from lab.world import World, wait_for
from tests.lab.test_resume import (
    MIB,
    SLOW,
    interrupt_restore,
    log_of,
    taken_in,
)

LONG = "l" * 200
VOLUMES = {"/vol", "/vms/disk1", "/vms/disk2", "/vms/clone"}
INNER = ("inner", "clone", "in side")  # what has its key from above
ODD = (
    "with space",
    "with space/below: it",
    "co:lon",
    "dash-_.dot",
    "-dash",
    ".dot",
    "9 lives",
    "secret/in side",
    "a:b c",
    LONG,
)
# Where a dataset is mounted and shared is not for one that is restored under another name.
HELD_BACK = {"mountpoint", "canmount", "sharenfs", "sharesmb"}
TREE = """
zfs create -o compression=zstd -o recordsize=1M -o com.example:note='two words, ünïcode' {p}/home
for name in alice bob carol; do
    zfs create {p}/home/$name
    for i in 1 2 3; do echo "$name $i" > /{p}/home/$name/$i; done
done
ln -s 1 /{p}/home/alice/link
ln /{p}/home/alice/1 /{p}/home/alice/same
chown 1234:2345 /{p}/home/alice/2
chmod 4751 /{p}/home/alice/2
setfattr -n user.note -v 'an attribute' /{p}/home/alice/3
zfs create -o quota=100M -o atime=off {p}/home/alice/deep
zfs set com.example:lines="$(printf 'one\\nand\\ttwo')" {p}/home/alice/deep
dd if=/dev/urandom of=/{p}/home/alice/deep/noise bs=64k count=20 2>/dev/null
mkdir -p '/{p}-mnt/ünïcode place' # zfs itself makes such folders only in a UTF-8 locale
zfs create -o mountpoint='/{p}-mnt/ünïcode place' {p}/elsewhere
echo elsewhere > '/{p}-mnt/ünïcode place/file'
zfs create -V 8M -o volblocksize=16k {p}/vol
zfs create {p}/vms
zfs create -s -V 32M {p}/vms/disk1
zfs create -s -V 32M {p}/vms/disk2
until [ -b /dev/zvol/{p}/vms/disk1 ]; do sleep 0.2; done
dd if=/dev/urandom of=/dev/zvol/{p}/vms/disk1 bs=64k count=9 seek=3 2>/dev/null
dd if=/dev/urandom of=/tmp/pool-key bs=32 count=1 2>/dev/null
zfs create -o encryption=on -o keyformat=raw -o keylocation=file:///tmp/pool-key {p}/secret
zfs create {p}/secret/inner
echo hidden > /{p}/secret/inner/file
zfs snapshot {p}/home/bob@before
zfs clone {p}/home/bob@before {p}/bob-clone
echo cloned > /{p}/bob-clone/more
zfs snapshot {p}/secret/inner@before
zfs clone {p}/secret/inner@before {p}/secret/clone
echo hidden, too > /{p}/secret/clone/more
zfs snapshot {p}/vms/disk1@before
zfs clone {p}/vms/disk1@before {p}/vms/clone
zfs create -o offsite:backup=off {p}/scratch
zfs create {p}/scratch/below
zfs create -o offsite:backup=on {p}/scratch/kept
zfs create {p}/cache
echo root > /{p}/file-of-the-root
sync
"""
UNLOCK = """
for name in {back}/secret {back}/secret/inner {back}/secret/clone "{back}/secret/in side"; do
    zfs load-key -L file:///tmp/pool-key "$name"
done
zfs list -Ho mounted,canmount,name -t filesystem -r {back} | while read -r is can name; do
    [ "$is $can" != "no on" ] || zfs mount "$name"
done
"""
HASHES = """
while read -r name; do
    zfs get -Ho value mounted,mountpoint "{root}$name" | {{
        read -r mounted
        read -r place
        echo "$name $mounted"
        (
            cd "$place"
            find . -xdev -type f -exec sha256sum {{}} + | sort
            # Below the pool's own there are folders that others were mounted on.
            [ -z "$name" ] || find . -xdev -type d -exec stat -c '%d %n %f %u %g' {{}} + |
                sed -n "s/^$(stat -c %d .) //p" | sort # none where another filesystem begins
            find . -xdev ! -type d -exec stat -c '%n %f %s %u %g %y %h %N' {{}} + | sort
            find . -xdev -exec getfattr -hdm - {{}} + | sort
        )
    }}
done <<'END'
{names}
END
"""
# zfs itself makes such folders only in a UTF-8 locale.
HOME = """
mkdir -p '{place}'
zfs create -o mountpoint='{place}' {root}
for name in a a/deep never last; do
    mkdir -p "{place}/$name"
    zfs create "{root}/$name"
    echo "$name" >"{place}/$name/file"
done
dd if=/dev/urandom of='{place}/last/noise' bs=1M count=12 2>/dev/null
zfs create -o canmount=noauto {root}/later
zfs create -o canmount=off -o mountpoint=none {root}/holder
zfs unmount {root}/never
zfs set canmount=off {root}/never
sync
"""
SMALL = """
zfs create -o compression=zstd -o com.example:note='two words' {data}
zfs create {data}/a
zfs create -o quota=100M -o mountpoint=/{pool}-special {data}/a/deep
zfs create -o offsite:backup=off {data}/off
zfs create -o offsite:backup=on {data}/off/on
zfs create -s -V 16M -o volblocksize=16k {data}/vol
zfs snapshot {data}/a@clonable
zfs clone {data}/a@clonable {data}/clone
zfs snapshot {data}/vol@clonable
zfs clone {data}/vol@clonable {data}/vol-clone
for d in {data} {data}/a {data}/off/on {data}/clone; do echo $d > /$d/file; done
echo deep > /{pool}-special/file
sync
"""


@pytest.fixture
def tree(world: World, pool: str) -> list[str]:
    """A pool of 30 datasets; the names of the 28 that are to be backed up."""
    world.machine.script(TREE.format(p=pool))
    for name in ODD:
        world.machine.run("zfs", "create", f"{pool}/{name}")
        world.machine.script(f"echo '{name}' > '/{pool}/{name}/file'")
    listed = world.machine.run("zfs", "list", "-Ho", "name", "-r", pool).stdout.splitlines()
    assert len(listed) == 30
    left_out = {f"{pool}/scratch", f"{pool}/scratch/below"}
    return [name for name in listed if name not in left_out]


def backup(world: World, *args: str, status: int = 0) -> Any:
    return world.offsite("--backup", *args, "--json", status=status).json


def snapshots(world: World, pool: str, name: str) -> dict[str, int]:
    """Dataset and createtxg of all snapshots of this name."""
    columns = ("-Hpo", "name,createtxg", "-t", "snapshot", "-r", pool)
    rows = [
        line.split("\t") for line in world.machine.run("zfs", "list", *columns).stdout.split("\n")
    ]
    return {row[0][: -len(name) - 1]: int(row[1]) for row in rows if row[0].endswith(f"@{name}")}


def test_a_pool_of_many_datasets_with_one_command(world: World, pool: str, tree: list[str]) -> None:
    """All at one moment, what is off left out; the second run sends only what changed."""
    done = backup(world, f"{pool}@s", "--exclude", "cache")
    wanted = {name for name in tree if name != f"{pool}/cache"}
    assert len(wanted) == 27
    assert {one["dataset"] for one in done["backups"]} == wanted
    assert done["failed"] == {}
    assert {tuple(one["providers"]) for one in done["backups"]} == {("one", "two")}
    made = snapshots(world, pool, "s")
    assert set(made) == wanted
    assert len(set(made.values())) == 1, "not at one moment"
    rows = world.offsite("--list", "--json").json["backups"]
    assert {row["dataset"] for row in rows if row["complete"]} == wanted
    log = log_of(world)
    assert f"{len(wanted)} of {len(wanted)} datasets are backed up as @s on one and two." in log

    world.machine.script(f"echo more > /{pool}/home/carol/more; sync")
    done = backup(world, f"{pool}/home", "--recursive", "--jobs", "4")
    assert {one["dataset"] for one in done["backups"]} == {f"{pool}/home/carol"}
    still = ("", "/alice", "/alice/deep", "/bob")
    assert set(done["unchanged"]) == {f"{pool}/home{name}" for name in still}
    assert {(one["type"], one["base"]) for one in done["backups"]} == {("incremental", "s")}
    world.offsite("--restore", f"{pool}/home/carol", "--as", f"{pool}/carol")
    assert world.facts(f"{pool}/carol") == world.facts(f"{pool}/home/carol")

    world.machine.script(f"rm /{pool}/home/carol/more; sync")
    back = f"{pool}/back"
    came = world.offsite("--restore", f"{pool}@s", "--as", back, "--json").json
    assert came["failed"] == {}
    below = {name[len(pool) :] for name in wanted}
    # An empty dataset stands for the one that was left out and had a member below it.
    assert set(names_below(world, back)) == below | {"/scratch"}
    assert {one["target"] for one in came["restores"]} == {back + name for name in below}
    locked = {one["target"] for one in came["restores"] if one["locked"]}
    refused = world.offsite("--restore", f"{pool}/with space", "--json", status=2).json
    assert f"--as '{pool}/with space-restored'" in refused["hint"]
    assert locked == {f"{back}/secret", *(f"{back}/secret/{name}" for name in INNER)}
    # What shared a key has each its own now, and asks for it.
    asks: set[tuple[str, ...]] = {(f"/secret/{name}", "keylocation", "prompt") for name in INNER}
    assert local_properties(world, back, below) == local_properties(world, pool, below) | asks
    assert {one[1] for one in local_properties(world, back, below, set())}.isdisjoint(HELD_BACK)
    assert world.get(f"{back}/home/alice/deep", "com.example:lines") == "one\nand\ttwo"
    world.machine.script(UNLOCK.format(back=back))
    names = "\n".join(sorted(below - VOLUMES))
    one, other = (
        world.machine.script(HASHES.format(root=root, names=names)).stdout for root in (pool, back)
    )
    assert one == other
    assert one.count(" yes\n") == len(below - VOLUMES)
    assert one.count("user.note=") == 1
    disks = [world.content(pool + volume) for volume in sorted(VOLUMES)]
    assert [world.content(back + volume) for volume in sorted(VOLUMES)] == disks
    assert kinds(world, back, below) == kinds(world, pool, below)
    check_clones(world, pool, back)

    comes_home(world, pool, below, asks)
    assert world.machine.script(HASHES.format(root=pool, names=names)).stdout == one
    assert [world.content(pool + volume) for volume in sorted(VOLUMES)] == disks


def test_what_is_set_on_a_tree_or_not(world: World, pool: str) -> None:
    root, below, own = f"{pool}/data", {"", "/a"}, f"/{pool}-own"
    world.machine.script(
        f"zfs create -o compression=zstd -o canmount=noauto -o mountpoint={own} {root}\n"
        f"zfs create -o canmount=noauto -o sharenfs=off -o com.example:note=x {root}/a"
    )
    set_there = local_properties(world, root, below, set())
    assert {one[1] for one in set_there} == {*HELD_BACK, "compression", "com.example:note"} - {
        "sharesmb"
    }
    backup(world, f"{root}@s", "-R")
    inherited = {("/a", "compression", "zstd"), ("/a", "mountpoint", f"{own}/a")}
    wanted = {
        "none": set[tuple[str, ...]](),
        "local": {one for one in set_there if one[1] not in HELD_BACK},
        "all": set_there | inherited,
    }
    for which, those in wanted.items():
        target = f"{pool}/{which}"
        world.offsite("--restore", root, "-R", "--as", target, "--properties", which)
        assert local_properties(world, target, below, set()) == those


def check_clones(world: World, pool: str, back: str) -> None:
    """What was one is a dataset of its own."""
    for clone in ("bob-clone", "secret/clone", "vms/clone"):
        assert world.get(f"{pool}/{clone}", "origin") != "-"
        assert world.get(f"{back}/{clone}", "origin") == "-"


def kinds(world: World, root: str, below: set[str]) -> set[tuple[str, ...]]:
    """What is settled for good when a dataset is made."""
    what = "type,volsize,volblocksize,encryption,keyformat"
    told = world.machine.run("zfs", "get", "-Hpo", "name,property,value", "-r", what, root).stdout
    rows = (
        (name[len(root) :], *rest)
        for name, *rest in (line.split("\t") for line in told.splitlines())
    )
    return {row for row in rows if row[0] in below}


def comes_home(world: World, pool: str, below: set[str], asks: set[tuple[str, ...]]) -> None:
    """When the pool is gone: onto a fresh one of its name, where nothing is held back."""
    before = local_properties(world, pool, below, held_back=set())
    made = kinds(world, pool, below)
    assert ("/elsewhere", "mountpoint", f"/{pool}-mnt/ünïcode place") in before
    world.machine.destroy_pool(pool)
    world.machine.make_pool(pool)
    came = world.offsite("--restore", f"{pool}@s", "--json").json
    assert (came["failed"], len(came["restores"])) == ({}, len(below))
    assert local_properties(world, pool, below, held_back=set()) == before | asks
    assert kinds(world, pool, below) == made
    world.machine.script(UNLOCK.format(back=pool))


def local_properties(
    world: World, root: str, below: set[str], held_back: set[str] = HELD_BACK
) -> set[tuple[str, ...]]:
    """Dataset, property and value: what was set on each one itself."""
    asked = ("-Hp", "-s", "local", "-o", "name,property,value", "-t", "filesystem,volume", "-r")
    told = world.machine.run("zfs", "get", *asked, "all", root).stdout.splitlines()
    found = [(name[len(root) :], *rest) for name, *rest in (line.split("\t") for line in told)]
    return {one for one in found if one[0] in below and one[1] not in held_back}


def test_one_dataset_fails_and_the_others_do_not(world: World, pool: str) -> None:
    """Somebody else is at one of them: it is named, the status is partial."""
    world.machine.script(f"for d in a b c; do zfs create {pool}/$d; touch /{pool}/$d/f; done")
    world.fill(f"{pool}/b", noise=8)
    running = world.start("--backup", f"{pool}/b@long", RCLONE_FLAGS="--bwlimit 300k")
    wait_for((world.home / "one/offsite/backups").exists)
    done = world.offsite("--backup", pool, "--json", status=3)
    assert {one["dataset"] for one in done.json["backups"]} == {pool, f"{pool}/a", f"{pool}/c"}
    assert list(done.json["failed"]) == [f"{pool}/b"]
    assert "Another offsite backup is already running" in done.json["failed"][f"{pool}/b"]
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert len(backup(world, pool, "--no-recursive")["backups"]) == 1


def test_an_interrupted_set_goes_on(world: World, pool: str) -> None:
    """Also with what was not begun yet, at the moment of the first run."""
    world.machine.script(f"for d in a b c; do zfs create {pool}/$d; echo 1 > /{pool}/$d/f; done")
    world.fill(f"{pool}/b", noise=8)
    running = world.start("--backup", pool, "--jobs", "1", RCLONE_FLAGS="--bwlimit 500k")
    wait_for(lambda: world.receipts() >= 3 or running.poll() is not None)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    world.machine.script(f"echo 2 > /{pool}/c/f; sync")
    before = {row["dataset"]: row for row in world.offsite("--list", "--json").json["backups"]}
    assert before[f"{pool}/a"]["complete"]
    assert not before[f"{pool}/b"]["complete"]
    assert f"{pool}/c" not in before
    done = {one["dataset"]: one for one in backup(world, pool)["backups"]}
    assert "Going on with the interrupted backup of" in log_of(world)
    assert {one["snapshot"] for one in done.values()} == {before[f"{pool}/a"]["snapshot"]}
    assert done[f"{pool}/b"]["resumed_chunks"] >= 3
    world.offsite("--restore", f"{pool}/c", "--as", f"{pool}/back")
    world.machine.run("zfs", "mount", f"{pool}/back")
    assert world.machine.run("cat", f"/{pool}/back/f").stdout == "1\n"
    again = backup(world, pool)["backups"]
    assert {one["type"] for one in again} == {"incremental"}
    assert len({one["snapshot"] for one in again} | {before[f"{pool}/a"]["snapshot"]}) == 2


def names_below(world: World, root: str) -> list[str]:
    listed = world.machine.run("zfs", "list", "-Ho", "name", "-r", root).stdout.splitlines()
    return [name[len(root) :] for name in listed]


def test_a_tree_comes_back_whole(world: World, pool: str) -> None:
    """Under another name, with what it was, and again when the run is killed in the middle.

    Meanwhile the machine boots, which mounts what it can, and a service makes its snapshots.
    """
    data = f"{pool}/data"
    world.machine.script(SMALL.format(data=data, pool=pool))
    world.fill(f"{data}/a", noise=6)
    backup(world, f"{data}@s", "-R")
    target = f"{pool}/new"
    running = world.start("--restore", data, "-R", "--as", target, RCLONE_FLAGS="--bwlimit 500k")
    wait_for(lambda: world.exists(f"{target}/a") or running.poll() is not None)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert not world.exists(f"{target}/vol")
    refused = world.offsite("--backup", target, "-R", status=2)
    assert f"nothing in {target} is to be backed up" in refused.stderr  # it is unfinished
    world.machine.script(f"zfs mount -a; zfs snapshot -r {target}@hourly")
    assert world.exists(f"{target}@hourly")
    done = world.offsite("--restore", data, "-R", "--as", target, "--json").json
    assert done["failed"] == {}
    assert done["notes"] == [
        f"{data}/{name} was a clone and is a dataset of its own now"
        for name in ("clone", "vol-clone")
    ]
    world.machine.run("zfs", "snapshot", "-r", f"{target}@daily")
    again = world.offsite("--restore", data, "-R", "--as", target, "--json").json
    assert {(one["updated"], one["chunks"]) for one in again["restores"]} == {(True, 0)}
    below = ["", "/a", "/a/deep", "/clone", "/off", "/off/on", "/vol", "/vol-clone"]
    assert names_below(world, target) == below
    mounted = world.machine.run("zfs", "list", "-Ho", "mounted", "-r", target).stdout.split()
    assert "yes" not in mounted
    for name in ("", "/a", "/clone", "/off/on"):
        assert world.facts(target + name) == world.facts(data + name)
    got = world.machine.run(
        *("zfs", "get", "-Hpo", "value", "compression,com.example:note", f"{target}/a")
    )
    assert got.stdout.splitlines() == ["zstd", "two words"]
    for name in ("quota", "volsize"):
        asked = [f"{target}/a/deep", f"{data}/a/deep"]
        if name == "volsize":
            asked = [f"{target}/vol", f"{data}/vol"]
        one, other = world.machine.run("zfs", "get", "-Hpo", "value", name, *asked).stdout.split()
        assert one == other != "0"
    filesystems = [target + name for name in below if name not in {"/off", "/vol", "/vol-clone"}]
    wanted = ("zfs", "get", "-Ho", "source", "canmount", *filesystems)
    assert {*world.machine.run(*wanted).stdout.split()} == {"default"}
    world.machine.script(f"dd if=/dev/urandom of=/{target}/mine bs=64k count=1; sync")
    refused = world.offsite("--restore", data, "-R", "--as", target, status=2)
    assert f"{target} exists; it was not touched" in refused.stderr
    refused = world.offsite("--restore", f"{data}@t", "-R", "--as", f"{pool}/other", status=2)
    assert "is called @t" in refused.stderr


@pytest.mark.gate
def test_into_another_pool_and_on_from_there(world: World, pool: str) -> None:
    """The pool moves to a new machine's, lives on there, and is backed up in increments."""
    other = f"{pool}other"
    world.machine.script(SMALL.format(data=f"{pool}/data", pool=pool))
    backup(world, f"{pool}@s")
    names = ("", "/a", "/off/on", "/clone", "/vol", "/vol-clone")
    before = [world.content(f"{pool}/data{name}") for name in names]
    world.machine.make_pool(other)
    back = f"{other}/from-{pool}/data"
    try:
        restore = ("--restore", pool, "--as", f"{other}/from-{pool}")
        done = world.offsite(*restore, "--json").json
        assert (done["failed"], len(done["restores"])) == ({}, 8)
        assert [world.content(back + name) for name in names] == before
        assert [world.get(f"{back}{name}", "origin") for name in names] == ["-"] * len(names)
        world.machine.script(f"echo more > /{back}/a/more; rm /{back}/a/file; sync")
        after = world.facts(f"{back}/a")
        (again,) = backup(world, f"{back}/a@next")["backups"]
        assert again["type"] == "incremental"
        world.offsite("--restore", f"{back}/a", "--as", f"{pool}/home-again")
        assert world.facts(f"{pool}/home-again") == after
    finally:
        world.machine.destroy_pool(other)


def test_a_tree_is_brought_up_to_date(world: World, pool: str) -> None:
    """What changed is received, what is new is made, what was set there stays."""
    data, copy = f"{pool}/data", f"{pool}/copy"
    world.machine.script(
        f"zfs create {data}; for name in a a/deep b; do zfs create {data}/$name;"
        f" echo $name > /{data}/$name/file; done; sync"
    )
    backup(world, "-R", f"{data}@one")
    restore = ("--restore", "-R", data, "--as", copy)
    world.offsite(*restore)
    world.machine.script(f"zfs set readonly=on {copy}; zfs set atime=off {copy}/a")
    change = f"echo more >> /{data}/a/file; rm /{data}/a/deep/file; zfs create {data}/new; sync"
    world.machine.script(change)
    backup(world, "-R", f"{data}@two")
    assert "--update" in world.offsite(*restore, status=2).stderr
    done = world.offsite(*restore, "--update", "--json").json
    names = ("", "/a", "/a/deep", "/b", "/new")
    assert [one["target"] for one in done["restores"]] == [copy + name for name in names]
    for name in names:
        assert world.facts(copy + name) == world.facts(data + name)
    assert world.get(f"{copy}/a", "atime") == "off"
    assert world.get(f"{copy}/b@one", "guid") == world.get(f"{data}/b@one", "guid")
    # One of them was written to since: all of it is refused, before the first byte.
    world.machine.script(
        f"echo more >> /{data}/a/file; zfs set readonly=off {copy}/b;"
        f" head -c 9999 /dev/urandom > /{copy}/b/mine; sync"
    )
    mine = world.facts(f"{copy}/b")
    backup(world, "-R", f"{data}@three")
    refused = world.offsite(*restore, "--update", status=2).stderr
    assert f" were written to {copy}/b after " in refused
    assert world.facts(f"{copy}/b") == mine
    assert world.get(f"{copy}/a@three", "guid", check=False) == ""


def test_a_pool_onto_a_fresh_pool_of_its_name(world: World, pool: str) -> None:
    """The root is received into the pool's own, if nothing was ever put there."""
    world.machine.script(
        f"zfs set com.example:who=me {pool}; echo root > /{pool}/file; zfs create {pool}/a;"
        f" dd if=/dev/urandom of=/{pool}/noise bs=1M count=12 2>/dev/null;"
        f" echo a > /{pool}/a/file; sync"
    )
    backup(world, f"{pool}@s")
    facts = {name: world.facts(name) for name in (pool, f"{pool}/a")}
    refused = world.offsite("--restore", pool, status=2)
    assert "exists; it was not touched" in refused.stderr
    world.machine.destroy_pool(pool)
    world.machine.make_pool(pool)
    world.machine.script(f"echo mine > /{pool}/mine; zpool sync {pool}")
    refused = world.offsite("--restore", pool, status=2)
    assert "exists; it was not touched" in refused.stderr
    assert world.machine.run("cat", f"/{pool}/mine").stdout == "mine\n"
    world.machine.script(f"rm /{pool}/mine; zpool sync {pool}")
    plan = world.offsite("--restore", pool, "--dry-run").stdout
    assert "2 of 2 datasets would be restored" in plan
    # Cut off in the root, gone on with; but not over what was put there meanwhile.
    running = interrupt_restore(world, pool, pool)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    wait_for(lambda: len(world.get(pool, "receive_resume_token", check=False)) > 1)
    world.machine.script(f"zfs mount {pool} || :; echo mine > /{pool}/mine")
    refused = world.offsite("--restore", pool, status=2)
    assert "is not empty any more" in refused.stderr
    assert world.machine.run("cat", f"/{pool}/mine").stdout == "mine\n"
    world.machine.script(f"rm /{pool}/mine")
    # Nor over a snapshot that was made before the last record of the stream.
    running = interrupt_restore(world, pool, pool)
    world.machine.run("zfs", "snapshot", f"{pool}@sanoid")
    told = running.communicate(timeout=120)[1]
    assert running.returncode == 2, told
    assert f"{pool}@sanoid was made meanwhile, and zfs would destroy it" in told
    world.machine.run("zfs", "destroy", f"{pool}@sanoid")  # it is there
    done = world.offsite("--restore", pool, "--json").json
    assert done["restores"][0]["resumed_chunks"] > 0
    assert [one["target"] for one in done["restores"]] == [pool, f"{pool}/a"]
    assert {name: world.facts(name) for name in facts} == facts
    assert world.get(pool, "com.example:who") == "me"
    # What came back is gone on with, in increments.
    world.machine.script(f"zfs mount {pool}/a 2>/dev/null || :; echo more > /{pool}/a/more; sync")
    again = backup(world, f"{pool}@later")["backups"]
    assert {(one["type"], one["base"]) for one in again} == {("incremental", "s")}
    world.offsite("--restore", f"{pool}/a", "--as", f"{pool}/a-again")  # of two histories the later
    assert world.facts(f"{pool}/a-again") == world.facts(f"{pool}/a")


def test_the_encrypted_root_of_a_pool(world: World, pool: str) -> None:
    """zfs receives into none; all below it comes back, each its own encryption root."""
    key = f"file:///tmp/{pool}-key"
    locked = {"encryption": "on", "keyformat": "raw", "keylocation": key}
    world.machine.script(f"dd if=/dev/urandom of=/tmp/{pool}-key bs=32 count=1 2>/dev/null")
    world.machine.destroy_pool(pool)
    world.machine.make_pool(pool, 128 << 20, **locked)
    world.machine.script(
        f"echo root > /{pool}/file; for d in a a/deep; do zfs create {pool}/$d;"
        f" echo $d > /{pool}/$d/file; done; sync"
    )
    backup(world, f"{pool}@s")
    below = (f"{pool}/a", f"{pool}/a/deep")
    facts = [world.facts(name) for name in (pool, *below)]
    for fresh, came in (locked, (1,)), ({}, (1, 0)):
        world.machine.destroy_pool(pool)
        world.machine.make_pool(pool, 128 << 20, **fresh)
        for chunks in came:  # a second run finds the root in use, and what came
            done = world.offsite("--restore", pool, "--json", status=3).json
            assert [one["target"] for one in done["restores"]] == [*below]
            assert {one["chunks"] for one in done["restores"]} == {chunks}
            assert list(done["failed"]) == [pool]
        if fresh:
            world.machine.run("zfs", "destroy", "-r", f"{pool}/a")
            alone = world.offsite("--restore", pool, "--no-recursive", "--json", status=2).json
            assert "zfs receives nothing encrypted into a pool's root" in alone["error"]
    instead = done["failed"][pool].partition("by itself: offsite ")[2].replace("/NAME", "/root")
    world.offsite(*instead.split())
    for name in (f"{pool}/root", *below):
        world.machine.run("zfs", "load-key", "-L", key, name)
    root, *others = (world.facts(name) for name in (f"{pool}/root", *below))
    root = re.sub(r"^\./a .*\n", "", root, flags=re.MULTILINE)  # where a was mounted
    assert [root, *others] == facts


def test_a_tree_comes_home_and_nothing_mounts(world: World, pool: str) -> None:
    """Not even what inherits its mountpoint. Cut off first, and begun anew."""
    root, place = f"{pool}/srv", f"/{pool}-srv/ünïcode place"
    world.machine.script(HOME.format(root=root, place=place))
    backup(world, f"{root}@s", "-R")
    names = names_below(world, root)
    before = {name: places(world, root + name) for name in names}
    hashes = HASHES.format(root=root, names="\n/a\n/a/deep\n/last")
    files = world.machine.script(hashes).stdout
    world.machine.run("zfs", "destroy", "-r", root)
    mounted = world.machine.run("zfs", "mount").stdout

    running = world.start("--restore", root, "-R", RCLONE_FLAGS=SLOW)
    wait_for(lambda: taken_in(world, f"{root}/last") >= 3 * MIB or running.poll() is not None)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    wait_for(lambda: len(world.get(f"{root}/last", "receive_resume_token", check=False)) > 1)
    again = ("--restore", root, "-R", "--restart")
    world.machine.run("zfs", "create", "-o", "canmount=off", f"{root}/a/mine")
    refused = world.offsite(*again, status=2)
    assert f"{root}/a holds more than" in refused.stderr
    assert f"({root}/a/mine); it was not touched" in refused.stderr
    assert len(world.get(f"{root}/last", "receive_resume_token")) > 1
    world.machine.run("zfs", "destroy", f"{root}/a/mine")
    done = world.offsite(*again, "--json").json
    assert [one["resumed_chunks"] for one in done["restores"]] == [0] * len(names)
    assert f"Throwing away what an interrupted restore left in {root}/a/deep" in log_of(
        world, "restore"
    )
    assert {name: places(world, root + name) for name in names} == before
    assert world.machine.run("zfs", "mount").stdout == mounted
    for name in ("", "/a", "/a/deep", "/last"):
        world.machine.run("mkdir", "-p", place + name)
        world.machine.run("zfs", "mount", root + name)
    assert world.machine.script(hashes).stdout == files
    assert files.count(" yes\n") == 4


def places(world: World, name: str) -> str:
    asked = ("zfs", "get", "-Hpo", "property,value", "mountpoint,canmount,sharenfs", name)
    return world.machine.run(*asked).stdout


def test_providers_that_diverged(world: World, pool: str) -> None:
    """Each dataset's increment stands on what each provider has; one send again afterwards."""
    root = f"{pool}/data"
    world.machine.script(f"zfs create {root}; zfs create {root}/a; echo 0 > /{root}/a/f; sync")
    backup(world, f"{root}@s0", "-R", "--provider", "one")
    world.machine.script(f"echo 1 > /{root}/a/f; zfs create {root}/b; echo 1 > /{root}/b/f; sync")
    backup(world, f"{root}@s1", "-R", "--provider", "two")
    world.machine.script(f"for d in a b; do echo 2 > /{root}/$d/f; done; sync")
    done = backup(world, f"{root}@s2", "-R")["backups"]
    told = {(one["dataset"], one["base"], *one["providers"]) for one in done}
    assert told == {
        (root, "s0", "one"),
        (root, "s1", "two"),
        (f"{root}/a", "s0", "one"),
        (f"{root}/a", "s1", "two"),
        (f"{root}/b", None, "one"),
        (f"{root}/b", "s1", "two"),
    }
    world.machine.script(f"echo 3 > /{root}/b/f; sync")
    done = backup(world, f"{root}@s3", "-R")["backups"]
    assert [(one["base"], *one["providers"]) for one in done] == [("s2", "one", "two")] * 3
    for provider in ("one", "two"):
        back = f"{pool}/{provider}"
        restored = world.offsite(
            *("--restore", root, "-R", "--as", back, "--provider", provider, "--json")
        ).json
        assert {one["snapshot"] for one in restored["restores"]} == {"s3"}
        world.machine.script(f"for d in '' /a /b; do zfs mount {back}$d; done")
        assert world.machine.run("cat", f"/{back}/a/f", f"/{back}/b/f").stdout == "2\n3\n"


# An OpenZFS whose disk has gone bad below one dataset.
BAD_ZFS = """#!/bin/sh
case "$*" in
*-nP*) ;;
"send "*/b@*) [ ! -e /tmp/bad-disk ] || { echo "warning: cannot send: I/O error" >&2; exit 1; } ;;
esac
exec zfs "$@"
"""


def test_what_failed_does_not_hold_up_the_others(world: World, pool: str) -> None:
    """The next run is of a new moment; and a damaged backup keeps no other from coming back."""
    bad = world.program("bad", BAD_ZFS)
    world.machine.script(f"for d in a b c; do zfs create {pool}/$d; echo $d > /{pool}/$d/f; done")
    world.machine.script(": > /tmp/bad-disk")
    first = world.offsite("--backup", pool, "--json", status=3, ZFS_COMMAND=bad).json
    assert list(first["failed"]) == [f"{pool}/b"]
    assert "unreadable blocks" in first["failed"][f"{pool}/b"]
    second = world.offsite("--backup", pool, "--json", status=3, ZFS_COMMAND=bad).json
    assert list(second["failed"]) == [f"{pool}/b"]
    # Nothing has changed: one is stored all the same, to tell of the others.
    assert [one["dataset"] for one in second["backups"]] == [pool]
    assert set(second["unchanged"]) == {f"{pool}/a", f"{pool}/c"}
    assert second["backups"][0]["snapshot"] != first["backups"][0]["snapshot"]
    world.machine.script("rm /tmp/bad-disk")
    third = backup(world, pool)
    assert third["failed"] == {}
    # What b had begun is finished, and then it is of the same moment as all.
    assert [one["dataset"] for one in third["backups"]] == [f"{pool}/b"] * 2
    assert set(third["unchanged"]) == {pool, f"{pool}/a", f"{pool}/c"}

    stored = [one for one in third["backups"] if one["dataset"] == f"{pool}/b"][-1]
    for place in ("one", "two"):
        path = (
            world.home / place / f"offsite/backups/{stored['backup_id']}/chunk-00000000.zfs.zst.age"
        )
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        path.write_bytes(damaged)
    target = f"{pool}/back"
    done = world.offsite("--restore", pool, "--as", target, "--json", status=3).json
    assert list(done["failed"]) == [f"{target}/b"]
    assert "is not the one that was stored" in done["failed"][f"{target}/b"]
    for name in ("a", "c"):
        world.machine.run("zfs", "mount", f"{target}/{name}")
        assert world.machine.run("cat", f"/{target}/{name}/f").stdout == f"{name}\n"
